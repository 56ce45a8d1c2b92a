"""Language models that answer in a conversation."""
