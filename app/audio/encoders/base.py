"""What every encoder can do, and the errors it makes."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]  # (samples,) at 24 kHz, mono


class EncoderError(RuntimeError):
    """An encoder could not be built; the message says what it takes."""


class Encoder(Protocol):
    """Turns the audio of one answer into the bytes of one file, slice by slice.

    One answer uses one encoder; its calls may come from different threads, never two at once.
    """

    def encode(self, samples: Samples) -> bytes:
        """The bytes that can leave now. Those of the first call begin with the only header.

        samples: float32 (samples,) at 24 kHz, any number of them; past -1..1 they saturate, NaN is silence.
        """
        ...

    def flush(self) -> bytes:
        """The last bytes: what the codec held back, what closes the file, the header if nothing came before.

        Called once; the encoder is of no use afterwards.
        """
        ...
