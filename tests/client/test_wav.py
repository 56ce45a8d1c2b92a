from __future__ import annotations

import pytest
from csm_serve_client.wav import fill_in_sizes

from app.audio.encoders.wav import wav_header


@pytest.mark.parametrize("samples", [b"", b"\1\2", b"\1\2" * 999])
def test_unknown_sizes_are_filled_in(samples: bytes) -> None:
    assert fill_in_sizes(wav_header(None) + samples) == wav_header(len(samples)) + samples


@pytest.mark.parametrize("other", [b"", b"RIFF", wav_header(4) + b"1234", b"ID3" + bytes(60)])
def test_other_data_is_unchanged(other: bytes) -> None:
    assert fill_in_sizes(other) == other
