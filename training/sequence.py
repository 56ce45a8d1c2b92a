"""Sequence layout: a sequence's clips as positions of the model's context."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.model.tokenizer import TextTokenizer

from .errors import LayoutError
from .example import Example

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sequence:
    """One row of a batch: clips in order. The first `prompt_segments` are a voice prompt and carry no loss."""

    segments: tuple[Example, ...]
    prompt_segments: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.prompt_segments < len(self.segments):
            raise ValueError(
                f"prompt_segments is {self.prompt_segments} of {len(self.segments)} segments: at least the "
                "last one must be a target"
            )


class Layout:
    """Positions of a sequence's text tokens and frames.

    Per segment: `<|begin_of_text|>[speaker]text<|end_of_text|>`, the frames, one closing frame of stop codes. The
    engine lays out voices, history and text in the same way (engine/prompt_builder.py, engine/context.py), and so does
    transformers' CsmProcessor. White space is normalized as in the engine.
    """

    def __init__(self, tokenizer: TextTokenizer, config: Any) -> None:
        """config: transformers' CsmConfig."""
        self._tokenizer = tokenizer
        self.codebooks = int(config.num_codebooks)
        self.vocab = int(config.vocab_size)
        self.max_positions = int(config.max_position_embeddings)
        self.closing_frame: Ids = np.full((1, self.codebooks), int(config.codebook_eos_token_id), dtype=np.int64)
        self._encode = lru_cache(maxsize=1 << 17)(self._tokenize)

    def tokens(self, example: Example) -> Ids:
        """Text tokens of a segment, (tokens,)."""
        return self._encode(example.text, example.speaker)

    def _tokenize(self, text: str, speaker: int) -> Ids:
        return np.array(self._tokenizer.encode(" ".join(text.split()), speaker), dtype=np.int64)

    def segment_length(self, example: Example) -> int:
        """Number of positions of one segment, closing frame included."""
        return len(self.tokens(example)) + len(example.codes) + 1

    def sequence_length(self, sequence: Sequence) -> int:
        return sum(map(self.segment_length, sequence.segments))

    def check(self, examples: list[Example]) -> None:
        """Raises LayoutError for the first clip that cannot be trained on, naming it and the reason."""
        for example in examples:
            codes, name = example.codes, example.name
            if codes.ndim != 2 or codes.shape[1] != self.codebooks or len(codes) == 0:
                raise LayoutError(
                    f"{name}: its codes have shape {codes.shape}, but this model expects (frames, {self.codebooks}); "
                    "prepare the data again, with this model"
                )
            if codes.min() < 0 or codes.max() >= self.vocab:
                raise LayoutError(
                    f"{name}: contains code {codes.min() if codes.min() < 0 else codes.max()}, but this model's codes "
                    f"are 0 to {self.vocab - 1}; prepare the data again, with this model"
                )
            if self.segment_length(example) > self.max_positions:
                raise LayoutError(
                    f"{name}: takes {self.segment_length(example)} positions (text and {len(codes)} frames), but the "
                    f"model has {self.max_positions}; split the clip"
                )
