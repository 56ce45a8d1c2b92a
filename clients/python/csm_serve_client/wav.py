"""Fills in the size fields of a streamed wav file."""

from __future__ import annotations

import struct

MAX_HEADER_BYTES = 58  # of this service's wav files: 44, and 58 with G.711
_UNKNOWN = 0xFFFFFFFF  # size field of a streamed header


def fill_in_sizes(wav: bytes) -> bytes:
    """A complete file with its size fields set if they are unknown; otherwise players show hours."""
    return sized_header(wav[:MAX_HEADER_BYTES], len(wav)) + wav[MAX_HEADER_BYTES:]


def sized_header(head: bytes, file_bytes: int) -> bytes:
    """The first bytes of a wav file with the sizes of a file of that length; unchanged if it has sizes already.

    head: up to MAX_HEADER_BYTES bytes, with all chunk headers up to that of the samples.
    """
    if head[:4] + head[8:12] != b"RIFFWAVE" or file_bytes >= _UNKNOWN:
        return head
    at = 12
    chunks: dict[bytes, int] = {}  # where the content of each chunk begins
    while at + 8 <= len(head) and b"data" not in chunks:
        kind, size = struct.unpack_from("<4sI", head, at)
        chunks[kind] = at + 8
        at += 8 + size
    start = chunks.get(b"data")
    if start is None or struct.unpack_from("<I", head, start - 4) != (_UNKNOWN,):
        return head
    sized = bytearray(head)
    struct.pack_into("<I", sized, 4, file_bytes - 8)
    struct.pack_into("<I", sized, start - 4, file_bytes - start)
    if b"fact" in chunks:  # the number of samples, each of one byte
        struct.pack_into("<I", sized, chunks[b"fact"], file_bytes - start)
    return bytes(sized)
