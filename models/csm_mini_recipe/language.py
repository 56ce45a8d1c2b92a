"""csm-mini's backbone and depth decoder: their shape, their alphabet, and what they read while they learn."""

from __future__ import annotations

import copy
import shutil
from collections import defaultdict
from collections.abc import Sequence as Ordered
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.random_checkpoint import SPECIAL_TOKENS
from training.example import Example
from training.sequence import Ids, Layout, Sequence

from .alignment_init import point
from .codec import CODEBOOKS, CODES
from .codes import label
from .pronunciation import ALPHABET, COUNTS, SAID
from .speech import SPEAKERS

POSITIONS = 1024
_SPEAKER = 2  # where in a segment's tokens: behind the begin token and a bracket
_FEWEST = 3  # clips of a voice: of fewer it would be its own prompt
SHAPE: dict[str, Any] = {
    "num_codebooks": CODEBOOKS, "vocab_size": CODES + 3, "codebook_eos_token_id": 0, "codebook_pad_token_id": CODES + 2,
    "text_vocab_size": len(ALPHABET) + len(SPECIAL_TOKENS), "hidden_size": 256, "intermediate_size": 768,
    "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64,
    "max_position_embeddings": POSITIONS, "rope_theta": 10_000.0, "rope_scaling": None,
}  # fmt: skip
DEPTH_SHAPE: dict[str, Any] = {
    "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 48, "rope_theta": 10_000.0, "rope_scaling": None,
}  # fmt: skip


def build_model(codec: Any, seed: int) -> Any:
    """A random CsmForConditionalGeneration of csm-mini's shape around a Mimi that has learnt."""
    import transformers as untyped

    transformers: Any = untyped
    number = {token: len(ALPHABET) + place for place, token in enumerate(SPECIAL_TOKENS)}
    config = transformers.CsmConfig(
        **SHAPE, bos_token_id=number["<|begin_of_text|>"], audio_token_id=number["<|AUDIO|>"],
        audio_eos_token_id=number["<|audio_eos|>"], pad_token_id=number["<|AUDIO|>"],
    )  # fmt: skip
    shared = {key: SHAPE[key] for key in ("num_codebooks", "vocab_size")}
    config.depth_decoder_config = transformers.CsmDepthDecoderConfig(
        **DEPTH_SHAPE, **shared, backbone_hidden_size=SHAPE["hidden_size"], max_position_embeddings=CODEBOOKS + 1
    )
    config.codec_config = codec.config
    torch.manual_seed(seed)
    model = transformers.CsmForConditionalGeneration(config)
    model.codec_model.load_state_dict(codec.state_dict())
    numbers = {character: token for token, character in enumerate(ALPHABET)}
    counts = {number: numbers[symbol] for number, symbol in COUNTS.items()}
    point(model, [numbers[character] for character in SAID], counts, number["<|end_of_text|>"])
    return model


def write_checkpoint(model: Any, tokenizer: Path, directory: Path) -> None:
    """A directory that MODEL_PATH serves, in bfloat16. tokenizer: its tokenizer.json."""
    directory.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(directory)
    shutil.copyfile(tokenizer, directory / "tokenizer.json")


def is_written(directory: Path) -> bool:
    """To its last file."""
    return (directory / "tokenizer.json").exists()


def read_checkpoint(directory: Path) -> Any:
    """What `write_checkpoint` wrote, in float32."""
    import transformers as untyped

    transformers: Any = untyped
    return transformers.CsmForConditionalGeneration.from_pretrained(directory, dtype=torch.float32)


class QuickLayout(Layout):
    """Takes each text apart once, whoever says it: the speaker's number, 0 to 9, is one token of its own."""

    def tokens(self, example: Example) -> Ids:
        tokens = self._encode(example.text, 0).copy()
        tokens[_SPEAKER] += example.speaker
        return tokens

    def labelled(self, example: Example) -> Example:
        """As the model is to say it: with the last codebook telling which token each frame is (codes.py)."""
        tokens = self._encode(example.text, 0)[_SPEAKER + 2 : -2]
        return replace(example, codes=label(example.codes, tokens))


class Reader:
    """What a step learns from: rows of one voice's clips one behind the other, as a conversation is read."""

    def __init__(self, examples: Ordered[tuple[str, Example]], layout: QuickLayout, rows: int) -> None:
        """examples: with the name of each one's voice. rows: sequences a step."""
        self._layout, self._rows = layout, rows
        self._said: dict[str, list[Example]] = defaultdict(list)
        for voice, example in examples:
            self._said[voice].append(example)
        self._names = sorted(name for name, said in self._said.items() if len(said) >= _FEWEST)
        counts = np.array([len(self._said[name]) for name in self._names], dtype=np.float64)
        self._share = counts / counts.sum()

    def __call__(self, _: int, rng: np.random.Generator) -> list[Sequence]:
        share = int(rng.choice((1, 2, 3, 4)))  # of a context: what is short is learnt sooner
        return [self._row(POSITIONS // share, rng) for _ in range(self._rows * share)]

    def _row(self, length: int, rng: np.random.Generator) -> Sequence:
        """Half the time the number of the speaker tells the voice, and half the time what is heard of it first."""
        name = self._names[int(rng.choice(len(self._names), p=self._share))]
        known = SPEAKERS.index(name) if name in SPEAKERS else None
        told = known is not None and rng.random() < 0.5
        speaker = known if told and known is not None else int(rng.integers(10))
        clips, room = self._said[name], length
        segments: list[Example] = []
        heard = 0 if told else 1
        while True:
            example = replace(clips[int(rng.integers(len(clips)))], speaker=speaker)
            room -= self._layout.segment_length(example)
            if room < 0 and len(segments) > heard:
                break
            segments.append(example if len(segments) < heard else self._layout.labelled(example))
        return Sequence(tuple(segments), heard)
