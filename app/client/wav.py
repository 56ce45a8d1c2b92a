"""The length of a wav file whose header left before anybody knew it."""

from __future__ import annotations

import struct

_HEADER_BYTES = 44
_UNKNOWN = 0xFFFFFFFF  # in a size field: read until the end


def with_its_length(wav: bytes) -> bytes:
    """A whole file with its sizes filled in, where they are missing; without them players show hours."""
    if len(wav) < _HEADER_BYTES or wav[:4] + wav[8:12] + wav[36:40] != b"RIFFWAVEdata":
        return wav
    if struct.unpack_from("<I", wav, 40) != (_UNKNOWN,) or len(wav) >= _UNKNOWN:
        return wav
    size = struct.Struct("<I").pack
    return wav[:4] + size(len(wav) - 8) + wav[8:40] + size(len(wav) - _HEADER_BYTES) + wav[_HEADER_BYTES:]
