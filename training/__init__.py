"""Teaching CSM: from clips and their words to weights that the service speaks with."""
