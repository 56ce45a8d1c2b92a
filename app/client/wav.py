"""Fills in the size fields of a streamed wav file."""

from __future__ import annotations

import struct

_HEADER_BYTES = 44
_UNKNOWN = 0xFFFFFFFF  # size field of a streamed header


def fill_in_sizes(wav: bytes) -> bytes:
    """A complete file with its size fields set if they are unknown; otherwise players show hours."""
    if len(wav) < _HEADER_BYTES or wav[:4] + wav[8:12] + wav[36:40] != b"RIFFWAVEdata":
        return wav
    if struct.unpack_from("<I", wav, 40) != (_UNKNOWN,) or len(wav) >= _UNKNOWN:
        return wav
    size = struct.Struct("<I").pack
    return wav[:4] + size(len(wav) - 8) + wav[8:40] + size(len(wav) - _HEADER_BYTES) + wav[_HEADER_BYTES:]
