"""Measurements on a GPU in one process: `python -m bench.gpu`."""
