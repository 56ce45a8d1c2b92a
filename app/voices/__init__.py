"""Voices: recordings on disk, their sandboxed decoder, and the model's built-in speakers."""
