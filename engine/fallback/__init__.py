"""The voice that needs no weights: espeak-ng behind the engine's interface."""
