"""The workers as one: a board that all of them see, and speech that any of them can give."""
