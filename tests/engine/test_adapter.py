"""An adapter of peft's on its base speaks as transformers does with the merged model; what is unsupported is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import CheckpointError, CheckpointNotFound, EngineConfig, SpeechRequest, load_encoder
from engine.codec.mimi import MimiCodec
from engine.engine_core import CsmEngine
from engine.model.checkpoint import open_checkpoint
from engine.model.tokenizer import TextTokenizer

from . import oracle
from .adapters import LINEAR, write_adapter

Load = Callable[..., CsmEngine]
TEXT = "Hello there."

_PATTERNS = {
    "target_modules": r"backbone_model\..*_proj|depth_decoder.*(q_proj|inputs_embeds_projector)|embed_text_tokens",
    "modules_to_save": ["lm_head", "codebooks_head"],
    "rank_pattern": {"backbone_model.layers.0.self_attn.q_proj": 2},
    "alpha_pattern": {"down_proj": 3, r"layers\.1\..*": 20},
    "lora_alpha": 11,
}


@dataclass(frozen=True)
class Written:
    directory: Path
    adapted: Any  # peft's model


@pytest.fixture(scope="module")
def written(model: Any, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """An adapter on every linear layer, with rank-stabilised scaling."""
    directory = tmp_path_factory.mktemp("adapter")
    options = {"target_modules": LINEAR, "use_rslora": True, "lora_alpha": 5}
    return Written(directory, write_adapter(directory, model, str(checkpoint), **options))


@pytest.fixture
def broken(written: Written, tmp_path: Path) -> Path:
    """A copy of a good adapter, to be damaged."""
    return Path(shutil.copytree(written.directory, tmp_path / "copy"))


def expected_codes(model: Any, checkpoint: Path) -> Any:
    prompt = oracle.prompt(TextTokenizer(checkpoint / "tokenizer.json")._tokenizer, TEXT)
    return oracle.greedy_codes(model, prompt, 8, 64)


def test_an_adapter_speaks_as_the_merged_model_does_in_transformers(
    written: Written, checkpoint: Path, model: Any, load: Load
) -> None:
    merged = written.adapted.merge_and_unload()
    expected = expected_codes(merged, checkpoint)
    engine = load(written.directory)
    speech = engine.generate(SpeechRequest(TEXT, temperature=0, max_frames=8))
    np.testing.assert_array_equal(speech.codes, expected)
    assert not np.array_equal(expected, expected_codes(model, checkpoint))
    np.testing.assert_allclose(
        speech.samples, oracle.decode(merged, expected), rtol=1e-3, atol=1e-3
    )  # the codec is adapted too


def test_patterns_embeddings_and_modules_saved_in_full(
    model: Any, checkpoint: Path, tmp_path: Path, load: Load
) -> None:
    adapted = write_adapter(tmp_path, model, str(checkpoint), **_PATTERNS)
    merged = adapted.merge_and_unload()
    opened = open_checkpoint(str(tmp_path), None)
    state = merged.state_dict()
    for name in opened.tensors:
        torch.testing.assert_close(opened.tensors.get(name), state[name], msg=lambda text, name=name: f"{name}: {text}")
    speech = load(tmp_path).generate(SpeechRequest(TEXT, temperature=0, max_frames=8))
    np.testing.assert_array_equal(speech.codes, expected_codes(merged, checkpoint))


def test_an_adapter_on_one_of_two_shared_embeddings_leaves_the_other(
    model: Any, checkpoint: Path, tmp_path: Path, load: Load
) -> None:
    """As in training. merge_and_unload adds it to both, since they are one tensor."""
    adapted = write_adapter(tmp_path, model, str(checkpoint), target_modules=["embed_audio_tokens"])
    assert not open_checkpoint(str(tmp_path), None).config.tied_embeddings
    speech = load(tmp_path).generate(SpeechRequest(TEXT, temperature=0, max_frames=8))
    np.testing.assert_array_equal(speech.codes, expected_codes(adapted.base_model.model, checkpoint))


def test_the_encoder_of_an_adapter_is_its_bases(written: Written, checkpoint: Path) -> None:
    assert isinstance(load_encoder(EngineConfig(str(written.directory), device="cpu"))._codec, MimiCodec)


def test_the_fingerprint_depends_on_base_and_adapter(
    written: Written, model: Any, checkpoint: Path, tmp_path: Path
) -> None:
    options = {"target_modules": LINEAR, "use_rslora": True, "lora_alpha": 5}
    write_adapter(tmp_path, model, str(checkpoint), seed=1, **options)
    found = {open_checkpoint(str(path), None).fingerprint for path in (written.directory, checkpoint, tmp_path)}
    assert len(found) == 3


def test_the_fingerprint_reads_all_of_a_file(tmp_path: Path) -> None:
    """Of CSM-1B's weights the first 64 KiB are the index, the same for all fine-tunes."""
    from engine.model.checkpoint import fingerprint

    content = bytearray(10 << 20)
    (tmp_path / "model.safetensors").write_bytes(content)
    before = fingerprint(tmp_path)
    content[6 << 20 : 7 << 20] = b"1" * (1 << 20)
    (tmp_path / "model.safetensors").write_bytes(content)
    assert fingerprint(tmp_path) != before


def change(directory: Path, **options: Any) -> None:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"use_dora": True}, "use_dora"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path"),
    ],
)
def test_an_unsupported_adapter_is_named(broken: Path, options: dict[str, Any], named: str) -> None:
    change(broken, **options)
    with pytest.raises(CheckpointError, match=named) as caught:
        open_checkpoint(str(broken), None)
    assert str(broken) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("layers.0.self_attn.q_proj.lora_A.weight", "layers.0.self_attn.q_proj.lora_magnitude_vector", "magnitude"),
        ("layers.0.self_attn.q_proj.lora_A.weight", None, "not the other factor"),
        ("layers.0.self_attn.q_proj.", "layers.99.self_attn.q_proj.", r"layers\.99.*does not have"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(broken: Path, old: str, new: str | None, named: str) -> None:
    path = broken / "adapter_model.safetensors"
    tensors = {}
    for name, tensor in load_file(path).items():
        if old in name and "backbone_model" in name:
            if new is None:
                continue
            tensors[name.replace(old, new)] = tensor
        else:
            tensors[name] = tensor
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=named):
        open_checkpoint(str(broken), None)


def test_an_adapter_of_another_shape_is_named(broken: Path) -> None:
    path = broken / "adapter_model.safetensors"
    name = "base_model.model.backbone_model.layers.0.self_attn.q_proj.lora_B.weight"
    save_file(load_file(path) | {name: torch.zeros(3, 4)}, path)
    with pytest.raises(CheckpointError, match=r"q_proj\.weight' has shape \(3, 64\), but in .* \(64, 64\)"):
        open_checkpoint(str(broken), None).tensors.get("backbone_model.layers.0.self_attn.q_proj.weight")


def test_pickled_weights_are_refused(broken: Path) -> None:
    (broken / "adapter_model.safetensors").rename(broken / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="can execute code"):
        open_checkpoint(str(broken), None)


def test_a_base_that_is_missing_is_named_with_what_to_do(broken: Path) -> None:
    change(broken, base_model_name_or_path="/nowhere/csm")
    with pytest.raises(CheckpointNotFound, match="an adapter on /nowhere/csm, which is not available") as caught:
        open_checkpoint(str(broken), None)
    assert f"csm-serve merge --base MODEL --adapter {broken} NEW" in str(caught.value)


def test_an_adapter_on_an_adapter_is_refused(broken: Path, written: Written) -> None:
    change(broken, base_model_name_or_path=str(written.directory))
    with pytest.raises(CheckpointError, match="is an adapter too"):
        open_checkpoint(str(broken), None)
