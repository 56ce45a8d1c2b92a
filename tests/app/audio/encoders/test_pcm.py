from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from app.audio.encoders.pcm import FULL_SCALE, RawPcmEncoder, to_int16, to_unit_range


@pytest.mark.parametrize(
    ("sample", "integer"),
    [
        (0.0, 0),
        (1.0, FULL_SCALE),
        (-1.0, -FULL_SCALE),
        (1.0001, FULL_SCALE),
        (-40.0, -FULL_SCALE),
        (np.finfo(np.float32).max, FULL_SCALE),
        (np.inf, FULL_SCALE),
        (-np.inf, -FULL_SCALE),
        (np.nan, 0),
        (0.5, 16384),
    ],
)
def test_conversion_of_one_sample(sample: float, integer: int) -> None:
    assert to_int16(np.array([sample], np.float32)).tolist() == [integer]


@given(arrays(np.float32, st.integers(0, 50), elements=st.floats(width=32)))
def test_conversion_never_wraps_around(samples: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
    integers = to_int16(samples)

    assert integers.shape == samples.shape
    assert (np.sign(integers) * np.nan_to_num(samples) >= 0).all()
    assert (np.abs(to_unit_range(samples)) <= 1).all()


def test_integers_are_little_endian() -> None:
    assert RawPcmEncoder().encode(np.array([1 / FULL_SCALE], np.float32)) == b"\x01\x00"


def test_raw_pcm_has_no_delay() -> None:
    encoder = RawPcmEncoder()

    assert len(encoder.encode(np.zeros(1921, np.float32))) == 2 * 1921
    assert encoder.flush() == b""
