"""Sampling codes from the language model, and finetuning the decoder on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from engine.model.tokenizer import TextTokenizer
from models.csm_mini_recipe import __main__ as recipe
from models.csm_mini_recipe.codec import CODEBOOKS, CODES, build_codec
from models.csm_mini_recipe.decoder_finetuning import sample_codes
from models.csm_mini_recipe.language import CachedLayout, build_model, is_complete, read_checkpoint, write_checkpoint
from models.csm_mini_recipe.pronunciation import build_tokenizer
from training.batches import collate
from training.example import Example
from training.losses import CsmLosses
from training.sequence import Sequence

TEXT, FRAMES = "Some words. Some words.", 18


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    build_tokenizer({"some": ["s", "ʌ", "m"], "words": ["w", "ˈɜː", "d", "z"]}).save(str(path))
    return path


@pytest.fixture
def model() -> Any:
    return build_model(build_codec(0), 0).eval()


def test_greedy_codes_equal_transformers(model: Any, tokenizer: Path) -> None:
    layout = CachedLayout(TextTokenizer(tokenizer), model.config)
    rng = np.random.default_rng(0)
    clips = [Example(str(n), "some words", n, rng.integers(1, CODES, (3 + n, CODEBOOKS))) for n in range(2)]
    batch = collate([Sequence((clip,)) for clip in clips], layout, 0.0, rng)
    sampled = sample_codes(model, batch, temperature=0.8, top_k=1)
    assert sampled.shape == (3 + 1 + 4 + 1, CODEBOOKS)
    with torch.no_grad():
        initial = CsmLosses(model).backbone_hidden(batch)
        for frame, hidden in zip(sampled, initial, strict=True):
            assert int(frame[0]) == int(model.lm_head(hidden).argmax())
            for codebook in range(1, CODEBOOKS):
                input_ids = torch.cat((torch.zeros(1, dtype=torch.long), frame[:codebook]))[None]
                found = model.depth_decoder(input_ids=input_ids, backbone_last_hidden_state=hidden[None])
                assert int(frame[codebook]) == int(found.logits[0, -1].argmax())


def test_sampling_respects_top_k(model: Any, tokenizer: Path) -> None:
    layout = CachedLayout(TextTokenizer(tokenizer), model.config)
    clip = Example("1", "some words", 0, np.ones((50, CODEBOOKS), np.int64))
    batch = collate([Sequence((clip,))], layout, 0.0, np.random.default_rng(0))
    with torch.no_grad():
        likely = model.lm_head(CsmLosses(model).backbone_hidden(batch)).topk(3).indices
    torch.manual_seed(0)
    first_codes = torch.stack([sample_codes(model, batch, temperature=5.0, top_k=3)[:, 0] for _ in range(20)], dim=1)
    assert (first_codes[:, :, None] == likely[:, None]).any(-1).all()
    assert max(len(set(row.tolist())) for row in first_codes) == 3


def test_finetuning_changes_only_the_decoder(
    model: Any, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "FINETUNING_STEPS", 2)
    monkeypatch.setattr(recipe, "CODEC_BATCH", 2)
    rng = np.random.default_rng(0)
    voices = ["anna", "david", "f1@40"]
    speech, samples = tmp_path / "speech", FRAMES * 1920
    speech.mkdir()
    lines = [{"text": TEXT, "voice": voice, "samples": samples} for voice in voices]
    (speech / "00000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    np.save(speech / "00000.npy", rng.integers(-9_000, 9_000, len(voices) * samples).astype(np.int16))
    codes = {f"00000-{n:03}": rng.integers(1, CODES, (FRAMES, CODEBOOKS)).astype(np.int16) for n in range(3)}
    save_file(codes, tmp_path / "codes.safetensors")
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    assert not is_complete(tmp_path / "language-model")
    write_checkpoint(model, tokenizer, tmp_path / "language-model")
    assert is_complete(tmp_path / "language-model")

    model = read_checkpoint(tmp_path / "language-model")
    initial = {name: weight.clone() for name, weight in model.state_dict().items()}
    recipe.finetune_decoder(model, speech, tmp_path)
    sampled = load_file(tmp_path / "sampled-codes.safetensors")
    assert {name: each.shape for name, each in sampled.items()} == {
        "00000-000": (FRAMES, CODEBOOKS), "00000-001": (FRAMES, CODEBOOKS),
    }  # fmt: skip
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, initial[name])}
    decoder_prefixes = ("upsample", "decoder_transformer", "decoder.", "quantizer")
    assert changed
    assert all(name.startswith("codec_model.") for name in changed)
    assert all(name.removeprefix("codec_model.").startswith(decoder_prefixes) for name in changed)
    assert not any("codebook" in name for name in changed)

    resumed = read_checkpoint(tmp_path / "language-model")
    recipe.finetune_decoder(resumed, speech, tmp_path)  # already complete
    assert all(torch.equal(weight, resumed.state_dict()[name]) for name, weight in model.state_dict().items())
