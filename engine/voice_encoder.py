"""Recordings to codes, on a thread of their own: seconds of sound are encoded at once, and nobody who speaks waits."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .stream import AudioQueue
from .types import Codes, VoicePrompt

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Encoding:
    """A recording on its way to codes. The encoder's thread writes what comes of it, once."""

    voice: VoicePrompt
    codes: Codes | None = None
    error: Exception | None = None
    readers: list[AudioQueue] = field(default_factory=list)  # of the requests that wait for it

    @property
    def done(self) -> bool:
        return self.codes is not None or self.error is not None

    def result(self) -> Codes:
        """(frames, codebooks), once it is done. Raises what the encoding raised."""
        if self.error is not None:
            raise self.error
        assert self.codes is not None, "not done yet"
        return self.codes


class VoiceEncoder:
    """Encodes one recording after the other, first come first served, and each once for all who wait for it.

    encode: makes the codes, (frames, codebooks); called from the encoder's own thread.
    on_done: called from there behind each.
    niceness: how many steps of niceness the thread is behind the others of this process, where a thread can be.
    """

    def __init__(
        self, encode: Callable[[VoicePrompt], Codes], on_done: Callable[[], None], *, niceness: int = 0
    ) -> None:
        self._encode, self._on_done, self._yielding = encode, on_done, niceness
        self._changed = threading.Condition()
        self._waiting: deque[Encoding] = deque()
        self._by_content: dict[str, Encoding] = {}  # those that nobody has taken yet
        self._done: list[Encoding] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="csm-voices", daemon=True)
        self._thread.start()

    # ---- any thread

    def encode(self, voice: VoicePrompt, reader: AudioQueue) -> Encoding:
        """Have it encoded, unless that is under way. It is left out if its readers are all gone by its turn."""
        with self._changed:
            encoding = self._by_content.get(voice.key)
            if encoding is None:
                encoding = self._by_content[voice.key] = Encoding(voice)
                self._waiting.append(encoding)
                self._changed.notify()
            encoding.readers.append(reader)
            return encoding

    def take_finished(self) -> list[Encoding]:
        """Those that are done, each once. Who asks for such a voice from now on has it encoded anew."""
        with self._changed:
            taken, self._done = self._done, []
            for encoding in taken:
                del self._by_content[encoding.voice.key]
            return taken

    def close(self) -> None:
        """Encode no more, and wait for the recording that is being encoded. Those that wait never come to an end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    # ---- the encoder's thread

    def _run(self) -> None:
        self._lower_priority()
        while (encoding := self._next()) is not None:
            codes, error = None, None
            try:
                codes = self._encode(encoding.voice)
            except Exception as raised:
                log.exception("a recording of %.1f s could not be encoded", encoding.voice.seconds)
                error = raised.with_traceback(None)  # which would keep what was allocated in there
            with self._changed:
                encoding.codes, encoding.error = codes, error
                self._done.append(encoding)
            self._on_done()

    def _next(self) -> Encoding | None:
        """The next that somebody waits for, as soon as there is one; None when the encoder closes."""
        with self._changed:
            while not self._closing:
                if not self._waiting:
                    self._changed.wait()
                    continue
                encoding = self._waiting.popleft()
                if not all(reader.done for reader in encoding.readers):
                    return encoding
                del self._by_content[encoding.voice.key]
            return None

    def _lower_priority(self) -> None:
        """On Linux niceness is a thread's, and of those that it starts for its products; elsewhere the process's."""
        if self._yielding and sys.platform == "linux":
            thread = threading.get_native_id()
            with contextlib.suppress(OSError):  # a sandbox that does not allow it: then all are alike
                os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + self._yielding)
