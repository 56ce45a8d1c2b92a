"""Crash tests of the voice store: `python -m tests.app.voices.crashes MODE FOLDER` kills writers.

A separate process with one thread, so that it can fork. Prints its counts as JSON.
A recording consists of its repeated label, so that its content identifies the matching transcript.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import app.voices.loader
from app.errors import ServiceError, UnknownVoice, VoiceExists
from app.voices.loader import VoiceLoader
from app.voices.preparation import PreparedRecording
from app.voices.recording_decoder import DecodedRecording
from app.voices.store import VoiceStore

WRITES = ("/app/voices/store.py", "/app/voices/folder.py", "/app/voices/transcript.py")
LABELS = [f"label-{n}" for n in range(8)]


class StubDecoder:
    """Replaces VoiceDecoder: decoding is not tested here."""

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> StubDecoder:
        return self

    def __exit__(self, *_: object) -> None: ...

    def decode(self, recording: bytes) -> DecodedRecording:
        return DecodedRecording(np.ones(24_000, np.float32), 0.0)


def prepare(recording: DecodedRecording) -> PreparedRecording:
    """Changes nothing, and has no lines to be killed at."""
    return PreparedRecording(recording.samples, 1.0, ())


def recording(label: str) -> bytes:
    return b"RIFF\0\0\0\0WAVE" + label.encode() * 20_000


LABEL_OF = {hashlib.sha256(recording(label)).hexdigest(): label for label in LABELS}


def open_store(folder: Path) -> VoiceStore:
    return VoiceStore(folder / "preloaded", folder / "uploads")


def pair(store: VoiceStore, voice_id: str) -> str:
    """The stored voice as "LABEL/TRANSCRIPT"; "" without one. An unknown recording raises KeyError."""
    try:
        voice = store.get(voice_id)
    except UnknownVoice:
        return ""
    return f"{LABEL_OF[voice.sha256]}/{voice.prompt.transcript}"


def fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except VoiceExists:
            code = 9
        finally:
            os._exit(code)
    return pid


def wait(pid: int) -> int:
    """The exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at(line: int, work: Callable[[], object]) -> Callable[[], None]:
    """`work`, killed with SIGKILL when it reaches its n-th line in the store's sources."""
    left = line

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code is VoiceLoader.load.__code__:
            sys.settrace(None)  # the change is complete; the rest only reads
        if not frame.f_code.co_filename.endswith(WRITES):
            return None
        if event == "line":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    def run() -> None:
        sys.settrace(trace)
        work()

    return run


def kill_at_every_line(folder: Path) -> dict[str, object]:
    """Kill each change at each of its lines. The result must be the old or the new state."""
    a, b = recording("label-0"), recording("label-1")
    changes: dict[str, tuple[Callable[[VoiceStore], object], str]] = {
        "replace": (lambda store: store.replace("amy.wav", b, "label-1"), "label-1/label-1"),
        "remove transcript": (lambda store: store.replace("amy.wav", b), "label-1/"),
        "change transcript": (lambda store: store.replace("amy.wav", a, "label-0 again"), "label-0/label-0 again"),
        "delete": (lambda store: store.delete("amy.wav"), ""),
        "add": (lambda store: store.add("amy.wav", b, "label-1"), "label-1/label-1"),
    }
    seen: dict[str, Counter[str]] = {}
    for name, (change, wanted) in changes.items():
        seen[name] = Counter()
        code, line = -signal.SIGKILL, 0
        while code == -signal.SIGKILL:
            shutil.rmtree(folder, ignore_errors=True)
            store = open_store(folder)
            if name != "add":
                store.add("amy.wav", a, "label-0")
            before = pair(store, "amy.wav")
            code = wait(fork(killed_at(line, partial(change, store))))
            for reader in (store, open_store(folder)):  # one with the old voice in its cache, and a new one
                found = pair(reader, "amy.wav")
                if found not in (before, wanted) or reader.ids() != (["amy.wav"] if found else []):
                    raise AssertionError(f"{name} killed at line {line}: {before!r} became {found!r}, {reader.ids()}")
            seen[name]["new" if found == wanted else "old"] += 1
            line += 1
        if code != 0 or found != wanted:
            raise AssertionError(f"{name} ended with {code} and {found!r}")
    return {name: dict(counts) for name, counts in seen.items()}


def kill_at_random(folder: Path) -> dict[str, object]:
    """Kill three concurrent writers at random while this process reads. Transcripts must match their recordings."""
    chance = random.Random(20)
    seen: Counter[str] = Counter()
    ids = ["amy.wav", "amy.mp3", "bob"]

    def write(seed: int) -> None:
        mine = random.Random(seed)
        store = open_store(folder)
        while True:
            voice_id, label = mine.choice(ids), mine.choice(LABELS)
            words = mine.choice(["", label, f"{label} again"])
            try:
                mine.choice([store.add, store.replace, store.replace])(voice_id, recording(label), words)
                if mine.random() < 0.2:
                    store.delete(voice_id)
            except ServiceError as error:
                if error.status >= 500:
                    raise

    store = open_store(folder)
    for _ in range(25):
        writers = [fork(partial(write, chance.randrange(1 << 30))) for _ in range(3)]
        until = time.monotonic() + chance.uniform(0.02, 0.15)
        while time.monotonic() < until:
            label, _, words = pair(store, chance.choice(ids)).partition("/")
            if words and not words.startswith(label):
                raise AssertionError(f"{label} has the transcript of {words}")
            seen["known" if label else "unknown"] += 1
        for writer in writers:
            os.kill(writer, signal.SIGKILL)
        codes = [wait(writer) for writer in writers]
        if codes != [-signal.SIGKILL] * 3:
            raise AssertionError(f"a writer ended before it was killed: {codes}")
        for voice_id in ids:
            label, _, words = pair(open_store(folder), voice_id).partition("/")
            if words and not words.startswith(label):
                raise AssertionError(f"after the kill {label} has the transcript of {words}")
            seen["survived" if label else "gone"] += 1
    return dict(seen)


def add_concurrently(folder: Path) -> dict[str, object]:
    """Eight processes add the same id. One succeeds, with its own transcript."""
    seen: Counter[int] = Counter()
    for _ in range(8):
        shutil.rmtree(folder, ignore_errors=True)
        store = open_store(folder)
        gate, opened = os.pipe()

        def add(label: str, store: VoiceStore = store, gate: int = gate, opened: int = opened) -> None:
            os.close(opened)
            os.read(gate, 1)  # returns in all processes when the other end is closed
            store.add("amy.wav", recording(label), label)

        writers = {label: fork(partial(add, label)) for label in LABELS}
        os.close(opened)
        codes = {label: wait(pid) for label, pid in writers.items()}
        os.close(gate)
        seen.update(codes.values())
        winner = [label for label, code in codes.items() if code == 0]
        if [pair(store, "amy.wav")] != [f"{label}/{label}" for label in winner]:
            raise AssertionError(f"{winner} won, {pair(store, 'amy.wav')!r} was found")
        if len(os.listdir(folder / "uploads")) != 3:  # recording, sidecar, lock
            raise AssertionError(f"failed adds left files: {os.listdir(folder / 'uploads')}")
    return {str(code): count for code, count in seen.items()}


if __name__ == "__main__":
    vars(app.voices.loader).update(VoiceDecoder=StubDecoder, prepare=prepare)
    vars(os)["fsync"] = lambda _: None  # SIGKILL loses no written data; only a power failure would
    modes = {"every-line": kill_at_every_line, "random": kill_at_random, "at-once": add_concurrently}
    sys.stdout.write(json.dumps(modes[sys.argv[1]](Path(sys.argv[2]))))
