"""Admission on the fake clock, with the times that two machines were measured at: who waits for whom, and how long.

The rounds are those of engine_core: admit, prefill within the budget, one frame for all who are ready, emit. Budget,
playback clock and slice policy are the engine's own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from engine import SpeechRequest
from engine.prefill_budget import PlaybackClock, PrefillBudget
from engine.slice_policy import SlicePolicy

FRAME = 0.08
REQUEST = SpeechRequest("Hello.", slice_frames=5)
QUEUE_SLICES = 5

Table = tuple[tuple[int, float], ...]


def interpolated(table: Table, at: float) -> float:
    index = min(max(bisect_left(table, (at, 0.0)), 1), len(table) - 1)
    (low, low_value), (high, high_value) = table[index - 1], table[index]
    return low_value + (high_value - low_value) * (max(at, low) - low) / (high - low)


@dataclass(frozen=True)
class Machine:
    """Milliseconds: of a prefill by tokens, of a frame by rows, of the codec behind it by rows."""

    prefill: Table
    frame: Table
    codec: Table
    overlaps: bool  # the engine's thread is free while the device works

    def budget(self) -> PrefillBudget:
        """As the engine makes it: on a GPU a pass of 1,024 positions is measured at load."""
        return PrefillBudget(128, self.seconds(self.prefill, 1024) / 1024) if self.overlaps else PrefillBudget(16)

    def seconds(self, table: Table, at: int) -> float:
        return interpolated(table, at) / 1000 if at else 0.0


# One H200, 2026-11-28: prompts as graphs, alone and as 8, 32 and 64 of 48 positions; frames overlapped with the codec.
H200 = Machine(
    prefill=((16, 1.3), (40, 1.4), (128, 1.6), (256, 2.0), (384, 2.2), (1536, 6.1), (3072, 11.9), (12288, 49.0)),
    frame=((2, 9.4), (8, 10.3), (16, 11.1), (64, 13.4), (128, 15.2), (256, 21.5)),
    codec=((2, 1.8), (8, 2.4), (16, 2.8), (64, 4.2), (128, 4.5), (256, 7.0)),
    overlaps=True,
)
# Two shared CPU cores and a model of a quarter of CSM-1B's width, 2026-11-28: 16 requests of 16 frames took 17 launches
# and 15.2 s where all joined at once, and 44 launches and 29.5 s where one joined in each round.
TWO_CORES = Machine(
    prefill=((1, 4), (1000, 4000)), frame=((1, 600), (16, 780)), codec=((1, 0), (16, 0)), overlaps=False
)

# The engine's thread, in ms: the limits that test_prefill_pipeline counts launches and calls for, and what the engine
# alone took for the frames of 512 rows (bench/LOG.md, 2026-11-20), for each row.
PROMPT_ALONE, PROMPT_IN_BURST, EMIT_ROW, LAUNCH_FRAME = 0.5, 0.2, 1.9 / 512, 0.3


@dataclass(eq=False)
class Listener:
    arrives: float
    frames: int
    positions: int = 48
    policy: SlicePolicy | None = None
    prefilled: int = 0
    made: int = 0
    pending: int = 0  # frames of the slice that is not emitted yet
    ready: bool = False
    first_sound: float | None = None  # seconds after arrival
    emitted: int = 0
    worst_underrun: float = 0.0

    def receive(self, now: float, frames: int) -> None:
        if self.first_sound is None:
            self.first_sound = now - self.arrives
        else:
            late = now - (self.arrives + self.first_sound) - self.emitted * FRAME
            self.worst_underrun = max(self.worst_underrun, late)
        self.emitted += frames

    def audio_seconds(self) -> float:
        return self.emitted * FRAME

    def held(self, now: float) -> bool:
        """Its reader takes audio as it plays: the queue is full."""
        if self.first_sound is None:
            return False
        played = (now - self.arrives - self.first_sound) / FRAME
        return self.emitted - played > QUEUE_SLICES * REQUEST.slice_frames


@dataclass
class Simulation:
    machine: Machine
    listeners: list[Listener]
    now: float = 0.0
    thread: float = 0.0  # seconds that the engine's thread was busy
    launches: list[int] = field(default_factory=list)  # rows of each frame

    def run(self) -> Simulation:
        clock: Callable[[], float] = lambda: self.now  # noqa: E731
        budget, playback = self.machine.budget(), PlaybackClock(clock)
        waiting = sorted(self.listeners, key=lambda each: each.arrives)
        admitted: list[Listener] = []
        while waiting or admitted:
            while waiting and waiting[0].arrives <= self.now:
                admitted.append(waiting.pop(0))
                admitted[-1].policy = SlicePolicy(1, REQUEST.slice_frames, admitted[-1].audio_seconds, clock)
            speaking = [each for each in admitted if each.ready and not each.held(self.now)]
            new = [each for each in admitted if not each.ready]
            if not speaking and not new:
                nexts = [each.arrives for each in waiting[:1]]
                self.now = min([*nexts, self.now + FRAME / 4]) if admitted else nexts[0]
                continue
            for each in admitted:
                if each.ready and each.held(self.now):
                    playback.hold(each, each.made, REQUEST)
            started = self.now
            prefilled = self._prefill(new, budget, [playback.buffered(each, each.made, REQUEST) for each in speaking])
            prefill_seconds = self.machine.seconds(self.machine.prefill, prefilled)
            self.now += prefill_seconds
            rows = [each for each in admitted if each.ready and not each.held(self.now)]
            if rows:
                self.now += self.machine.seconds(self.machine.frame, len(rows))
                self.launches.append(len(rows))
                self.thread += (LAUNCH_FRAME + EMIT_ROW * len(rows)) / 1000
            if not self.machine.overlaps:
                budget.record(prefill_seconds, prefilled, stepped=False)
                budget.record(self.now - started - prefill_seconds, 0, bool(rows))
            elif not prefilled:
                budget.record(self.now - started, 0, bool(rows))
            self._emit(rows, playback)
            admitted = [each for each in admitted if each.made < each.frames]
        return self

    def _prefill(self, new: list[Listener], budget: PrefillBudget, buffers: list[object]) -> int:
        left = budget.budget(buffers) if new else 0  # type: ignore[arg-type]
        prefilled = joined = 0
        for each in new:
            taken = min(each.positions - each.prefilled, left)
            each.prefilled += taken
            each.ready = each.prefilled == each.positions
            joined += taken > 0
            left -= taken
            prefilled += taken
        self.thread += (PROMPT_ALONE * min(joined, 1) + PROMPT_IN_BURST * max(joined - 1, 0)) / 1000
        return prefilled

    def _emit(self, rows: list[Listener], playback: PlaybackClock) -> None:
        sound = self.now + self.machine.seconds(self.machine.codec, len(rows))
        for each in rows:
            assert each.policy is not None
            each.made += 1
            each.pending += 1
            playback.frame_emitted(each)
            if each.pending >= each.policy.size or each.made == each.frames:
                each.policy.emitting()
                each.receive(sound, each.pending)
                each.pending = 0


def first_sounds(listeners: list[Listener]) -> list[float]:
    return sorted(each.first_sound for each in listeners if each.first_sound is not None)


def test_a_burst_of_64_among_64_speakers_sounds_within_150_ms_and_nobody_underruns() -> None:
    speaking = [Listener(arrives=0.05 * number, frames=125) for number in range(64)]
    burst = [Listener(arrives=5.0, frames=60) for _ in range(64)]
    Simulation(H200, speaking + burst).run()
    assert len(first_sounds(burst)) == 64
    assert first_sounds(burst)[-1] <= 0.150
    assert max(each.worst_underrun for each in speaking + burst) <= 0.0


def test_256_listeners_that_come_37_a_second_leave_half_of_the_thread_free() -> None:
    listeners = [Listener(arrives=number / 37, frames=125, positions=64) for number in range(256)]
    ran = Simulation(H200, listeners).run()
    sounds = first_sounds(listeners)
    assert len(sounds) == 256
    assert sounds[int(0.95 * 256)] <= 0.300
    assert max(each.worst_underrun for each in listeners) <= 0.0
    assert ran.thread / ran.now <= 0.5


@pytest.mark.parametrize("apart", [0.0, 0.01])  # seconds between arrivals: at once, or as HTTP delivers them
def test_a_machine_that_is_slower_than_real_time_admits_a_burst_together(apart: float) -> None:
    listeners = [Listener(arrives=apart * number, frames=16, positions=16) for number in range(16)]
    ran = Simulation(TWO_CORES, listeners).run()
    assert len(ran.launches) == (16 if apart == 0 else 17)
    assert ran.launches.count(16) >= 15


def test_a_long_queue_on_an_idle_gpu_is_admitted_frame_by_frame() -> None:
    """Not all of a hundred long voice prompts before the first sound: those who are done speak beside the rest."""
    listeners = [Listener(arrives=0.0, frames=60, positions=1000) for _ in range(100)]
    warm = Listener(arrives=0.0, frames=20)
    for each in listeners:
        each.arrives = 3.0
    Simulation(H200, [warm, *listeners]).run()
    assert first_sounds(listeners)[0] <= 0.15
    assert max(each.worst_underrun for each in listeners) <= 0.0
    assert len(first_sounds(listeners)) == 100


def test_prompts_beside_speakers_with_little_audio_wait() -> None:
    """Speakers whose first frame has just left are not made to wait for a long prompt."""
    speaking = [Listener(arrives=0.0, frames=60) for _ in range(8)]
    prompt = [Listener(arrives=0.02, frames=10, positions=2000) for _ in range(40)]
    Simulation(H200, speaking + prompt).run()
    assert max(each.worst_underrun for each in speaking) <= 0.0
