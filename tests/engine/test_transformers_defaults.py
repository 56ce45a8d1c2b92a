"""What a config.json omits is what transformers would restore, and nothing imports transformers for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers as untyped

from engine.codec.mimi import _moshi_config
from engine.model.config import CsmConfig, read_config

transformers: Any = untyped
ROOT = Path(__file__).resolve().parent.parent.parent


def read(folder: Path, raw: dict[str, Any]) -> tuple[CsmConfig, dict[str, Any]]:
    """A configuration without its codec, and the codec's as moshi's."""
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    config = read_config(folder / "config.json")
    return config, _moshi_config(config.codec)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 1},
        {"depth_decoder_config": {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 3}},
        {
            "codec_config": {
                "hidden_size": 64,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "upsampling_ratios": [4, 4],
                "upsample_groups": 64,
            }
        },
    ],
)
def test_omitted_values_are_transformers_defaults(tmp_path: Path, changes: dict[str, Any]) -> None:
    codec = {"codec_config": {"model_type": "mimi", **changes["codec_config"]}} if "codec_config" in changes else {}
    complete = transformers.CsmConfig(**changes | codec).to_dict()
    (ours, our_codec), (theirs, their_codec) = (
        read(tmp_path, {"model_type": "csm", **changes}),
        read(tmp_path, json.loads(json.dumps(complete, default=str))),
    )
    for name in set(vars(ours)) - {"codec"}:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert our_codec == their_codec
    assert our_codec["frame_rate"] == transformers.CsmConfig(**changes | codec).codec_config.frame_rate


def test_a_checkpoint_is_loaded_without_transformers_and_without_a_compiler() -> None:
    """Each takes seconds of a start on a CPU."""
    program = (
        "import sys; from engine import EngineConfig, load_engine; "
        "engine = load_engine(EngineConfig('models/csm-mini', 'cpu', slots=2)); engine.close(); "
        "print(sorted({'transformers', 'sympy', 'torch._dynamo'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=110, check=True
    )
    assert ran.stdout.splitlines()[-1] == "[]"
