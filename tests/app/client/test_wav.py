from __future__ import annotations

import pytest

from app.audio.encoders.wav import wav_header
from app.client.wav import with_its_length


@pytest.mark.parametrize("samples", [b"", b"\1\2", b"\1\2" * 999])
def test_a_length_that_was_not_known_is_filled_in(samples: bytes) -> None:
    assert with_its_length(wav_header(None) + samples) == wav_header(len(samples)) + samples


@pytest.mark.parametrize("other", [b"", b"RIFF", wav_header(4) + b"1234", b"ID3" + bytes(60)])
def test_everything_else_is_left_alone(other: bytes) -> None:
    assert with_its_length(other) == other
