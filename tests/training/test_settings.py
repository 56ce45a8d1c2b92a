from __future__ import annotations

import json
from typing import Any

import pytest

from training.settings import RESUME_MAY_CHANGE, TrainSettings


@pytest.mark.parametrize(
    ("wrong", "message"),
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
def test_invalid_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainSettings(**wrong)


def test_binding_settings_are_json_without_those_that_may_change() -> None:
    binding = TrainSettings(codebook_weights=(1.0, 0.5, 0.25)).binding()
    assert json.loads(json.dumps(binding)) == binding
    assert not RESUME_MAY_CHANGE & binding.keys()
    assert {"seed", "learning_rate", "depth_share"} <= binding.keys()
