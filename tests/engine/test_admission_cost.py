"""What a prompt costs the engine's thread, from the inbox to its first frame: launches and Python calls, not time.

A launch takes 5 to 10 µs of the thread, a call well under 1: 0.5 ms for one prompt, 0.2 for each of a burst. Counted
as on a GPU: packed prompts, passes and resets as graphs, voices restored together.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine import EngineConfig, SpeechRequest, VoicePrompt
from engine.cuda_streams import upload
from engine.engine_core import CsmEngine
from engine.loading import load
from engine.model.graphs import Bucket
from engine.prefill_pipeline import PASS_SIZES

from .test_prefill_pipeline import GatheredAttention, _Counter, _GraphCapturer

BURST = 16
TEXT = "Hello there, how are you?"


def restored_together(both: Tensor, saved: Sequence[tuple[int, Tensor]]) -> None:
    """Launches what the kernel launches: the upload of its table, and itself."""
    upload(np.array([row for row, _ in saved]), torch.empty(len(saved), dtype=torch.int64))
    both.view(-1)[:1].mul_(1)


class Thread:
    """The engine's thread, whose iterations a test runs itself."""

    def __init__(self, engine: CsmEngine, graphs: _GraphCapturer) -> None:
        self._engine, self._graphs = engine, graphs
        rng = np.random.default_rng(0)
        self._voices = [
            VoicePrompt(rng.normal(0, 0.1, 12_345 + 9 * each).astype(np.float32), transcript="These are my words.")
            for each in range(BURST)
        ]
        for voice in self._voices:
            engine._prompt_builder.voice_cache.put_codes(voice.key, rng.integers(0, 64, (7, 4)))

    def _iterate(self) -> None:
        engine = self._engine
        engine._receive()
        engine._release_closed()
        engine._scheduler.admit()
        engine._prefill()
        engine._runner.apply_changes()

    def _submit(self, requests: int, voices: bool) -> None:
        self._streams = [
            self._engine.stream(SpeechRequest(TEXT, voice=self._voices[each] if voices else None, seed=each))
            for each in range(requests)
        ]

    def _leave(self) -> None:
        assert [each.ready for each in self._engine._scheduler.running] == [True] * len(self._streams)
        for each in list(self._engine._scheduler):
            self._engine._scheduler.release(each)

    def launches(self, requests: int, voices: bool) -> tuple[list[str], int]:
        """The operators that one iteration with these new requests launches, and the graphs."""
        self._submit(requests, voices)
        before = self._graphs.launches
        with _Counter() as counter:
            self._iterate()
        self._leave()
        return counter.launches, self._graphs.launches - before

    def calls(self, requests: int, voices: bool) -> int:
        """The calls of Python and built-in functions in such an iteration."""
        self._submit(requests, voices)
        calls = 0

        def count(frame: Any, event: str, argument: Any) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            self._iterate()
        finally:
            sys.setprofile(None)
        self._leave()
        return calls


@pytest.fixture
def thread(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Thread]:
    monkeypatch.setattr("engine.prefill_pipeline.MAX_PASS_TOKENS", {"cpu": 1024})
    config = EngineConfig(str(checkpoint), "cpu", "float32", slots=BURST)
    loaded = load(config, lambda share, what: None)
    loaded.runner.model.prompt_attention = GatheredAttention()
    loaded.runner.model.kv_restore = restored_together
    graphs = _GraphCapturer()
    loaded.runner.prefills.pipelines[0].graphs.capture(graphs, map(Bucket, PASS_SIZES), lambda bucket: None)
    loaded.runner.frames.reset_graph.capture(graphs, [Bucket(0)], lambda bucket: None)
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda self: None if self.name == "csm-engine" else start(self))
    engine = CsmEngine(loaded, config)
    yield Thread(engine, graphs)
    engine._encoder.close()


@pytest.mark.parametrize("voices", [False, True])
def test_a_prompt_costs_the_thread_little_alone_and_in_a_burst(thread: Thread, voices: bool) -> None:
    thread.launches(BURST, voices)  # prefills the voices and caches their keys and values
    alone, graphs_alone = thread.launches(1, voices)
    burst, graphs_burst = thread.launches(BURST, voices)
    assert burst == alone  # not one launch more
    assert "_local_scalar_dense" not in alone  # a wait for the device
    assert len(alone) <= (11 if voices else 8)
    assert graphs_alone == graphs_burst == 2  # the prompts of all rows, and their codec resets
    calls_alone, calls_burst = thread.calls(1, voices), thread.calls(BURST, voices)
    assert calls_alone <= 300
    assert (calls_burst - calls_alone) / (BURST - 1) <= (130 if voices else 100)
