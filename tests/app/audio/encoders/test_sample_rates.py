"""Every format at every sample rate that it can carry, and G.711's bits."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from app.audio.encoders import FORMATS, EncoderError
from app.audio.encoders.formats import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, format_at, formats_at
from app.audio.encoders.g711 import G711Encoder
from app.errors import Unprocessable
from engine import FRAME_SAMPLES, SAMPLE_RATE
from engine.types import Samples
from tests.app.audio.encoders.test_formats import G711, PADDING, UNDECLARED_DELAY, chirp

RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
ANY_RATE = ("wav", "raw_pcm", "flac", *G711)


def decode(name: str, data: bytes, rate: int) -> tuple[Samples, int]:
    """float32 (samples,) and the rate that the file has, or was read with where it has none."""
    raw = {"raw_pcm": "s16le", "mulaw": "mulaw", "alaw": "alaw"}.get(name)
    options = {"sample_rate": str(rate), "ch_layout": "mono"} if raw else {}
    hint = "aac" if name == "aac" else raw
    with av.open(io.BytesIO(data), format=hint, options=options) as container:
        resampler = av.AudioResampler("flt", "mono", None)
        frames = [each for frame in container.decode(audio=0) for each in resampler.resample(frame)]
        return np.concatenate([frame.to_ndarray()[0] for frame in frames]), frames[0].sample_rate


@pytest.mark.parametrize("name", FORMATS)
def test_the_audio_of_a_file_has_its_sample_rate(name: str) -> None:
    audio = chirp(10 * FRAME_SAMPLES)
    for rate in RATES:
        if name not in formats_at(rate):
            continue
        audio_format = format_at(name, rate)
        assert audio_format.sample_rate == rate
        encoder = audio_format.create_encoder()
        slices = [encoder.encode(piece) for piece in np.split(audio, 10)]
        if name not in ("mp3", "aac", "fmp4") or rate >= SAMPLE_RATE:  # whose packets take longer at lower rates
            assert len(slices[0]) > 0, rate
        assert any(slices[:5]), rate
        samples, decoded_rate = decode(name, b"".join([*slices, encoder.flush()]), rate)
        assert decoded_rate == (48_000 if name in ("opus", "webm") else rate)
        scale = decoded_rate / SAMPLE_RATE
        extra = samples.size - audio.size * scale
        delay = UNDECLARED_DELAY.get(name, 0) * max(scale, 1)
        assert -2 <= extra <= 4 * (delay + PADDING.get(name, 0) * max(scale, 1)) + 2
        assert 0.3 < np.abs(samples).max() < 1.1  # FFmpeg's AAC overshoots


@pytest.mark.parametrize("rate", RATES)
def test_all_formats_but_those_that_cannot_carry_a_rate(rate: int) -> None:
    missing = {"opus", "webm"} if rate not in (8_000, 12_000, 16_000, 24_000, 48_000) else set()
    assert formats_at(rate).keys() == FORMATS.keys() - missing
    assert formats_at(9_999).keys() == set(ANY_RATE)
    assert formats_at(None) is FORMATS


def test_a_rate_that_a_format_cannot_carry_is_refused_by_name() -> None:
    for name, rate in (("mp3", 9_000), ("opus", 44_100), ("aac", 8_001), ("wav", MIN_SAMPLE_RATE - 1)):
        with pytest.raises(Unprocessable, match=f"sample_rate {rate} cannot be carried by {name}: use ") as caught:
            format_at(name, rate)
        assert caught.value.code == "unsupported_sample_rate"
    assert format_at("flac", MAX_SAMPLE_RATE).sample_rate == MAX_SAMPLE_RATE
    assert format_at("mulaw", None).sample_rate == 8_000


@pytest.mark.parametrize("law", ["mulaw", "alaw"])
def test_g711_keeps_each_of_its_levels(law: str) -> None:
    codes = np.delete(np.arange(256, dtype=np.uint8), 0x7F if law == "mulaw" else [])  # µ-law has a negative zero
    with av.open(io.BytesIO(codes.tobytes()), format=law, options={"sample_rate": "8000"}) as file:
        levels = np.concatenate([frame.to_ndarray().reshape(-1) for frame in file.decode(audio=0)])
    samples = (levels / 32767).astype(np.float32)
    assert G711Encoder("mulaw" if law == "mulaw" else "alaw", 8_000).encode(samples) == codes.tobytes()


@pytest.mark.parametrize(("law", "tag"), [("mulaw", 7), ("alaw", 6)])
def test_a_wav_file_names_its_law(law: str, tag: int) -> None:
    encoder = format_at(f"wav_{law}", 16_000).create_encoder()
    data = encoder.encode(chirp(FRAME_SAMPLES)) + encoder.flush()
    raw = format_at(law, 16_000).create_encoder()
    assert data[58:] == raw.encode(chirp(FRAME_SAMPLES)) + raw.flush()
    assert (data[20], int.from_bytes(data[24:28], "little")) == (tag, 16_000)


def test_an_unknown_law_is_an_encoder_error() -> None:
    with pytest.raises(EncoderError):
        G711Encoder("blaw", 8_000)  # type: ignore[arg-type]
