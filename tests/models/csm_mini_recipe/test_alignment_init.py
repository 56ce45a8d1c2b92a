"""A newly initialized model attends from each frame to its token, anywhere in a conversation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.csm.modeling_csm import apply_rotary_pos_emb

from engine.model.tokenizer import TextTokenizer
from models.csm_mini_recipe.codec import CODEBOOKS, CODES, build_codec
from models.csm_mini_recipe.language import build_model
from models.csm_mini_recipe.pronunciation import build_tokenizer
from training.batches import collate
from training.example import Example
from training.losses import CsmLosses
from training.sequence import Layout, Sequence

LEXICON = {"some": ["s", "ʌ", "m"], "more": ["m", "ˈɔːɹ"], "words": ["w", "ˈɜː", "d", "z"], "a": ["ɐ"]}
TEXTS = ("some words", "a", "some more words, a word. some more words!", "some words. " * 12, "a more")
BEFORE = 4  # tokens: the begin token and the speaker's number in brackets


@pytest.fixture(scope="module")
def model() -> Any:
    return build_model(build_codec(0), 0).eval()


@pytest.fixture(scope="module")
def layout(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    build_tokenizer(LEXICON).save(str(path))
    return Layout(TextTokenizer(path), model.config)


def attention_of(model: Any, sequence: Sequence, layout: Layout) -> dict[int, torch.Tensor]:
    """Attention weights of the first layers, (heads, length, length) each."""
    weights: dict[int, torch.Tensor] = {}

    def record(number: int) -> Any:
        def hook(attention: Any, arguments: Any, keywords: dict[str, Any]) -> None:
            x = keywords["hidden_states"] if "hidden_states" in keywords else arguments[0]
            cos, sin = keywords["position_embeddings"]
            q, k = (
                each(x).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
                for each in (attention.q_proj, attention.k_proj)
            )
            q, k = apply_rotary_pos_emb(q, k, cos, sin)
            scores = (q @ k.transpose(2, 3))[0] * attention.head_dim**-0.5
            future = torch.ones_like(scores, dtype=torch.bool).triu(1)
            weights[number] = scores.masked_fill(future, float("-inf")).softmax(-1)

        return hook

    handles = [
        layer.self_attn.register_forward_pre_hook(record(number), with_kwargs=True)
        for number, layer in enumerate(model.backbone_model.layers[:3])
    ]
    with torch.no_grad():
        CsmLosses(model)(collate([sequence], layout, 1.0, np.random.default_rng(0)))
    for handle in handles:
        handle.remove()
    return weights


def test_frames_attend_to_the_token_they_speak(model: Any, layout: Layout) -> None:
    rng = np.random.default_rng(3)
    clips = []
    for text in TEXTS:
        tokens = len(layout.tokens(Example(text, text, 7, np.zeros((1, CODEBOOKS), np.int64))))
        clips.append(Example(text, text, 7, rng.integers(1, CODES, (tokens - BEFORE - 2, CODEBOOKS))))
    attention = attention_of(model, Sequence(tuple(clips)), layout)
    start, weights = 0, []
    for clip in clips:
        frames = len(clip.codes)
        count_position = start + BEFORE + frames  # the count token; the end token follows it
        # each predicts the next frame, the last one the closing frame
        queries = torch.arange(count_position + 1, count_position + 2 + frames)
        assert float(attention[0][0, queries, count_position].min()) > 0.9
        token_positions = start + BEFORE + torch.arange(frames + 1)
        assert float(attention[1][0, queries, token_positions].min()) > 0.7
        assert float(attention[1][1, queries[:-1], token_positions[1:]].min()) > 0.7
        assert float(attention[1][2, queries[1:], token_positions[:-1]].min()) > 0.7
        weights.append(attention[2][0, queries, token_positions])
        start += layout.segment_length(clip)
    assert float(torch.cat(weights).mean()) > 0.8
