"""Creates encoders, and reports formats that this machine cannot encode as a failed component."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import numpy as np

from engine import FRAME_SAMPLES

from ..errors import ComponentFailed
from ..observability.components import Components
from .encoders import Encoder, EncoderError, Format

_FALLBACK_FORMAT = "wav"  # needs no codec


def create_encoder(audio_format: Format, components: Components) -> Encoder:
    """The encoder of one response. Raises ComponentFailed if this machine cannot create it."""
    try:
        encoder = audio_format.create_encoder()
    except Exception as error:
        raise _report_failure(audio_format, components, error) from error
    components.report("encoders", None, item=audio_format.name)
    return encoder


def check_encoders(formats: Iterable[Format], components: Components) -> None:
    """Encode one frame in each format, and report those that fail."""
    for audio_format in formats:
        with suppress(ComponentFailed):  # already reported
            encoder = create_encoder(audio_format, components)
            try:
                encoder.encode(np.zeros(FRAME_SAMPLES, np.float32))
                encoder.flush()
            except Exception as error:
                raise _report_failure(audio_format, components, error) from error


def _report_failure(audio_format: Format, components: Components, error: Exception) -> ComponentFailed:
    reason = str(error) if isinstance(error, EncoderError) else f"{type(error).__name__}: {error}"
    components.report("encoders", reason, item=audio_format.name)
    return ComponentFailed(
        f"format {audio_format.name} cannot be encoded by this service: its operator finds the reason in its log and "
        f"in /health. Use another format, such as {_FALLBACK_FORMAT}",
        code="encoder_failed",
    )
