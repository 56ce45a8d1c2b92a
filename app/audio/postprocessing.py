"""What is done to speech between the engine and its encoder: another speed, a watermark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np

from ..settings import Settings
from .encoders import Encoder, Format
from .encoders.base import Samples
from .watermark import Marker


class Effect(Protocol):
    """Changes the samples of one answer, piece by piece."""

    def push(self, samples: Samples) -> Samples: ...

    def flush(self) -> Samples: ...


MakeEffect = Callable[[], Effect]


class Chain:
    """Effects one after the other, as one effect."""

    def __init__(self, effects: list[Effect]) -> None:
        self._effects = effects

    def push(self, samples: Samples) -> Samples:
        for effect in self._effects:
            samples = effect.push(samples)
        return samples

    def flush(self) -> Samples:
        rest: Samples = np.zeros(0, np.float32)
        for effect in self._effects:
            rest = np.concatenate([effect.push(rest), effect.flush()])
        return rest


def key_for(settings: Settings, wanted: bool | None = None, own_key: bytes | None = None) -> bytes | None:
    """The key that an answer is marked with; None if it is not to be marked.

    wanted: what the request says; None is nothing, and then a key of its own says it. A service that marks all
    speech marks it whatever the request says.
    """
    if not (settings.csm_watermark_enabled or (own_key is not None if wanted is None else wanted)):
        return None
    return settings.watermark_key if own_key is None else own_key


def make_effect(speed: float = 1.0, key: bytes | None = None) -> Effect | None:
    """The effect that gives speech a speed and the watermark of a key; None where nothing is to be done.

    The mark comes last, since it is found by its timing.
    """
    effects: list[Effect] = []
    if speed != 1.0:
        from .time_stretch import TimeStretch  # needs PyAV, which wav and raw_pcm at their own speed do without

        effects.append(TimeStretch(speed))
    if key is not None:
        effects.append(Marker(key))
    return Chain(effects) if effects else None


def with_effects(audio: Format, speed: float = 1.0, key: bytes | None = None) -> Format:
    """A format whose encoders give speech another speed and a watermark before they encode it."""
    if speed == 1.0 and key is None:
        return audio
    name = audio.name + "+speed" * (speed != 1.0) + "+mark" * (key is not None)
    return replace(audio, name=name, make=lambda: _FinishingEncoder(make_effect(speed, key), audio.make()))


class _FinishingEncoder:
    """An encoder behind an effect. One that has no samples yet sends nothing, not even its header."""

    def __init__(self, effect: Effect | None, encoder: Encoder) -> None:
        self._effect = effect or Chain([])
        self._encoder = encoder

    def encode(self, samples: Samples) -> bytes:
        ready = self._effect.push(samples)
        return self._encoder.encode(ready) if ready.size else b""

    def flush(self) -> bytes:
        rest = self._effect.flush()
        return (self._encoder.encode(rest) if rest.size else b"") + self._encoder.flush()
