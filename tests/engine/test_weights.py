"""Loading errors name the file and what is wrong with it."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import CheckpointError, CheckpointNotFound, EngineConfig, load_engine
from engine.codec.mimi import pairs_from_halves
from engine.model.weights import halves_from_pairs

from . import checkpoints


@pytest.fixture
def broken(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of a good checkpoint, to be damaged."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def message_of(directory: Path | str, kind: type[CheckpointError] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        load_engine(EngineConfig(model=str(directory), device="cpu", dtype="float32"))
    return str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(broken: Path, name: str) -> None:
    (broken / name).unlink()
    assert name in message_of(broken)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_truncated_file_is_named(broken: Path, name: str) -> None:
    content = (broken / name).read_bytes()
    (broken / name).write_bytes(content[: len(content) // 2])
    assert str(broken / name) in message_of(broken)


@pytest.mark.parametrize(
    "tensor",
    ["backbone_model.layers.1.mlp.down_proj.weight", "lm_head.weight", "codec_model.decoder.layers.2.conv.weight"],
)
def test_a_missing_tensor_is_named_with_its_file(broken: Path, tensor: str) -> None:
    path = broken / "model.safetensors"
    save_file({name: value for name, value in load_file(path).items() if name != tensor}, path)
    message = message_of(broken)
    assert str(path) in message
    assert tensor in message


def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes(broken: Path) -> None:
    path = broken / "model.safetensors"
    save_file(load_file(path) | {"lm_head.weight": torch.zeros(67, 63)}, path)
    message = message_of(broken)
    for word in (str(path), "lm_head.weight", "(67, 63)", "(67, 64)"):
        assert word in message


def test_a_missing_shard_is_named(model: Any, tmp_path: Path) -> None:
    checkpoints.write_checkpoint(tmp_path, model, shard_size="150KB")
    shard = min(tmp_path.glob("model-*.safetensors"))
    shard.unlink()
    assert shard.name in message_of(tmp_path)


def test_a_shard_that_lacks_an_indexed_tensor_is_named(model: Any, tmp_path: Path) -> None:
    checkpoints.write_checkpoint(tmp_path, model, shard_size="150KB")
    shard = min(tmp_path.glob("model-*.safetensors"))
    save_file({"something.else": torch.zeros(1)}, shard)
    assert shard.name in message_of(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda config: config.update(model_type="llama"), "llama"),
        (lambda config: config.update(attention_bias=True), "biases"),
        (lambda config: (config.get("rope_scaling") or config["rope_parameters"]).update(rope_type="yarn"), "yarn"),
        (lambda config: config.update(text_vocab_size=200), "tokens"),
    ],
)
def test_an_unsupported_configuration_is_named(broken: Path, change: Callable[[Any], None], named: str) -> None:
    path = broken / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    message = message_of(broken)
    assert str(broken) in message
    assert named in message


def test_a_tokenizer_without_csms_tokens_is_rejected(broken: Path) -> None:
    path = broken / "tokenizer.json"
    path.write_text(path.read_text().replace("<|end_of_text|>", "<|other|>"))
    assert "<|end_of_text|>" in message_of(broken)


def test_a_missing_directory_says_how_to_get_the_weights(tmp_path: Path) -> None:
    message = message_of(tmp_path / "nowhere", CheckpointNotFound)
    for word in ("nowhere", "HF_TOKEN", "MODEL_PATH", "sesame/csm-1b"):
        assert word in message


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """No cache, no token, no network. Returns the list of hosts that were looked up."""
    hosts: list[str] = []

    def no_network(host: str, *args: Any, **kwargs: Any) -> None:
        hosts.append(host)
        raise OSError("the network is down")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the Hub client retries with backoff
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    return hosts


def test_the_gated_repository_is_not_contacted_without_a_token(offline: list[str]) -> None:
    assert "HF_TOKEN" in message_of("sesame/csm-1b", CheckpointNotFound)
    assert not offline


def test_an_unreachable_hub_is_checkpoint_not_found(offline: list[str]) -> None:
    message = message_of("somebody/csm", CheckpointNotFound)
    assert "somebody/csm" in message
    assert "HF_TOKEN" in message
    assert offline


def test_rope_layout_conversions_are_inverse() -> None:
    weight = torch.randn(48, 5)
    assert torch.equal(halves_from_pairs(pairs_from_halves(weight, 8), 8), weight)
    assert not torch.equal(pairs_from_halves(weight, 8), weight)
