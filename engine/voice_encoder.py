"""Encodes voice recordings to codes on a thread of its own, so that decoding does not wait for it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .errors import EngineClosed
from .stream import AudioQueue
from .types import Codes, VoicePrompt

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Encoding:
    """A pending or finished encoding. The encoder thread sets `codes` or `error`, once."""

    voice: VoicePrompt
    codes: Codes | None = None
    error: Exception | None = None
    readers: list[AudioQueue] = field(default_factory=list)  # the queues of the requests that wait for it

    @property
    def done(self) -> bool:
        return self.codes is not None or self.error is not None

    def result(self) -> Codes:
        """The codes (frames, codebooks) of a finished encoding. Raises the encoding's exception if it failed."""
        if self.error is not None:
            raise self.error
        assert self.codes is not None, "the encoding is not done"
        return self.codes


class VoiceEncoder:
    """Encodes recordings one at a time in order of arrival, each once for all requests that wait for it.

    encode: returns codes (frames, codebooks); called on the encoder thread.
    on_done: called on the encoder thread after each encoding.
    niceness: added to the niceness of the encoder thread, on Linux.
    """

    def __init__(
        self, encode: Callable[[VoicePrompt], Codes], on_done: Callable[[], None], *, niceness: int = 0
    ) -> None:
        self._encode, self._on_done, self._yielding = encode, on_done, niceness
        self._changed = threading.Condition()
        self._waiting: deque[Encoding] = deque()
        self._by_content: dict[str, Encoding] = {}  # waiting, running, or done and not taken
        self._done: list[Encoding] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="csm-voices", daemon=True)
        self._thread.start()

    # ---- any thread

    def encode(self, voice: VoicePrompt, reader: AudioQueue) -> Encoding:
        """Queue a recording, or join its pending encoding. Skipped if all its readers have left by its turn."""
        with self._changed:
            encoding = self._by_content.get(voice.key)
            if encoding is None:
                encoding = self._by_content[voice.key] = Encoding(voice)
                self._waiting.append(encoding)
                self._changed.notify_all()
            encoding.readers.append(reader)
            return encoding

    def encode_now(self, voice: VoicePrompt) -> Codes:
        """Queue a recording and wait for its codes. Raises EngineClosed, and what the encoding fails with."""
        encoding = self.encode(voice, AudioQueue(1, lambda: None))
        with self._changed:
            self._changed.wait_for(lambda: encoding.done or self._closing)
            if not encoding.done:
                raise EngineClosed("the engine is closed")
        return encoding.result()

    def take_finished(self) -> list[Encoding]:
        """The finished encodings, each once. A later `encode` of the same recording starts anew."""
        with self._changed:
            taken, self._done = self._done, []
            for encoding in taken:
                del self._by_content[encoding.voice.key]
            return taken

    def close(self) -> None:
        """Stop, after the recording that is being encoded. Waiting encodings are never done."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    # ---- the encoder thread

    def _run(self) -> None:
        self._lower_priority()
        while (encoding := self._next()) is not None:
            codes, error = None, None
            try:
                codes = self._encode(encoding.voice)
            except Exception as raised:
                log.exception("encoding a voice recording of %.1f s failed", encoding.voice.seconds)
                error = raised.with_traceback(None)  # the traceback would keep tensors of its frames alive
            with self._changed:
                encoding.codes, encoding.error = codes, error
                self._done.append(encoding)
                self._changed.notify_all()
            self._on_done()

    def _next(self) -> Encoding | None:
        """Wait for the next recording with a reader. Returns None when the encoder closes."""
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
        """On Linux niceness belongs to a thread and those that it starts; elsewhere to the whole process."""
        if self._yielding and sys.platform == "linux":
            thread = threading.get_native_id()
            with contextlib.suppress(OSError):  # a sandbox may forbid it: then all threads have equal priority
                os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + self._yielding)
