"""Compilation happens only at start-up: later it would stall every stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from engine import SpeechRequest, VoicePrompt
from engine.context import Prefill
from engine.engine_core import CsmEngine
from engine.model_runner import SamplingParams
from engine.prompt_packing import PromptPiece

Load = Callable[..., CsmEngine]


@pytest.fixture(autouse=True)
def eager_backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.compile with the eager backend: the guards are the same, and it is fast."""
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    yield
    torch.compiler.reset()


def test_nothing_is_compiled_after_start_up(load: Load, checkpoint: Path, voice: VoicePrompt) -> None:
    engine = load(checkpoint, compile="on", slots=9)
    runner = engine._runner
    with torch.compiler.set_stance("fail_on_recompile"):
        for length in (1, 2, 3, 7, 8, 12, 64, 100):
            runner.prefill([PromptPiece(0, Prefill(0, [[1] * length]))])
        for rows in (1, 2, 3, 4, 8, 9):
            for row in range(rows):
                runner.reset_row(row, SamplingParams(seed=row, temperature_first=1.0, temperature=1.0, top_k=50))
                runner.start_row(row, 3)
            runner.step(list(range(rows)))
        for guidance in (0.0, 1.5):  # on the engine thread
            engine.generate(SpeechRequest("It goes on.", voice=voice, guidance=guidance, max_frames=3))
