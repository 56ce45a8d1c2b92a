"""Codes as the language model says them, and the decoder that learns from them."""

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
from models.csm_mini_recipe.decoder_finetuning import draw
from models.csm_mini_recipe.language import QuickLayout, build_model, is_written, read_checkpoint, write_checkpoint
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


def test_what_is_likeliest_is_what_transformers_finds(model: Any, tokenizer: Path) -> None:
    layout = QuickLayout(TextTokenizer(tokenizer), model.config)
    rng = np.random.default_rng(0)
    clips = [Example(str(n), "some words", n, rng.integers(1, CODES, (3 + n, CODEBOOKS))) for n in range(2)]
    batch = collate([Sequence((clip,)) for clip in clips], layout, 0.0, rng)
    drawn = draw(model, batch, temperature=0.8, top_k=1)
    assert drawn.shape == (3 + 1 + 4 + 1, CODEBOOKS)
    with torch.no_grad():
        before = CsmLosses(model).backbone_hidden(batch)
        for frame, hidden in zip(drawn, before, strict=True):
            assert int(frame[0]) == int(model.lm_head(hidden).argmax())
            for told in range(1, CODEBOOKS):
                given = torch.cat((torch.zeros(1, dtype=torch.long), frame[:told]))[None]
                found = model.depth_decoder(input_ids=given, backbone_last_hidden_state=hidden[None])
                assert int(frame[told]) == int(found.logits[0, -1].argmax())


def test_chance_keeps_to_what_is_likely(model: Any, tokenizer: Path) -> None:
    layout = QuickLayout(TextTokenizer(tokenizer), model.config)
    clip = Example("1", "some words", 0, np.ones((50, CODEBOOKS), np.int64))
    batch = collate([Sequence((clip,))], layout, 0.0, np.random.default_rng(0))
    with torch.no_grad():
        likely = model.lm_head(CsmLosses(model).backbone_hidden(batch)).topk(3).indices
    torch.manual_seed(0)
    firsts = torch.stack([draw(model, batch, temperature=5.0, top_k=3)[:, 0] for _ in range(20)], dim=1)
    assert (firsts[:, :, None] == likely[:, None]).any(-1).all()
    assert max(len(set(row.tolist())) for row in firsts) == 3


def test_a_decoder_learns_from_what_is_said_and_nothing_else_changes(
    model: Any, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "POLISH_STEPS", 2)
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
    assert not is_written(tmp_path / "unpolished")
    write_checkpoint(model, tokenizer, tmp_path / "unpolished")
    assert is_written(tmp_path / "unpolished")

    model = read_checkpoint(tmp_path / "unpolished")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    recipe.polish(model, speech, tmp_path)
    drawn = load_file(tmp_path / "drawn.safetensors")
    assert {name: each.shape for name, each in drawn.items()} == {
        "00000-000": (FRAMES, CODEBOOKS), "00000-001": (FRAMES, CODEBOOKS),
    }  # fmt: skip
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    heard = ("upsample", "decoder_transformer", "decoder.", "quantizer")
    assert changed
    assert all(name.startswith("codec_model.") for name in changed)
    assert all(name.removeprefix("codec_model.").startswith(heard) for name in changed)
    assert not any("codebook" in name for name in changed)

    again = read_checkpoint(tmp_path / "unpolished")
    recipe.polish(again, speech, tmp_path)  # it is done already
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())
