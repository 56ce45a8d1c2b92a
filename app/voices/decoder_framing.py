"""Message framing between the service and its decoder process, over a pair of pipes. Standard library only.

service -> decoder   REQUEST (maximum seconds, container format, payload bytes), then the recording
decoder -> service   READY once, then for each recording ANSWER (outcome, channels, clipped share, payload bytes), then
                     samples (interleaved float32 at 24 kHz) or, for any outcome other than DECODED, a message
"""

from __future__ import annotations

import struct
from typing import IO

REQUEST = struct.Struct("<d8sQ")
ANSWER = struct.Struct("<cBdQ")
READY = b"ready"

DECODED = b"="
UNDECODABLE = b"?"
NO_AUDIO = b"0"
TOO_LONG = b">"

RATE = 24_000  # Hz, of the decoded samples
MAX_CHANNELS = 8


def read_exactly(source: IO[bytes], size: int) -> bytes:
    """Raises EOFError if the other side closes the pipe before it has sent `size` bytes."""
    data = source.read(size)
    if len(data) != size:
        raise EOFError(f"expected {size} bytes, got {len(data)}")
    return data
