"""Loudspeaker and microphone through `sounddevice`, of the extra `talk`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from engine import SAMPLE_RATE

from .exit_status import CommandFailed
from .playback import Playback

BLOCK_SAMPLES = 480  # 20 ms


def load_sounddevice() -> Any:
    """Raises CommandFailed with the way to install what is missing."""
    try:
        return importlib.import_module("sounddevice")
    except ImportError:
        raise CommandFailed(
            "sounddevice is not installed: `python -m pip install sounddevice`, or csm-serve with its extra `talk`"
        ) from None
    except OSError as error:  # of the library that the package loads
        raise CommandFailed(
            f"sounddevice finds no PortAudio ({error}): install it, for example with `apt install libportaudio2`"
        ) from None


@contextmanager
def loudspeaker(playback: Playback) -> Iterator[None]:
    """Play what a buffer holds, on the default device. Raises CommandFailed."""
    sound = load_sounddevice()

    def play(out: Any, frames: int, time: object, status: object) -> None:
        out[:] = playback.take(len(out))

    with _open(sound, sound.RawOutputStream, play):
        yield


@contextmanager
def headset(playback: Playback, hear: Callable[[bytes], None]) -> Iterator[None]:
    """The same, and pass on what the default microphone records, from a thread of the device's."""
    sound = load_sounddevice()

    def exchange(recorded: Any, out: Any, frames: int, time: object, status: object) -> None:
        hear(bytes(recorded))
        out[:] = playback.take(len(out))

    with _open(sound, sound.RawStream, exchange):
        yield


@contextmanager
def _open(sound: Any, kind: Any, callback: Callable[..., None]) -> Iterator[None]:
    try:
        stream = kind(
            samplerate=SAMPLE_RATE, blocksize=BLOCK_SAMPLES, channels=1, dtype="int16", latency="low", callback=callback
        )
        stream.start()
    except sound.PortAudioError as error:
        raise CommandFailed(f"the sound device cannot be used: {error}") from None
    try:
        yield
    finally:
        stream.close()
