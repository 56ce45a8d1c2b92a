"""All recordings as codes of the codec that has learnt, kept beside them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from engine.types import Codes
from training.example import Example
from training.sequence import Ids

from .codec import CODES
from .pronunciation import SAID
from .speech import Clip, Recording, read_speech

_FRAME = 1920
_BATCH = 16
_THREADS = 2
_AWAY = 4.0  # how many times the farthest entry's length the reserved ones lie away: nothing falls to them
LABELS = len(SAID)  # reserved codes of the last codebook, one for each token that is a frame
_FIRST_LABEL = CODES - LABELS


@torch.no_grad()
def reserve_codes(codec: Any) -> None:
    """Keep some codes out of what the encoder gives, for the language model alone.

    Code 0 of the first codebook: a frame of zeros ends speech, and no sound may look like that. The last codes of the
    last codebook: there it says which token a frame is (`label`).
    """
    quantizer = codec.quantizer
    first = quantizer.semantic_residual_vector_quantizer.layers[0].codebook
    last = quantizer.acoustic_residual_vector_quantizer.layers[-1].codebook
    means = _means(first)
    means[int(first.cluster_usage.argmin())] = means[0]
    means[0] = _away(means[0], means)
    _put(first, means)
    means = _means(last)
    directions = torch.randn(LABELS, means.shape[1], generator=torch.Generator().manual_seed(0))
    means[_FIRST_LABEL:] = _away(directions.to(means), means)
    _put(last, means)


def _means(book: Any) -> Tensor:
    means: Tensor = book.embed_sum / book.cluster_usage.clamp(min=1e-3)[:, None]
    return means


def _put(book: Any, means: Tensor) -> None:
    book.cluster_usage.fill_(1.0)
    book.embed_sum.copy_(means)
    book._embed = None


def _away(directions: Tensor, means: Tensor) -> Tensor:
    away: Tensor = directions / directions.norm(dim=-1, keepdim=True) * means.norm(dim=1).max() * _AWAY
    return away


def label(codes: Codes, tokens: Ids) -> Codes:
    """The same frames, (frames, codebooks), with the last codebook telling which token each of them is, (frames,).

    A codec of 45 bits a frame keeps too little of a vowel's second formant to tell it from others. Who knows the text
    knows the vowel, and this is where to say so: the decoder learns what it sounds like.
    """
    labelled = codes.copy()
    labelled[:, -1] = _FIRST_LABEL + tokens
    return labelled


@torch.no_grad()
def encode(codec: Any, wave: Tensor) -> Tensor:
    """float32 (batch, samples), whole frames -> int64 (batch, frames, codebooks)"""
    codes: Tensor = codec.encode(wave[:, None].to(codec.device)).audio_codes
    return codes.transpose(1, 2).cpu()


def make_codes(codec: Any, speech: Path, path: Path) -> None:
    """Encode every clip there is into one safetensors file, unless it is there."""
    if path.exists():
        return
    clips = [(name, samples) for name, _, samples in read_speech(speech)]
    clips.sort(key=lambda each: each[1].size)
    batches = [clips[start : start + _BATCH] for start in range(0, len(clips), _BATCH)]
    made: dict[str, np.ndarray[Any, Any]] = {}
    with ThreadPoolExecutor(_THREADS) as threads:
        for number, batch in enumerate(threads.map(partial(_encode_some, codec), batches), 1):
            made.update(batch)
            if number % 50 == 0 or number == len(batches):
                print(f"codes: {len(made)} of {len(clips)} clips", flush=True)
    unfinished = path.with_suffix(".part")
    save_file(made, unfinished)
    os.replace(unfinished, path)


def _encode_some(codec: Any, batch: list[tuple[str, Recording]]) -> dict[str, np.ndarray[Any, Any]]:
    frames = [-(-samples.size // _FRAME) for _, samples in batch]
    wave = np.zeros((len(batch), max(frames) * _FRAME), np.float32)
    for row, (_, samples) in zip(wave, batch, strict=True):
        row[: samples.size] = samples.astype(np.float32) / 32768
    encoded: np.ndarray[Any, Any] = encode(codec, torch.from_numpy(wave)).numpy().astype(np.int16)
    return {name: codes[:count] for (name, _), codes, count in zip(batch, encoded, frames, strict=True)}


def read_codes(speech: Path, path: Path) -> list[tuple[Clip, Example]]:
    """Every clip with its codes."""
    codes = load_file(path)
    return [(clip, Example(name, clip.text, 0, codes[name].astype(np.int64))) for name, clip, _ in read_speech(speech)]
