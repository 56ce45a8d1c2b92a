from __future__ import annotations

from itertools import pairwise

import pytest

from training.base_checkpoint import BaseCheckpoint
from training.optimizer import build_optimizer, learning_rate
from training.settings import TrainSettings


def test_norms_and_embeddings_are_not_decayed(base: BaseCheckpoint) -> None:
    base.model.codec_model.requires_grad_(False)
    optimizer = build_optimizer(base.model, TrainSettings(weight_decay=0.1))
    names = {id(parameter): name for name, parameter in base.model.named_parameters()}
    decayed, undecayed = ([names[id(each)] for each in group["params"]] for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert {name for name in undecayed if "norm" not in name} == {
        "embed_text_tokens.weight",
        "backbone_model.embed_tokens.embed_audio_tokens.weight",
    }
    assert not any("norm" in name or "embed_t" in name for name in decayed)
    trained = [name for name, parameter in base.model.named_parameters() if parameter.requires_grad]
    assert sorted(decayed + undecayed) == sorted(trained)
    assert not any(name.startswith("codec_model.") for name in trained)


@pytest.mark.parametrize(("schedule", "middle"), [("cosine", 0.55), ("linear", 0.55), ("constant", 1.0)])
def test_warmup_and_decay(schedule: str, middle: float) -> None:
    settings = TrainSettings(steps=110, warmup=10, learning_rate=1.0, schedule=schedule, final_share=0.1)  # type: ignore[arg-type]
    rates = [learning_rate(settings, step) for step in range(111)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[60] == pytest.approx(middle)
    assert rates[110] == pytest.approx(1.0 if schedule == "constant" else 0.1)
    assert all(later <= earlier for earlier, later in pairwise(rates[10:]))


def test_warmup_of_zero_starts_at_the_full_rate() -> None:
    assert learning_rate(TrainSettings(warmup=0, learning_rate=0.5), 0) == 0.5
