from __future__ import annotations

import numpy as np
import pytest

from app.audio.encoders import FORMATS
from app.audio.postprocessing import make_effect, resolve_watermark_key, with_effects
from app.audio.watermark import embed
from app.settings import Settings
from app.watermark_key import PUBLIC_KEY
from engine import SAMPLE_RATE

KEY = bytes([1, 2, 3, 4, 5])
NOISE = (0.1 * np.random.default_rng(0).standard_normal(SAMPLE_RATE)).astype(np.float32)


def test_no_effect_leaves_the_format_unchanged() -> None:
    assert with_effects(FORMATS["wav"]) is FORMATS["wav"]
    assert make_effect() is None


@pytest.mark.parametrize("piece", [100, 1920, 24_000])
def test_an_encoder_with_effects_encodes_the_processed_samples(piece: int) -> None:
    encoder = with_effects(FORMATS["raw_pcm"], watermark_key=KEY).create_encoder()
    data = b"".join(encoder.encode(NOISE[start : start + piece]) for start in range(0, NOISE.size, piece))
    data += encoder.flush()
    plain = FORMATS["raw_pcm"].create_encoder()
    whole = np.frombuffer(plain.encode(embed(NOISE, KEY)), "<i2").astype(int)
    assert np.abs(np.frombuffer(data, "<i2") - whole).max() <= 1


def test_speed_and_watermark_combine() -> None:
    audio_format = with_effects(FORMATS["wav"], speed=2.0, watermark_key=KEY)
    assert audio_format.name not in FORMATS  # so that it is not mistaken for the plain format
    assert audio_format.media_type == "audio/wav"
    encoder = audio_format.create_encoder()
    assert encoder.encode(NOISE[:10]) == b""  # no header before there is audio
    data = encoder.encode(NOISE[10:]) + encoder.flush()
    assert data[:4] == b"RIFF"
    assert data.count(b"RIFF") == 1
    assert len(data) == 44 + 2 * NOISE.size // 2


def test_a_response_without_audio_still_has_its_header() -> None:
    assert with_effects(FORMATS["wav"], speed=2.0).create_encoder().flush()[:4] == b"RIFF"


@pytest.mark.parametrize(
    ("enabled", "requested", "request_key", "key"),
    [
        (False, None, None, None),
        (False, True, None, PUBLIC_KEY),
        (False, None, KEY, KEY),
        (False, False, KEY, None),
        (True, None, None, PUBLIC_KEY),
        (True, False, None, PUBLIC_KEY),  # the setting overrides the request
        (True, True, KEY, KEY),
    ],
)
def test_the_watermark_key_of_a_response(
    settings: Settings, enabled: bool, requested: bool | None, request_key: bytes | None, key: bytes | None
) -> None:
    settings = settings.model_copy(update={"csm_watermark_enabled": enabled})
    assert resolve_watermark_key(settings, requested, request_key) == key
