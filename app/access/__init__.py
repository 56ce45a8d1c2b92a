"""Who may call, and how much: API keys, their limits, and what they have used."""
