"""A merged checkpoint equals base plus adapter, and the engine generates from it as transformers does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from engine import CheckpointError, EngineConfig, SpeechRequest, load_engine, random_checkpoint
from training.base_checkpoint import checkpoint_fingerprint, load_base
from training.batches import collate
from training.errors import BaseCheckpointError
from training.example import Example
from training.export import export_model
from training.lora import LoraSettings, add_lora, suppress_peft_warnings, write_adapter
from training.losses import CsmLosses
from training.merge import merge
from training.sequence import Sequence
from training.trainer import train

from .short_runs import SHORT, random_examples

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Trained:
    model: Any  # with the adapter's layers
    adapter: Path


@pytest.fixture(scope="module")
def trained(base_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    base = load_base(str(base_directory))
    out = tmp_path_factory.mktemp("trained")
    adapted = add_lora(base, LoraSettings(rank=4, heads=True), seed=0)
    sequences = [Sequence((example,)) for example in random_examples(5)]
    train(base.model, base.layout, lambda step, rng: sequences, SHORT, out)
    write_adapter(adapted, base, out / "adapter")
    return Trained(base.model, out / "adapter")


def logits_of(model: Any, examples: list[Example], base_directory: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers' own logits: the backbone's for a text, the depth decoder's for some frames."""
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 64, (3, 4), generator=generator)
    with torch.no_grad():
        backbone = model(input_ids=torch.randint(0, 64, (2, 9, 4), generator=generator)).logits
        hidden = torch.randn(3, 64, generator=generator)
        depth = model.depth_decoder(input_ids=frames, backbone_last_hidden_state=hidden).logits
    return backbone, depth


def test_merged_is_base_plus_adapter(
    trained: Trained, base_directory: Path, examples: list[Example], tmp_path: Path
) -> None:
    out = merge(str(trained.adapter), tmp_path / "merged")
    merged, base = load_base(str(out)).model, load_base(str(base_directory)).model
    for one, other, plain in zip(
        *(logits_of(model, examples, base_directory) for model in (merged, trained.model, base)), strict=True
    ):
        torch.testing.assert_close(one, other)
        assert (one - plain).abs().max() > 0.05
    layout = load_base(str(out)).layout
    batch = collate([Sequence((each,)) for each in examples], layout, 1.0, np.random.default_rng(0))
    with torch.no_grad():
        one, other = (CsmLosses(model)(batch) for model in (merged, trained.model))
    torch.testing.assert_close(one.first, other.first)
    torch.testing.assert_close(one.depth, other.depth)


def test_the_engine_generates_the_same_codes_as_transformers(
    trained: Trained, base_directory: Path, tmp_path: Path
) -> None:
    out = merge(str(trained.adapter), tmp_path / "merged")
    assert {path.name for path in out.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    }  # fmt: skip
    base = load_base(str(out))
    engine = load_engine(EngineConfig(str(out), device="cpu", dtype="float32", slots=1))
    try:
        codes = engine.generate(SpeechRequest("Hello there.", temperature=0, max_frames=8)).codes
    finally:
        engine.close()
    ids = torch.tensor([base.layout._encode("Hello there.", 0).tolist()])
    suppressed = list(range(64, 67))  # codes without a codec entry
    with torch.no_grad():
        expected = base.model.generate(
            input_ids=ids,
            max_new_tokens=len(codes),
            do_sample=False,
            suppress_tokens=suppressed,
            depth_decoder_do_sample=False,
            depth_decoder_suppress_tokens=suppressed,
        )[0]
    np.testing.assert_array_equal(codes, expected)


def test_the_adapter_loads_with_the_same_logits(
    trained: Trained, base_directory: Path, examples: list[Example]
) -> None:
    base = load_base(str(base_directory))
    with suppress_peft_warnings():
        PeftModel.from_pretrained(base.model, str(trained.adapter))
    for one, other in zip(
        *(logits_of(model, examples, base_directory) for model in (base.model, trained.model)), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_another_base_is_refused(trained: Trained, tmp_path: Path) -> None:
    other = random_checkpoint.write_checkpoint(
        tmp_path / "other", random_checkpoint.build_model(random_checkpoint.TINY, seed=4)
    )
    with pytest.raises(BaseCheckpointError, match="whose weights differ from those of"):
        merge(str(trained.adapter), tmp_path / "merged", str(other))
    assert not (tmp_path / "merged").exists()


def test_a_bfloat16_copy_of_the_base_is_accepted(trained: Trained, base_directory: Path, tmp_path: Path) -> None:
    base = load_base(str(base_directory))
    bfloat16_copy = export_model(base_directory, base.model.state_dict(), tmp_path / "bfloat16_copy", torch.bfloat16)
    assert checkpoint_fingerprint(bfloat16_copy) == checkpoint_fingerprint(base_directory)
    out = merge(str(trained.adapter), tmp_path / "merged", str(bfloat16_copy))
    weights = load_file(out / "model.safetensors")
    codec = load_file(base_directory / "model.safetensors")
    for name, tensor in weights.items():
        if name.startswith("codec_model."):
            assert torch.equal(tensor, codec[name])
        else:
            assert tensor.dtype == torch.bfloat16
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


def test_an_invalid_adapter_is_reported(base_directory: Path, trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: is missing; an adapter is a directory"):
        merge(str(tmp_path), tmp_path / "merged")
    for path in trained.adapter.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "csm_adapter.json").write_text("{")
    with pytest.raises(BaseCheckpointError, match=r"csm_adapter\.json: is damaged"):
        merge(str(tmp_path), tmp_path / "merged")


def test_existing_files_are_not_overwritten(base_directory: Path, trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(FileExistsError, match="name a new directory"):
        merge(str(trained.adapter), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_sesames_layout_is_refused(base_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"backbone_flavor": "llama-1B"}))
    (tmp_path / "tokenizer.json").write_bytes((base_directory / "tokenizer.json").read_bytes())
    with pytest.raises(BaseCheckpointError, match="only transformers' layout"):
        load_base(str(tmp_path))
