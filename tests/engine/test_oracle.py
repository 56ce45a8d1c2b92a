"""The engine's codes and samples equal those of transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import SpeechRequest, SpeechSegment, VoicePrompt
from engine.engine_core import CsmEngine

from . import checkpoints, oracle

Load = Callable[..., CsmEngine]
CODEC_VOCAB = 64

SHAPES: dict[str, dict[str, Any]] = {
    "llama3 rope, tied, grouped heads": {},
    "default rope": {"rope_scaling": None, "depth_rope_scaling": None},
    "untied embeddings": {"tie_codebooks_embeddings": False},
    "one head per group": {"num_key_value_heads": 8, "depth_num_key_value_heads": 4},
    "one group": {"num_key_value_heads": 1, "depth_num_key_value_heads": 1},
    "wide heads, eight codebooks": {"num_codebooks": 8, "head_dim": 24, "depth_head_dim": 16},
    "two codebooks, one layer": {"num_codebooks": 2, "num_hidden_layers": 1, "depth_num_hidden_layers": 1},
}


@pytest.mark.parametrize("name", SHAPES)
def test_greedy_codes_equal_transformers(name: str, load: Load, voice: VoicePrompt, tmp_path: Path) -> None:
    model = checkpoints.build_model(seed=len(name), **SHAPES[name])
    engine = load(checkpoints.write_checkpoint(tmp_path, model))
    tokenizer = checkpoints.write_tokenizer(tmp_path)
    for text, speaker, prompt in (("Hello.", 0, None), ("A somewhat longer text, said twice.", 3, voice)):
        speech = engine.generate(SpeechRequest(text=text, speaker=speaker, voice=prompt, temperature=0, max_frames=40))
        inputs = oracle.prompt(tokenizer, text, speaker, prompt)
        expected = oracle.greedy_codes(model, inputs, len(speech.codes), CODEC_VOCAB)
        assert len(speech.codes) > 1
        np.testing.assert_array_equal(speech.codes, expected)


def test_a_conversation_gives_the_codes_of_transformers(load: Load, voice: VoicePrompt, tmp_path: Path) -> None:
    """Voice, assistant, user and assistant again: the user's audio is encoded, under another speaker."""
    model = checkpoints.build_model(seed=5)
    engine = load(checkpoints.write_checkpoint(tmp_path, model))
    tokenizer = checkpoints.write_tokenizer(tmp_path)
    rng = np.random.default_rng(5)
    answer, question = (rng.normal(0, 0.1, count).astype(np.float32) for count in (30_000, 25_000))
    turns = [("How are you?", 0, answer), ("Fine, and you?", 1, question)]
    history = []
    for text, speaker, samples in turns:
        codes = engine.encode(VoicePrompt(samples))
        assert codes is not None
        history.append(SpeechSegment(text, codes, speaker))
    request = SpeechRequest("I am well.", voice=voice, history=tuple(history), temperature=0, max_frames=30)
    speech = engine.generate(request)
    inputs = oracle.conversation(tokenizer, [(voice.transcript, 0, voice.samples), *turns], "I am well.", 0)
    np.testing.assert_array_equal(speech.codes, oracle.greedy_codes(model, inputs, len(speech.codes), CODEC_VOCAB))
    alone = engine.generate(replace(request, history=tuple(history[:1]))).codes
    assert alone.shape != speech.codes.shape or (alone != speech.codes).any()


def test_samples_equal_the_codec_of_transformers(engine: CsmEngine, model: Any, voice: VoicePrompt) -> None:
    speech = engine.generate(SpeechRequest(text="Hello there.", voice=voice, seed=1, max_frames=30))
    assert speech.samples.shape == (len(speech.codes) * 1920,)
    expected = oracle.decode(model, speech.codes)
    full_scale = np.abs(expected).max()
    assert full_scale > 0.01
    np.testing.assert_allclose(speech.samples / full_scale, expected / full_scale, atol=1e-4)


def test_streamed_chunks_join_to_the_complete_audio(engine: CsmEngine) -> None:
    request = SpeechRequest(text="One, two, three.", seed=9, max_frames=23)
    whole = engine.generate(request)
    chunks = list(engine.stream(request))
    sizes = [len(chunk.codes) for chunk in chunks]
    assert sizes[:2] == [1, 1]
    assert max(sizes) <= 5
    assert sum(sizes) == 23
    np.testing.assert_array_equal(np.concatenate([chunk.samples for chunk in chunks]), whole.samples)
    np.testing.assert_array_equal(np.concatenate([chunk.codes for chunk in chunks]), whole.codes)
    assert [chunk.ends_speech for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_ids_without_a_codec_entry_are_never_sampled(load: Load, tmp_path: Path) -> None:
    model = checkpoints.build_model(seed=3, codec_codebook_size=32)  # CSM's heads have 67 ids
    engine = load(checkpoints.write_checkpoint(tmp_path, model))
    speech = engine.generate(SpeechRequest(text="Anything at all.", temperature=2.0, top_k=67, max_frames=60, seed=4))
    assert 24 <= speech.codes.max() < 32


def test_a_sharded_checkpoint_gives_the_same_output(
    load: Load, model: Any, checkpoint: Path, voice: VoicePrompt, tmp_path: Path
) -> None:
    sharded = checkpoints.write_checkpoint(tmp_path, model, shard_size="150KB")
    assert (sharded / "model.safetensors.index.json").is_file()
    request = SpeechRequest(text="Read it from anywhere.", voice=voice, temperature=0, max_frames=12)
    one, other = load(checkpoint).generate(request), load(sharded).generate(request)
    np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_array_equal(one.samples, other.samples)


def test_sesames_original_layout_gives_the_same_output(load: Load, tmp_path: Path) -> None:
    rope = checkpoints.LLAMA3_ROPE | {"original_max_position_embeddings": 8192}  # as in Sesame's flavors
    model = checkpoints.build_model(seed=8, rope_scaling=rope, depth_rope_scaling=rope, vocab_size=64)
    ours = checkpoints.write_checkpoint(tmp_path / "transformers", model)
    sesame = checkpoints.write_sesame_checkpoint(tmp_path / "sesame", ours)
    mimi = checkpoints.write_moshi_mimi(tmp_path / "mimi.safetensors")
    request = SpeechRequest(text="Read it from anywhere.", temperature=0, max_frames=12)
    expected = load(ours).generate(request).codes
    speech = load(sesame, mimi_weights=str(mimi)).generate(request)
    np.testing.assert_array_equal(speech.codes, expected)
    assert speech.samples.shape == (12 * 1920,)
