"""The encoder interface and its error."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]  # (samples,) at 24 kHz, mono


class EncoderError(RuntimeError):
    """An encoder could not be created; the message says what it requires."""


class Encoder(Protocol):
    """Encodes the audio of one response as one file, slice by slice.

    Calls may come from different threads, but never concurrently.
    """

    def encode(self, samples: Samples) -> bytes:
        """The bytes that are ready to send; those of the first call begin with the only header.

        samples: float32 (samples,) at 24 kHz, any number of them. Values beyond -1..1 saturate, NaN becomes 0.
        """
        ...

    def flush(self) -> bytes:
        """The last bytes: the codec's delayed packets, the trailer, and the header if nothing was encoded before.

        Called once; the encoder must not be used afterwards.
        """
        ...
