"""Reference outputs from transformers for the engine's tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch

from engine import VoicePrompt
from engine.types import Codes, Samples

from .checkpoints import SPECIAL_TOKENS as SPECIAL

Turn = tuple[str, int, Samples]  # text, speaker, audio at 24 kHz


def conversation(tokenizer: Any, turns: list[Turn], text: str, speaker: int) -> dict[str, Any]:
    """The inputs of generate() for a text after earlier turns, built as CsmProcessor does."""

    def words(text: str, speaker: int) -> list[int]:
        begin, end = (tokenizer.token_to_id(token) for token in SPECIAL[:2])
        return [begin, *tokenizer.encode(f"[{speaker}]{text}", add_special_tokens=False).ids, end]

    audio, closing = (tokenizer.token_to_id(token) for token in SPECIAL[2:])
    waves = [torch.nn.functional.pad(torch.from_numpy(samples), (0, -samples.size % 1920)) for _, _, samples in turns]
    ids = []
    for (said, who, _), wave in zip(turns, waves, strict=True):
        ids += [*words(said, who), *[audio] * (wave.numel() // 1920), closing]
    ids += words(text, speaker)
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "input_values": torch.cat(waves)[None, None],
        "input_values_cutoffs": torch.tensor([[wave.numel() for wave in waves]]).cumsum(-1),
    }


def dialogue_codes(
    model: Any,
    tokenizer: Any,
    voices: list[Turn],
    said: list[tuple[str, int, Codes]],
    text: str,
    speaker: int,
    frames: int,
    vocab: int,
) -> Codes:
    """Greedy codes up to the stop frame, of a turn after recordings and earlier turns whose codes are known.

    The codec gives the turns' own codes in place of those that it would make of their audio.
    """
    silent = [(words, who, np.zeros(len(codes) * 1920, np.float32)) for words, who, codes in said]
    inputs = conversation(tokenizer, [*voices, *silent], text, speaker)
    encode, heard = model.codec_model.encode, iter([None] * len(voices) + [codes for _, _, codes in said])

    def encode_next(audio: torch.Tensor) -> Any:
        codes = next(heard)
        return encode(audio) if codes is None else SimpleNamespace(audio_codes=torch.from_numpy(codes.T[None].copy()))

    with mock.patch.object(model.codec_model, "encode", encode_next):
        return greedy_codes(model, inputs, frames, vocab)


def prompt(tokenizer: Any, text: str, speaker: int = 0, voice: VoicePrompt | None = None) -> dict[str, Any]:
    """The inputs of generate(), built as CsmProcessor does: a voice is a segment of text and audio before the text."""

    def segment(words: str) -> list[int]:
        begin, end = (tokenizer.token_to_id(token) for token in SPECIAL[:2])
        inner = tokenizer.encode(f"[{speaker}]{words}", add_special_tokens=False).ids
        return [begin, *inner, end]

    if voice is None:
        return {"input_ids": torch.tensor([segment(text)])}
    wave = torch.nn.functional.pad(torch.from_numpy(voice.samples), (0, -voice.samples.size % 1920))
    audio, closing = (tokenizer.token_to_id(token) for token in SPECIAL[2:])
    ids = [*segment(voice.transcript), *[audio] * (wave.numel() // 1920), closing, *segment(text)]
    return {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),  # else its padding id, audio's own, is masked
        "input_values": wave[None, None],
        "input_values_cutoffs": torch.tensor([[wave.numel()]]),
    }


def greedy_codes(model: Any, inputs: dict[str, Any], frames: int, vocab: int) -> Codes:
    """Greedy codes (frames, codebooks) up to the stop frame; ids from `vocab` on are suppressed."""
    suppressed = list(range(vocab, model.config.vocab_size)) or None
    # settings of the depth decoder persist between calls: pass all that matter
    with torch.no_grad():
        codes = model.generate(
            **inputs,
            max_new_tokens=frames,
            do_sample=False,
            suppress_tokens=suppressed,
            depth_decoder_do_sample=False,
            depth_decoder_suppress_tokens=suppressed,
        )[0]
    stop = (codes[:, :-1] == model.config.codebook_eos_token_id).all(-1).nonzero()
    result: Codes = codes[: int(stop[0])] if len(stop) else codes
    return np.asarray(result)


def decode(model: Any, codes: Codes) -> Samples:
    """Decode codes (frames, codebooks) to samples (frames * 1920,) with the codec of transformers."""
    with torch.no_grad():
        audio = model.codec_model.decode(torch.from_numpy(codes).T[None]).audio_values[0, 0]
    result: Samples = audio.numpy()
    return result
