"""What a voice decoder and the service say to each other over a pair of pipes. Standard library only.

service -> decoder   REQUEST (most seconds, name of the kind, bytes that follow), then the recording
decoder -> service   READY once, then for each recording ANSWER (outcome, channels, bytes that follow), then
                     samples (interleaved float32 at 24 kHz) or, for any other outcome than DECODED, a message
"""

from __future__ import annotations

import struct
from typing import IO

REQUEST = struct.Struct("<d8sQ")
ANSWER = struct.Struct("<cBQ")
READY = b"ready"

DECODED = b"="
UNDECODABLE = b"?"
NO_AUDIO = b"0"
TOO_LONG = b">"

RATE = 24_000  # Hz, of what comes back
MAX_CHANNELS = 8


def read_exactly(source: IO[bytes], size: int) -> bytes:
    """Raises EOFError where the other side has gone before it said that much."""
    data = source.read(size)
    if len(data) != size:
        raise EOFError(f"{len(data)} bytes came where {size} were to come")
    return data
