"""Streaming audio encoders, one for each output format.

Importing this package does not import PyAV; creating the encoder of a compressed format does.
"""

from __future__ import annotations

from .base import Encoder, EncoderError
from .formats import FORMATS, Format
from .negotiation import choose_format
from .wav import wav_file

__all__ = ["FORMATS", "Encoder", "EncoderError", "Format", "choose_format", "wav_file"]
