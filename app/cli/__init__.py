"""The csm-serve command: serve, speak, voices, and the training commands."""
