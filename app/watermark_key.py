"""The key of a watermark: five numbers from 0 to 255."""

from __future__ import annotations

KEY_NUMBERS = 5
PUBLIC_KEY = bytes((212, 211, 146, 56, 201))  # CSM's own, published in its sources


def parse_key(text: str) -> bytes:
    """A key written as five comma-separated numbers from 0 to 255. Raises ValueError."""
    try:
        key = bytes(int(number) for number in text.split(","))
    except ValueError:
        key = b""
    if len(key) != KEY_NUMBERS:
        raise ValueError(f"it must be {KEY_NUMBERS} numbers from 0 to 255, separated by commas")
    return key
