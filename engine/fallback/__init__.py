"""Fallback engine without model weights: espeak-ng behind the engine's interface."""
