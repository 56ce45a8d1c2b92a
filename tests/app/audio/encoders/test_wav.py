from __future__ import annotations

import io
import wave

import numpy as np
import pytest

from app.audio.encoders import wav_file
from app.audio.encoders.wav import HEADER_BYTES, UNKNOWN_LENGTH, WavEncoder, wav_header


@pytest.mark.parametrize("samples", [0, 1, 1920, 24_001])
@pytest.mark.parametrize("sample_rate", [24_000, 44_100])
def test_a_finished_file_has_its_exact_length(samples: int, sample_rate: int) -> None:
    data = wav_file(np.full(samples, 0.25, np.float32), sample_rate)

    assert len(data) == HEADER_BYTES + 2 * samples
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    with wave.open(io.BytesIO(data)) as file:
        assert file.getparams()[:4] == (1, 2, sample_rate, samples)
        assert np.frombuffer(file.readframes(samples), "<i2").tolist() == [round(0.25 * 32767)] * samples


def test_the_length_of_a_stream_is_unknown() -> None:
    data = WavEncoder().encode(np.zeros(10, np.float32))

    riff_size, data_size = (int.from_bytes(data[at : at + 4], "little") for at in (4, 40))
    assert (riff_size, data_size) == (UNKNOWN_LENGTH, UNKNOWN_LENGTH)
    assert len(data) == HEADER_BYTES + 20


def test_more_than_4_gib_is_rejected() -> None:
    with pytest.raises(ValueError, match="4 GiB"):
        wav_header(UNKNOWN_LENGTH)
