"""csm-mini's backbone and depth decoder: model shape, text layout and packed training sequences."""

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
from training.base_checkpoint import tie_embeddings
from training.example import Example
from training.sequence import Ids, Layout, Sequence

from .alignment_init import initialize_alignment
from .codec import CODEBOOKS, CODES
from .codes import add_token_labels
from .pronunciation import ALPHABET, COUNT_TOKENS, FRAME_TOKENS
from .speech import SPEAKERS

POSITIONS = 1024
_SPEAKER_INDEX = 2  # index in a segment's tokens: after the begin token and the bracket
_MIN_CLIPS = 3  # per voice: with fewer a clip would often be its own prompt
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
    """A random CsmForConditionalGeneration of csm-mini's shape around a trained Mimi."""
    import transformers as untyped

    transformers: Any = untyped
    token_ids = {token: len(ALPHABET) + place for place, token in enumerate(SPECIAL_TOKENS)}
    config = transformers.CsmConfig(
        **SHAPE, bos_token_id=token_ids["<|begin_of_text|>"], audio_token_id=token_ids["<|AUDIO|>"],
        audio_eos_token_id=token_ids["<|audio_eos|>"], pad_token_id=token_ids["<|AUDIO|>"],
    )  # fmt: skip
    shared = {key: SHAPE[key] for key in ("num_codebooks", "vocab_size")}
    config.depth_decoder_config = transformers.CsmDepthDecoderConfig(
        **DEPTH_SHAPE, **shared, backbone_hidden_size=SHAPE["hidden_size"], max_position_embeddings=CODEBOOKS + 1
    )
    config.codec_config = codec.config
    torch.manual_seed(seed)
    model = transformers.CsmForConditionalGeneration(config)
    model.codec_model.load_state_dict(codec.state_dict())
    character_ids = {character: token for token, character in enumerate(ALPHABET)}
    counts = {token_ids: character_ids[symbol] for token_ids, symbol in COUNT_TOKENS.items()}
    initialize_alignment(
        model, [character_ids[character] for character in FRAME_TOKENS], counts, token_ids["<|end_of_text|>"]
    )
    return model


def write_checkpoint(model: Any, tokenizer: Path, directory: Path) -> None:
    """Write a checkpoint for MODEL_PATH, in bfloat16. tokenizer: path of its tokenizer.json."""
    directory.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(directory)
    shutil.copyfile(tokenizer, directory / "tokenizer.json")


def is_complete(directory: Path) -> bool:
    """Whether write_checkpoint has finished: it writes this file last."""
    return (directory / "tokenizer.json").exists()


def read_checkpoint(directory: Path) -> Any:
    """Load what `write_checkpoint` wrote, in float32."""
    import transformers as untyped

    transformers: Any = untyped
    model = transformers.CsmForConditionalGeneration.from_pretrained(directory, dtype=torch.float32)
    tie_embeddings(model, directory)
    return model


class CachedLayout(Layout):
    """Tokenizes each text once for all speakers: the speaker number, 0 to 9, is a single token."""

    def tokens(self, example: Example) -> Ids:
        tokens = self._encode(example.text, 0).copy()
        tokens[_SPEAKER_INDEX] += example.speaker
        return tokens

    def with_token_labels(self, example: Example) -> Example:
        """The example with token labels in the last codebook (codes.py), as the model generates it."""
        tokens = self._encode(example.text, 0)[_SPEAKER_INDEX + 2 : -2]
        return replace(example, codes=add_token_labels(example.codes, tokens))


class PackedSampler:
    """Packs clips of one voice into training sequences, like the turns of a conversation."""

    def __init__(self, examples: Ordered[tuple[str, Example]], layout: CachedLayout, rows: int) -> None:
        """examples: (voice name, example) pairs. rows: full-length sequences per step."""
        self._layout, self._rows = layout, rows
        self._clips: dict[str, list[Example]] = defaultdict(list)
        for voice, example in examples:
            self._clips[voice].append(example)
        self._voices = sorted(name for name, clips in self._clips.items() if len(clips) >= _MIN_CLIPS)
        counts = np.array([len(self._clips[name]) for name in self._voices], dtype=np.float64)
        self._voice_shares = counts / counts.sum()

    def __call__(self, _: int, rng: np.random.Generator) -> list[Sequence]:
        fraction = int(rng.choice((1, 2, 3, 4)))  # of a context: short sequences are learnt sooner
        return [self._row(POSITIONS // fraction, rng) for _ in range(self._rows * fraction)]

    def _row(self, length: int, rng: np.random.Generator) -> Sequence:
        """The voice is given by the speaker number in half of the rows, by a first clip as prompt in the others."""
        name = self._voices[int(rng.choice(len(self._voices), p=self._voice_shares))]
        speaker_number = SPEAKERS.index(name) if name in SPEAKERS else None
        by_number = speaker_number is not None and rng.random() < 0.5
        speaker = speaker_number if by_number and speaker_number is not None else int(rng.integers(10))
        clips, remaining = self._clips[name], length
        segments: list[Example] = []
        prompt_segments = 0 if by_number else 1
        while True:
            example = replace(clips[int(rng.integers(len(clips)))], speaker=speaker)
            remaining -= self._layout.segment_length(example)
            if remaining < 0 and len(segments) > prompt_segments:
                break
            segments.append(example if len(segments) < prompt_segments else self._layout.with_token_labels(example))
        return Sequence(tuple(segments), prompt_segments)
