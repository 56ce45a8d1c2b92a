from __future__ import annotations

import pytest

from app.watermark_key import parse_key


def test_a_key_is_five_numbers_from_0_to_255() -> None:
    assert parse_key("1, 2,3,4 ,5") == bytes([1, 2, 3, 4, 5])
    for text in ("", "1,2,3,4", "1,2,3,4,5,6", "1,2,3,4,-5", "1,2,3,4,256", "a,b,c,d,e"):
        with pytest.raises(ValueError, match="5 numbers from 0 to 255"):
            parse_key(text)
