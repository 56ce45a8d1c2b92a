from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from engine import (
    FRAME_SAMPLES,
    CheckpointError,
    EngineClosed,
    EngineFailed,
    EngineOutOfMemory,
    InvalidRequest,
    PromptTooLong,
    SpeechRequest,
    VoicePrompt,
)
from engine.fake_options import EXIT_STATUS, FakeOptions, Fault
from engine.testing import FakeEngine

Make = Callable[..., FakeEngine]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[FakeEngine] = []

    def build(*args: object, **kwargs: object) -> FakeEngine:
        made.append(FakeEngine(*args, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for fake in made:
        fake.close()


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for another thread; the test's time limit ends a wait that never succeeds."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.001)


def test_one_frame_per_character(make: Make) -> None:
    speech = make().generate(SpeechRequest("Hello."))
    assert speech.samples.size == 6 * FRAME_SAMPLES
    assert make().generate(SpeechRequest("Hello.", max_frames=2)).samples.size == 2 * FRAME_SAMPLES


def test_slices_grow_and_join_to_the_complete_audio(make: Make) -> None:
    request = SpeechRequest("x" * 23, first_slice_frames=1, slice_frames=5)
    chunks = list(make().stream(request))
    assert [chunk.samples.size // FRAME_SAMPLES for chunk in chunks] == [1, 1, 2, 4, 5, 5, 5]
    assert [chunk.ends_speech for chunk in chunks] == [False] * 6 + [True]
    whole = make().generate(SpeechRequest("x" * 23, first_slice_frames=23, slice_frames=23))
    assert np.array_equal(np.concatenate([chunk.samples for chunk in chunks]), whole.samples)


def test_each_voice_has_its_own_constant_tone(make: Make) -> None:
    fake = make()
    voice = VoicePrompt(np.ones(100, np.float32))
    spoken = [fake.generate(SpeechRequest("Hi.", **how)).samples for how in ({}, {"speaker": 1}, {"voice": voice}, {})]
    assert np.array_equal(spoken[0], spoken[3])
    assert not np.array_equal(spoken[0], spoken[1])
    assert not np.array_equal(spoken[0], spoken[2])


def test_requests_beyond_the_slots_wait_in_order_of_arrival(make: Make) -> None:
    fake = make(slots=1, audio_queue_slices=1)
    first, second, third = (fake.stream(SpeechRequest(name * 9)) for name in "abc")
    eventually(lambda: (fake.status().active, fake.status().queued) == (1, 2))  # two may queue before one is admitted
    assert sum(chunk.samples.size for chunk in first) == 9 * FRAME_SAMPLES
    next(second)
    eventually(lambda: fake.status().queued == 1)
    second.close()
    assert sum(chunk.samples.size for chunk in third) == 9 * FRAME_SAMPLES


def test_a_finished_stream_frees_its_slot_before_it_is_read(make: Make) -> None:
    fake = make(slots=1, audio_queue_slices=1)
    unread = fake.stream(SpeechRequest("x"))
    eventually(lambda: unread._queue.done)
    assert fake.generate(SpeechRequest("Hi.")).samples.size == 3 * FRAME_SAMPLES


def test_guidance_takes_two_slots(make: Make) -> None:
    fake = make(slots=2, audio_queue_slices=1)
    with fake.stream(SpeechRequest("x" * 9, guidance=1.0)) as guided:
        next(guided)
        assert fake.status().active == 2
    with pytest.raises(InvalidRequest, match="takes 2 slots"):
        make(slots=1).stream(SpeechRequest("Hi.", guidance=1.0))


def test_a_slow_reader_condition_its_own_slot_alone(make: Make) -> None:
    fake = make(slots=2, audio_queue_slices=2)
    slow = fake.stream(SpeechRequest("x" * 40, slice_frames=1))
    eventually(lambda: slow._queue.full)
    fake.generate(SpeechRequest("x" * 40))
    assert len(slow._queue._chunks) == 2
    assert sum(chunk.samples.size for chunk in slow) == 40 * FRAME_SAMPLES


def test_a_dropped_stream_frees_its_slot(make: Make) -> None:
    fake = make(slots=1, audio_queue_slices=1)
    dropped = fake.stream(SpeechRequest("x" * 1000))
    next(dropped)
    del dropped
    gc.collect()
    assert fake.generate(SpeechRequest("Hi.")).samples.size == 3 * FRAME_SAMPLES


def test_streams_can_be_read_in_an_event_loop(make: Make) -> None:
    async def read() -> int:
        return sum([chunk.samples.size async for chunk in make().stream(SpeechRequest("Hello."))])

    assert asyncio.run(read()) == 6 * FRAME_SAMPLES


@pytest.mark.parametrize(("kind", "error"), [("raise", EngineFailed), ("memory", EngineOutOfMemory)])
@pytest.mark.parametrize("frames", [0, 3])
def test_a_scripted_error_comes_after_the_frames_before_it(
    make: Make, kind: str, error: type[Exception], frames: int
) -> None:
    fake = make()
    stream, received = fake.stream(SpeechRequest(f"[{kind}@{frames}] and more", slice_frames=1)), []
    with pytest.raises(error, match=f"after {frames} frames"):
        received.extend(stream)
    assert sum(chunk.samples.size for chunk in received) == frames * FRAME_SAMPLES
    assert fake.generate(SpeechRequest("Hi.")).samples.size == 3 * FRAME_SAMPLES


def test_a_fault_of_the_constructor_applies_to_every_request(make: Make) -> None:
    fake = make(fault=Fault("memory", 1))
    for _ in range(2):
        with pytest.raises(EngineOutOfMemory):
            fake.generate(SpeechRequest("Hi."))


def test_a_broken_engine_reports_its_error_and_rejects_requests(make: Make) -> None:
    fake = make(audio_queue_slices=1)
    other = fake.stream(SpeechRequest("x" * 1000))
    with pytest.raises(EngineFailed, match="broke"):
        fake.generate(SpeechRequest("[break]"))
    with pytest.raises(EngineFailed, match="broke"):
        list(other)
    assert "broke" in (fake.status().error or "")
    with pytest.raises(EngineFailed, match="broke"):
        fake.stream(SpeechRequest("Hi."))


def test_closing_ends_the_streams_of_a_hung_engine(make: Make) -> None:
    fake = make(slots=1)
    hung, waiting = fake.stream(SpeechRequest("[hang]")), fake.stream(SpeechRequest("Hi."))
    fake.close()
    for stream in (hung, waiting):
        with pytest.raises(EngineClosed):
            next(stream)
    with pytest.raises(EngineClosed):
        fake.stream(SpeechRequest("Hi."))
    fake.close()


def test_a_hang_is_reported_as_a_stall_and_waiting_is_not(make: Make) -> None:
    fake = make(slots=2, audio_queue_slices=1)
    with fake.stream(SpeechRequest("x" * 99)) as unread:
        eventually(lambda: unread._queue.full)
        assert fake.generate(SpeechRequest("Hi.")).samples.size == 3 * FRAME_SAMPLES
        eventually(lambda: fake.status().stalled_seconds == 0.0)
        with fake.stream(SpeechRequest("[hang]")):
            eventually(lambda: fake.status().stalled_seconds > 0.05)


def test_the_exit_fault_ends_the_process() -> None:
    code = "from engine import *; from engine.testing import *; FakeEngine().generate(SpeechRequest('[exit@1] now'))"
    assert subprocess.run([sys.executable, "-c", code], timeout=110, check=False).returncode == EXIT_STATUS


def test_prepared_voices_are_recorded_and_limited(make: Make) -> None:
    fake = make(options=FakeOptions(max_voice_seconds=1.0))
    voice = VoicePrompt(np.ones(24_000, np.float32))
    fake.prepare_voice(voice, 3)
    assert fake.prepared == [(voice.key, 3)]
    with pytest.raises(PromptTooLong):
        fake.prepare_voice(VoicePrompt(np.ones(24_001, np.float32)))


def test_options_are_parsed_from_the_model_path() -> None:
    assert FakeOptions.parse("fake") == FakeOptions()
    assert FakeOptions.parse("fake:name=csm,frame_seconds=0.02,load_fails=true") == FakeOptions(
        name="csm", frame_seconds=0.02, load_fails=True
    )
    with pytest.raises(CheckpointError, match="speed"):
        FakeOptions.parse("fake:speed=2")


def test_loading_reports_progress_and_fails_on_demand() -> None:
    shares: list[float] = []
    FakeEngine.load("fake", 2, 5, lambda share, what: shares.append(share)).close()
    assert shares == sorted(shares)
    assert shares
    with pytest.raises(CheckpointError, match="as asked for"):
        FakeEngine.load("fake:load_fails=true", 2, 5, lambda share, what: None)


def test_a_load_fault_is_read_from_a_file(tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    for word, error in (("fails", CheckpointError), ("memory", EngineOutOfMemory)):
        trouble.write_text(word)
        with pytest.raises(error, match="as asked for"):
            FakeEngine.load(f"fake:trouble={trouble}", 2, 5, lambda share, what: None)
    trouble.unlink()
    FakeEngine.load(f"fake:trouble={trouble}", 2, 5, lambda share, what: None).close()


def test_requests_are_held_while_a_file_says_so(make: Make, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.write_text("4")
    engine = make(options=FakeOptions(frame_seconds=0.001, hold=str(hold)))
    stream = engine.stream(SpeechRequest("x" * 6, slice_frames=1))
    assert sum(next(stream).samples.size for _ in range(4)) == 4 * FRAME_SAMPLES
    rest = threading.Thread(target=stream.collect)
    rest.start()
    other = engine.generate(SpeechRequest("x" * 4))  # to its end: the first one could have made more meanwhile
    assert other.samples.size == 4 * FRAME_SAMPLES
    assert rest.is_alive()
    hold.unlink()
    rest.join(30)
    assert not rest.is_alive()


def test_the_first_frame_can_be_late_and_a_stream_can_stall_once(make: Make) -> None:
    options = FakeOptions(frame_seconds=0.001, first_frame_seconds=0.15, stall_seconds=0.2, stall_after=3)
    begun = time.monotonic()
    times = [time.monotonic() for _ in make(options=options).stream(SpeechRequest("x" * 6, slice_frames=1))]
    assert times[0] - begun >= 0.15
    assert times[3] - begun >= 0.35
