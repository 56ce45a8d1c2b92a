"""csm-mini: a small CSM that anybody can run, raised from nothing on speech that espeak-ng makes. See README.md."""
