"""The interface of a speech recogniser."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]  # (samples,) in -1..1


class Transcriber(Protocol):
    @property
    def name(self) -> str: ...

    async def transcribe(self, samples: Samples, language: str | None = None, prompt: str | None = None) -> str:
        """The words of a recording, float32 (samples,) mono at 24 kHz; "" if there are none.

        language: a code such as "en"; None: found out, or the recogniser's only one. prompt: words to expect.
        Raises ServiceError with the code stt_failed, stt_timeout or stt_not_configured.
        """
        ...

    async def close(self) -> None: ...
