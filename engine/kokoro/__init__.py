"""Kokoro-82M behind the engine's interface: a small neural voice for any CPU, without CSM and without torch."""
