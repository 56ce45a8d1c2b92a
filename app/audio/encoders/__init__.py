"""Audio as bytes: the formats of the service, each an encoder that streams.

Importing this package imports no PyAV; making the encoder of a compressed format does.
"""

from __future__ import annotations

from .base import Encoder, EncoderError
from .formats import FORMATS, Format
from .negotiation import choose_format
from .wav import wav_file

__all__ = ["FORMATS", "Encoder", "EncoderError", "Format", "choose_format", "wav_file"]
