from __future__ import annotations

import json
from typing import Any

import pytest

from training.settings import FREE, TrainSettings


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"steps": 0}, "steps is 0, but must be at least 1"),
        ({"warmup": -1}, "warmup is -1"),
        ({"minutes": -0.5}, "minutes is -0.5"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, but must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"weight_decay": float("nan")}, "weight_decay is nan"),
        ({"depth_share": 1.5}, "depth_share is 1.5"),
        ({"schedule": "step"}, "schedule is 'step', but must be one of cosine, linear, constant"),
        ({"precision": "int4"}, "precision is 'int4'"),
        ({"device": "tpu"}, "device is 'tpu'"),
    ],
)
def test_what_cannot_be_is_told(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TrainSettings(**wrong)


def test_what_binds_a_run_survives_json_and_leaves_out_what_may_change() -> None:
    binding = TrainSettings(codebook_weights=(1.0, 0.5, 0.25)).binding()
    assert json.loads(json.dumps(binding)) == binding
    assert not FREE & binding.keys()
    assert {"seed", "learning_rate", "depth_share"} <= binding.keys()
