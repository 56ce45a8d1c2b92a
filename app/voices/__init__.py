"""Voices: recordings on disk, what decodes them, and the speakers CSM has of itself."""
