"""Audio effects applied between the engine and the encoder: playback speed, watermark, sample rate."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from engine import SAMPLE_RATE

from ..settings import Settings
from .encoders import Encoder, Format
from .encoders.base import Samples
from .watermark import Watermarker


class Effect(Protocol):
    """A streaming effect on the samples of one response: float32 (samples,) in and out.

    Its input is at 24 kHz, and so is its output unless it resamples.
    """

    def push(self, samples: Samples) -> Samples: ...

    def flush(self) -> Samples: ...


class EffectChain:
    """Several effects in sequence, as one effect."""

    def __init__(self, effects: list[Effect]) -> None:
        self._effects = effects

    def push(self, samples: Samples) -> Samples:
        for effect in self._effects:
            samples = effect.push(samples)
        return samples

    def flush(self) -> Samples:
        tail: Samples = np.zeros(0, np.float32)
        for effect in self._effects:
            tail = np.concatenate([effect.push(tail), effect.flush()])
        return tail


def resolve_watermark_key(
    settings: Settings, requested: bool | None = None, request_key: bytes | None = None
) -> bytes | None:
    """The key to watermark a response with; None if it is not watermarked.

    requested: what the request asks for. None is unspecified: then a key in the request asks for a watermark.
    With CSM_WATERMARK_ENABLED every response is watermarked, whatever the request says.
    """
    if not (settings.csm_watermark_enabled or (request_key is not None if requested is None else requested)):
        return None
    return settings.watermark_key if request_key is None else request_key


def make_effect(
    speed: float = 1.0, watermark_key: bytes | None = None, sample_rate: int = SAMPLE_RATE
) -> Effect | None:
    """The effect that changes the speed, adds a watermark and resamples; None if nothing is needed.

    The watermark follows the speed, since its detection depends on timing.
    """
    effects: list[Effect] = []
    if speed != 1.0:
        from .time_stretch import TimeStretch  # imports PyAV, which wav and raw_pcm at normal speed do not need

        effects.append(TimeStretch(speed))
    if watermark_key is not None:
        effects.append(Watermarker(watermark_key))
    if sample_rate != SAMPLE_RATE:
        from .encoders.resampler import Resampler

        effects.append(Resampler(sample_rate))
    return EffectChain(effects) if effects else None


def with_effects(audio_format: Format, speed: float = 1.0, watermark_key: bytes | None = None) -> Format:
    """A format whose encoders change the speed and add a watermark before they encode."""
    if speed == 1.0 and watermark_key is None:
        return audio_format
    name = audio_format.name + "+speed" * (speed != 1.0) + "+mark" * (watermark_key is not None)
    return replace(
        audio_format,
        name=name,
        create_encoder=lambda: _EffectEncoder(make_effect(speed, watermark_key), audio_format.create_encoder()),
    )


class _EffectEncoder:
    """An encoder behind an effect. It returns nothing, not even a header, before the effect returns samples."""

    def __init__(self, effect: Effect | None, encoder: Encoder) -> None:
        self._effect = effect or EffectChain([])
        self._encoder = encoder

    def encode(self, samples: Samples) -> bytes:
        processed = self._effect.push(samples)
        return self._encoder.encode(processed) if processed.size else b""

    def flush(self) -> bytes:
        tail = self._effect.flush()
        return (self._encoder.encode(tail) if tail.size else b"") + self._encoder.flush()
