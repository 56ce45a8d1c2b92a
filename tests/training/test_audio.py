"""Decoding: every sample rate, channel count and format gives the same signal; no other file is opened."""

from __future__ import annotations

import hashlib
from pathlib import Path

import av
import numpy as np
import pytest

from tests.app.voices.recordings import TAGGED, recording, tagged
from training.audio import Samples, read_audio
from training.errors import RecordingsError

from .synthetic_audio import RATE, speech, write_wav


def tone(rate: int, seconds: float = 1.0) -> Samples:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def encode(path: Path, samples: Samples, rate: int, codec: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100])
def test_any_wav_becomes_mono_at_24_khz(rate: int, channels: int, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(rate), rate, channels)
    audio = read_audio(path)
    assert (audio.sample_rate, audio.channels) == (rate, channels)
    assert audio.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert audio.samples.dtype == np.float32
    assert audio.seconds == pytest.approx(1, abs=0.01)
    inside = slice(500, 23_000)  # resamplers have edge effects
    np.testing.assert_allclose(audio.samples[inside], tone(RATE)[inside], atol=0.01)


@pytest.mark.parametrize(("suffix", "codec"), [("flac", "flac"), ("mp3", "libmp3lame"), ("ogg", "libopus")])
def test_compressed_formats_are_decoded(suffix: str, codec: str, tmp_path: Path) -> None:
    path = encode(tmp_path / f"a.{suffix}", tone(48_000, 2.0), 48_000, codec)
    audio = read_audio(path)
    assert audio.seconds == pytest.approx(2, abs=0.1)
    assert audio.samples[RATE // 2 : -RATE // 2].std() == pytest.approx(0.5 / 2**0.5, rel=0.05)


@pytest.mark.parametrize("kind", TAGGED)
def test_tags_that_are_no_utf_8_harm_nothing(kind: str, tmp_path: Path) -> None:
    plain, titled = tmp_path / f"plain.{kind}", tmp_path / f"titled.{kind}"
    plain.write_bytes(recording(kind))
    titled.write_bytes(tagged(kind))
    assert np.array_equal(read_audio(titled).samples, read_audio(plain).samples)


@pytest.mark.parametrize(
    "data", [b"", b"no sound at all", b"ffconcat version 1.0\nfile other.wav\n", b"RIFF\x24\0\0\0WAVEfmt "]
)
def test_invalid_files_are_refused(data: bytes, tmp_path: Path) -> None:
    write_wav(tmp_path / "other.wav", tone(RATE))
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(RecordingsError, match=r"cannot be decoded|contains no audio frames"):
        read_audio(tmp_path / "a.wav")


def test_peak_share_counts_samples_at_the_final_peak(tmp_path: Path) -> None:
    loud = speech(2.0) * 2  # a fifth of it is beyond 0.25
    clipped = read_audio(write_wav(tmp_path / "clipped.wav", np.clip(loud, -0.25, 0.25)))
    assert clipped.peak_share == pytest.approx((np.abs(loud) >= 0.25 * 0.999).mean(), rel=0.01)
    assert read_audio(write_wav(tmp_path / "whole.wav", speech(2.0))).peak_share < 1e-3
