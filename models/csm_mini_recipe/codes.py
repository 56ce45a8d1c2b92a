"""Encodes the data set with the trained codec, and reserves codes for the language model."""

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
from .pronunciation import FRAME_TOKENS
from .speech import Clip, Recording, read_dataset

_FRAME_SAMPLES = 1920
_BATCH = 16
_THREADS = 2
_FAR_FACTOR = 4.0  # norm of reserved entries, relative to the largest norm: no vector is assigned to them
LABEL_COUNT = len(FRAME_TOKENS)  # reserved codes of the last codebook, one per frame token
_FIRST_LABEL = CODES - LABEL_COUNT


@torch.no_grad()
def reserve_codes(codec: Any) -> None:
    """Reserve some codes that the encoder never emits, for the language model.

    Code 0 of the first codebook: a frame of zeros is the stop frame, so no audio may be encoded to it. The last codes
    of the last codebook: token labels (`add_token_labels`).
    """
    quantizer = codec.quantizer
    first = quantizer.semantic_residual_vector_quantizer.layers[0].codebook
    last = quantizer.acoustic_residual_vector_quantizer.layers[-1].codebook
    entries = _entries(first)
    entries[int(first.cluster_usage.argmin())] = entries[0]
    entries[0] = _far_entries(entries[0], entries)
    _set_entries(first, entries)
    entries = _entries(last)
    directions = torch.randn(LABEL_COUNT, entries.shape[1], generator=torch.Generator().manual_seed(0))
    entries[_FIRST_LABEL:] = _far_entries(directions.to(entries), entries)
    _set_entries(last, entries)


def _entries(codebook: Any) -> Tensor:
    entries: Tensor = codebook.embed_sum / codebook.cluster_usage.clamp(min=1e-3)[:, None]
    return entries


def _set_entries(codebook: Any, entries: Tensor) -> None:
    codebook.cluster_usage.fill_(1.0)
    codebook.embed_sum.copy_(entries)
    codebook._embed = None


def _far_entries(directions: Tensor, entries: Tensor) -> Tensor:
    """Entries along the given directions, far enough from all vectors that none is assigned to them."""
    far: Tensor = directions / directions.norm(dim=-1, keepdim=True) * entries.norm(dim=1).max() * _FAR_FACTOR
    return far


def add_token_labels(codes: Codes, tokens: Ids) -> Codes:
    """The frames (frames, codebooks) with the last codebook replaced by each frame's token (frames,).

    A codec of 45 bits per frame keeps too little of a vowel's second formant to tell vowels apart. The language model
    knows the vowel from the text, passes it on as a label, and the decoder learns how it sounds.
    """
    labelled = codes.copy()
    labelled[:, -1] = _FIRST_LABEL + tokens
    return labelled


@torch.no_grad()
def encode(codec: Any, wave: Tensor) -> Tensor:
    """float32 (batch, samples), whole frames -> int64 (batch, frames, codebooks)"""
    codes: Tensor = codec.encode(wave[:, None].to(codec.device)).audio_codes
    return codes.transpose(1, 2).cpu()


def encode_dataset(codec: Any, speech: Path, path: Path) -> None:
    """Encode every clip into one safetensors file, unless it exists."""
    if path.exists():
        return
    clips = [(name, samples) for name, _, samples in read_dataset(speech)]
    clips.sort(key=lambda each: each[1].size)
    batches = [clips[start : start + _BATCH] for start in range(0, len(clips), _BATCH)]
    codes: dict[str, np.ndarray[Any, Any]] = {}
    with ThreadPoolExecutor(_THREADS) as threads:
        for number, batch in enumerate(threads.map(partial(_encode_batch, codec), batches), 1):
            codes.update(batch)
            if number % 50 == 0 or number == len(batches):
                print(f"codes: {len(codes)} of {len(clips)} clips", flush=True)
    partial_path = path.with_suffix(".part")
    save_file(codes, partial_path)
    os.replace(partial_path, path)


def _encode_batch(codec: Any, batch: list[tuple[str, Recording]]) -> dict[str, np.ndarray[Any, Any]]:
    frames = [-(-samples.size // _FRAME_SAMPLES) for _, samples in batch]
    wave = np.zeros((len(batch), max(frames) * _FRAME_SAMPLES), np.float32)
    for row, (_, samples) in zip(wave, batch, strict=True):
        row[: samples.size] = samples.astype(np.float32) / 32768
    encoded: np.ndarray[Any, Any] = encode(codec, torch.from_numpy(wave)).numpy().astype(np.int16)
    return {name: codes[:count] for (name, _), codes, count in zip(batch, encoded, frames, strict=True)}


def read_codes(speech: Path, path: Path) -> list[tuple[Clip, Example]]:
    """All clips with their codes."""
    codes = load_file(path)
    return [(clip, Example(name, clip.text, 0, codes[name].astype(np.int64))) for name, clip, _ in read_dataset(speech)]
