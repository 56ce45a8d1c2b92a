"""Encoders as answers need them: those that cannot be made are reported, and answered with what to do."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import numpy as np

from engine import FRAME_SAMPLES

from ..errors import ComponentFailed
from ..observability.components import Components
from .encoders import Encoder, EncoderError, Format

_ALWAYS = "wav"  # needs no codec


def create_encoder(audio: Format, parts: Components) -> Encoder:
    """The encoder of one answer. Raises ComponentFailed where this machine cannot make it."""
    try:
        encoder = audio.make()
    except Exception as error:
        raise _failed(audio, parts, error) from error
    parts.report("encoders", None, item=audio.name)
    return encoder


def check_encoders(formats: Iterable[Format], parts: Components) -> None:
    """Encode a frame in each of these formats, and report those that fail."""
    for audio in formats:
        with suppress(ComponentFailed):  # it was reported
            encoder = create_encoder(audio, parts)
            try:
                encoder.encode(np.zeros(FRAME_SAMPLES, np.float32))
                encoder.flush()
            except Exception as error:
                raise _failed(audio, parts, error) from error


def _failed(audio: Format, parts: Components, error: Exception) -> ComponentFailed:
    why = str(error) if isinstance(error, EncoderError) else f"{type(error).__name__}: {error}"
    parts.report("encoders", why, item=audio.name)
    return ComponentFailed(
        f"format {audio.name} cannot be made by this service: its operator finds the reason in its log and in /health. "
        f"Take another format, such as {_ALWAYS}",
        code="encoder_failed",
    )
