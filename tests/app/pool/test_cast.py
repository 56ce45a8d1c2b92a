from __future__ import annotations

from app.pool.cast import distinct_speakers


def test_built_in_speakers_keep_their_ids_and_recordings_get_the_lowest_free_ones() -> None:
    assert distinct_speakers([None]) == [0]
    assert distinct_speakers([None, None, None]) == [0, 1, 2]
    assert distinct_speakers([None, 0, None, 7]) == [1, 0, 2, 7]
    assert distinct_speakers([3, None, 1, None, None, None]) == [3, 0, 1, 2, 4, 5]
