"""Moonshine, a recogniser whose cost grows with the length of the speech, from its ONNX files.

The model is that of Jeffries et al. 2024, "Moonshine: Speech Recognition for Live Transcription and Voice Commands".
Its files are those of onnx-community's repositories on the Hub: an encoder of the waveform, and a decoder that writes
one token at a time. Nothing beside the service's own dependencies is needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from engine import MachineLimits, inference_session

from .local_transcriber import RATE, THREADS, fetching
from .transcriber import Samples

_T = TypeVar("_T")

MODELS = {
    "moonshine/tiny": "onnx-community/moonshine-tiny-ONNX",
    "moonshine/base": "onnx-community/moonshine-base-ONNX",
}
_CONFIG, _TOKENIZER = "config.json", "tokenizer.json"
_ENCODER, _DECODER = "onnx/encoder_model.onnx", "onnx/decoder_model_merged.onnx"
FILES = (_CONFIG, _TOKENIZER, _ENCODER, _DECODER)
_LONGEST_SECONDS = 20  # of a piece: as many words as its positions hold even of fast speech, and as it was trained on
_SHORTEST_SAMPLES = RATE // 8  # the encoder's convolutions need half of it
_TOKENS_PER_SECOND = 13  # nobody speaks faster, in any language: a decoder that repeats itself ends there
_PAUSE_SAMPLES = RATE // 10


def is_moonshine(model: str) -> bool:
    """Whether a model is one of MODELS, or a repository or folder with that word in its name."""
    return model.startswith("moonshine/") or "moonshine" in Path(model).name.lower()


class Moonshine:
    """Downloads its files at its first use, with a progress bar. Each model knows one language, mostly English.

    model: of MODELS, a repository with the same files, or a folder. Raises OSError if they cannot be had, ValueError if
    one of them is damaged.
    """

    def __init__(self, model: str) -> None:
        from tokenizers import Tokenizer  # type: ignore[import-untyped]

        files = _fetch(model)
        threads = MachineLimits().cores().threads(THREADS)
        config = _read(files[_CONFIG], lambda path: _Config(json.loads(path.read_text("utf-8"))))
        self._tokenizer: Any = _read(files[_TOKENIZER], lambda path: Tokenizer.from_file(str(path)))
        self._encoder = _read(files[_ENCODER], lambda path: inference_session(path, threads))
        self._decoder = _read(files[_DECODER], lambda path: inference_session(path, threads))
        self._config = config

    def recognise(self, samples: Samples, language: str | None, prompt: str | None) -> str:
        return " ".join(filter(None, map(self._words, pieces(samples))))

    def _words(self, piece: Samples) -> str:
        waveform = np.pad(piece, (0, max(_SHORTEST_SAMPLES - piece.size, 0)))[None]  # (1, samples)
        return str(self._tokenizer.decode(self._tokens(waveform), skip_special_tokens=True)).strip()

    def _tokens(self, waveform: Samples) -> list[int]:
        """The likeliest token after each other, up to the end of the text."""
        config = self._config
        mask = np.ones(waveform.shape, np.int64)  # all of it is audio; some exports ask for that
        (encoded,) = self._encoder.run(None, _taken(self._encoder, input_values=waveform, attention_mask=mask))
        constant = _taken(self._decoder, encoder_hidden_states=encoded, encoder_attention_mask=mask)
        cache = dict.fromkeys(config.cache, np.zeros((1, config.heads, 0, config.head_size), np.float32))
        outputs = ["logits", *(name.replace("past_key_values", "present") for name in cache)]
        limit = min(config.positions - 1, -(-waveform.size * _TOKENS_PER_SECOND // RATE))
        token, tokens = config.start, list[int]()
        while len(tokens) < limit:
            inputs = {"input_ids": np.array([[token]]), "use_cache_branch": np.array([bool(tokens)])}
            logits, *present = self._decoder.run(outputs, constant | inputs | cache)
            for name, values in zip(cache, present, strict=True):
                if not tokens or ".decoder." in name:  # the encoder's stay as the first step makes them
                    cache[name] = values
            token = int(logits[0, -1].argmax())
            if token == config.end:
                break
            tokens.append(token)
        return tokens


class _Config:
    """What config.json says of the decoder."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.start, self.end = int(config["decoder_start_token_id"]), int(config["eos_token_id"])
        self.positions = int(config["max_position_embeddings"])
        self.heads = int(config["decoder_num_key_value_heads"])
        self.head_size = int(config["hidden_size"]) // int(config["decoder_num_attention_heads"])
        self.cache = [
            f"past_key_values.{layer}.{of}.{kind}"
            for layer in range(int(config["decoder_num_hidden_layers"]))
            for of in ("decoder", "encoder")
            for kind in ("key", "value")
        ]


def _taken(session: Any, **inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Those of the inputs that a graph has."""
    names = {each.name for each in session.get_inputs()}
    return {name: value for name, value in inputs.items() if name in names}


def pieces(samples: Samples) -> Iterator[Samples]:
    """A recording in pieces of at most 20 seconds, cut where the last 8 of these are quietest."""
    longest, pause = _LONGEST_SECONDS * RATE, _PAUSE_SAMPLES
    while samples.size > longest:
        first = longest * 3 // 5
        energy = np.square(samples[first:longest]).reshape(-1, pause).mean(axis=1)
        cut = first + int(energy.argmin()) * pause + pause // 2
        yield samples[:cut]
        samples = samples[cut:]
    if samples.size:
        yield samples


def _fetch(model: str) -> dict[str, Path]:
    """Where each of FILES is, downloaded if it is not there."""
    import huggingface_hub

    if Path(model).is_dir():
        return {name: Path(model, name) for name in FILES}
    repository = MODELS.get(model, model)
    with fetching(repository):
        return {name: Path(huggingface_hub.hf_hub_download(repository, name)) for name in FILES}


def _read(path: Path, read: Callable[[Path], _T]) -> _T:
    """Raises ValueError if the file is damaged, ImportError if a package is missing."""
    try:
        return read(path)
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path.name} cannot be read ({type(error).__name__}: {error}): it is damaged or of another model. Delete "
            "the model's folder (of a downloaded one: in HF_HOME) and try again"
        ) from error
