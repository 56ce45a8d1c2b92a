"""Text tokenizer: encodes a segment as `<|begin_of_text|>[speaker]text<|end_of_text|>`."""

from __future__ import annotations

from pathlib import Path

import tokenizers  # type: ignore[import-untyped]

from ..errors import CheckpointError

_BEGIN, _END = "<|begin_of_text|>", "<|end_of_text|>"


class TextTokenizer:
    """Wraps a checkpoint's tokenizer.json. Raises CheckpointError if it is missing, damaged, or lacks CSM's tokens."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise CheckpointError(f"{path}: is missing; it must hold Llama 3.2's tokenizer")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise CheckpointError(f"{path}: is not a tokenizer: {error}") from error
        self.begin, self.end = self._id(path, _BEGIN), self._id(path, _END)
        # Special tokens inside the text are encoded as plain text.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def _id(self, path: Path, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise CheckpointError(f"{path}: the token {token!r} is missing")
        return int(number)

    @property
    def size(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str, speaker: int) -> list[int]:
        """Encode one text segment, including the begin and end tokens."""
        inner: list[int] = self._tokenizer.encode(f"[{speaker}]{text}", add_special_tokens=False).ids
        return [self.begin, *inner, self.end]
