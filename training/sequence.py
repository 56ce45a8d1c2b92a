"""Sequence: some clips one behind the other, as the model reads them, and how they lie in its context."""

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
    """What one row of a batch holds. The first `heard` segments are context, a voice prompt, and carry no loss."""

    segments: tuple[Example, ...]
    heard: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.heard < len(self.segments):
            raise ValueError(
                f"heard is {self.heard} of {len(self.segments)} segments: at least the last one is there to be learnt"
            )


class Layout:
    """Where a sequence's tokens and frames go, in positions of the model.

    Segment by segment: `<|begin_of_text|>[speaker]text<|end_of_text|>`, the frames, one closing frame of stop
    codes. That is how the engine lays out voices, history and text (engine/prompt_builder.py, engine/context.py), and
    transformers' CsmProcessor. White space is folded, as the engine folds it.
    """

    def __init__(self, tokenizer: TextTokenizer, config: Any) -> None:
        """config: transformers' CsmConfig. Its vocabulary says which codes there are."""
        self._tokenizer = tokenizer
        self.codebooks = int(config.num_codebooks)
        self.vocab = int(config.vocab_size)
        self.positions = int(config.max_position_embeddings)
        self.closing: Ids = np.full((1, self.codebooks), int(config.codebook_eos_token_id), dtype=np.int64)
        self._encode = lru_cache(maxsize=1 << 17)(self._encode_anew)

    def tokens(self, example: Example) -> Ids:
        """The text positions of a segment, (tokens,)."""
        return self._encode(example.text, example.speaker)

    def _encode_anew(self, text: str, speaker: int) -> Ids:
        return np.array(self._tokenizer.encode(" ".join(text.split()), speaker), dtype=np.int64)

    def length_of(self, example: Example) -> int:
        """The positions that one segment takes, its closing frame among them."""
        return len(self.tokens(example)) + len(example.codes) + 1

    def length(self, sequence: Sequence) -> int:
        return sum(map(self.length_of, sequence.segments))

    def check(self, examples: list[Example]) -> None:
        """Raises LayoutError, naming the first clip that cannot be learnt from and why."""
        for example in examples:
            codes, name = example.codes, example.name
            if codes.ndim != 2 or codes.shape[1] != self.codebooks or len(codes) == 0:
                raise LayoutError(
                    f"{name}: its codes have shape {codes.shape}, but this model reads (frames, {self.codebooks}); "
                    "prepare the data again, with this model"
                )
            if codes.min() < 0 or codes.max() >= self.vocab:
                raise LayoutError(
                    f"{name}: holds code {codes.min() if codes.min() < 0 else codes.max()}, but this model's run "
                    f"from 0 to {self.vocab - 1}; prepare the data again, with this model"
                )
            if self.length_of(example) > self.positions:
                raise LayoutError(
                    f"{name}: takes {self.length_of(example)} positions (text and {len(codes)} frames), but the model "
                    f"has {self.positions}; cut the clip into shorter ones"
                )
