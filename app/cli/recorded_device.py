"""Files in place of microphone and loudspeaker: they record and play at the speed of real ones."""

from __future__ import annotations

import threading
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine import SAMPLE_RATE

from .exit_status import CommandFailed, ExitStatus
from .playback import Playback
from .sound_device import BLOCK_SAMPLES
from .wav_file import write_wav


@contextmanager
def recorded_headset(
    source: Path, target: Path | None, playback: Playback, hear: Callable[[bytes], None], ended: Callable[[], None]
) -> Iterator[None]:
    """As `headset`, with a recording for the microphone, and then silence.

    target: gets what the loudspeaker would play, silence included. ended: called when the recording has been heard.
    Raises CommandFailed if it is no wav file of 16 bits, mono, 24 kHz.
    """
    recording = _read(source)
    stopped = threading.Event()
    played = bytearray()

    def run() -> None:
        began, at, size = time.monotonic(), 0, 2 * BLOCK_SAMPLES
        while not stopped.wait(max(began + at / (2 * SAMPLE_RATE) - time.monotonic(), 0)):
            hear(recording[at : at + size].ljust(size, b"\0"))
            played.extend(playback.take(size))
            if at < len(recording) <= at + size:
                ended()
            at += size

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        if target is not None:
            write_wav(target, played)


def _read(source: Path) -> bytes:
    try:
        with wave.open(str(source)) as file:
            kind = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            samples: bytes = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        kind, samples, reason = (0, 0, 0), b"", str(error)
    else:
        reason = f"{kind[0]} channels of {8 * kind[1]} bits at {kind[2]} Hz"
    if kind != (1, 2, SAMPLE_RATE) or not samples:
        raise CommandFailed(
            f"{source} is no wav file of 16 bits, mono, {SAMPLE_RATE} Hz ({reason or 'it is empty'}): convert it with "
            f"`ffmpeg -i {source} -ac 1 -ar {SAMPLE_RATE} talk.wav`",
            ExitStatus.USAGE,
        )
    return samples
