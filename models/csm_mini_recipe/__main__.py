"""Raise csm-mini from nothing: speech, codec, codes, language model, checkpoint.

    python -m models.csm_mini_recipe WORK_DIRECTORY

Every stage goes on where it stopped, and one that is complete is left alone. Takes a GPU if there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from engine import MachineLimits
from engine.model.tokenizer import TextTokenizer
from engine.types import Codes
from training.evaluation import held_out_losses
from training.settings import TrainSettings
from training.trainer import Hooks, train

from .codec import CodecTrainer, DecoderTrainer, build_codec, coded_crops, crops, settle
from .codes import make_codes, read_codes, reserve_codes
from .decoder_finetuning import draw_all
from .language import QuickLayout, Reader, build_model, is_written, read_checkpoint, write_checkpoint
from .pronunciation import build_tokenizer
from .speech import SPEAKERS, lexicon, make_speech, read_speech, write_voices

SEED = 1
CLIPS = 12_000  # seven hours
CODEC_STEPS, CODEC_BATCH, CODEC_FRAMES, CODEC_RATE = 3_000, 8, 16, 1.5e-3
DECODER_STEPS = 2_000
POLISH_STEPS = 3_000  # of the decoder, on what the language model says
_POLISH_WAVES = 0.2  # how much waves count then: what chance has drawn is another wave
_TEMPERATURE, _TOP_K = 0.8, 50  # how it says that
_FREE_STEPS = 300  # of them without the quantizer
_SAVE_EVERY, _LOG_EVERY = 250, 50
_HELD_BACK = 250  # clips that are not learnt from
_LONGEST = 145  # frames of one clip
LANGUAGE = TrainSettings(
    steps=3_750, seed=SEED, max_positions=1_060, learning_rate=1e-3, warmup=200, final_share=0.05, depth_share=0.25,
    betas=(0.9, 0.98), weight_decay=0.05, precision="auto", device="auto", log_every=50, save_every=250,
    evaluate_every=500, sample_every=500,
)  # fmt: skip
_ROWS, _MEASURED = 2, 6  # whole contexts a step, and of clips that are held back


def train_codec(speech: Path, work: Path) -> Any:
    """Mimi, trained. Its first codebook keeps code 0 for the end of speech."""
    done, unfinished = work / "codec.pt", work / "codec-state.pt"
    codec = build_codec(SEED).to("cuda" if torch.cuda.is_available() else "cpu")
    if done.exists():
        codec.load_state_dict(torch.load(done, weights_only=True, map_location="cpu"))
        return codec.eval()
    recordings = [samples for _, _, samples in read_speech(speech)]
    trainer = CodecTrainer(codec, SEED, CODEC_STEPS, CODEC_RATE, _FREE_STEPS)
    if unfinished.exists():
        trainer.load(torch.load(unfinished, weights_only=True, map_location="cpu"))
    else:
        settle(trainer, crops(recordings, 2 * CODEC_BATCH, CODEC_FRAMES, SEED, CODEC_STEPS))
    _go(
        "codec",
        trainer,
        lambda step: trainer.learn(crops(recordings, CODEC_BATCH, CODEC_FRAMES, SEED, step)),
        unfinished,
    )
    reserve_codes(codec.eval())
    _save(rounded(codec), done)
    return codec


def _go(
    name: str, trainer: CodecTrainer | DecoderTrainer, learn: Callable[[int], dict[str, float]], unfinished: Path
) -> None:
    """All steps that are left, with the state kept in `unfinished`. learn: one step, by its number."""
    began = time.monotonic()
    while trainer.step < trainer.steps:
        losses = learn(trainer.step)
        if trainer.step % _LOG_EVERY == 0:
            seconds, began = (time.monotonic() - began) / _LOG_EVERY, time.monotonic()
            _tell({name: trainer.step, "of": trainer.steps} | losses | {"seconds": seconds})
        if trainer.step % _SAVE_EVERY == 0:
            _save(trainer.state(), unfinished)


@torch.no_grad()
def rounded(codec: Any) -> dict[str, Tensor]:
    """The codec's weights, rounded in place to what a checkpoint keeps of them: codes are those of the served codec."""
    weights: dict[str, Tensor] = codec.state_dict()
    for weight in weights.values():
        weight.copy_(weight.to(torch.bfloat16))
    return weights


def train_decoder(
    codec: Any, speech: Path, codes: Mapping[str, Codes], done: Path, steps: int, waves: float = 1.0
) -> Any:
    """The codec with a decoder that has learnt on alone, from codes that stay what they are. done: where it is kept."""
    unfinished = done.with_name(f"{done.stem}-state.pt")
    if done.exists():
        codec.load_state_dict(torch.load(done, weights_only=True, map_location="cpu"))
        return codec.eval()
    clips = [(samples, codes[name].astype(np.int64)) for name, _, samples in read_speech(speech) if name in codes]
    trainer = DecoderTrainer(codec, steps, CODEC_RATE, waves)
    if unfinished.exists():
        trainer.load(torch.load(unfinished, weights_only=True, map_location="cpu"))
    _go(
        done.stem,
        trainer,
        lambda step: trainer.learn(*coded_crops(clips, CODEC_BATCH, CODEC_FRAMES, SEED, step)),
        unfinished,
    )
    _save(codec.eval().state_dict(), done)
    return codec


def train_language(codec: Any, speech: Path, work: Path, settings: TrainSettings = LANGUAGE) -> Any:
    """The whole of CSM around the codec. In each of the processes that torch.distributed.run has started."""
    model = build_model(codec, SEED)
    tokenizer = work / "tokenizer.json"
    layout = QuickLayout(TextTokenizer(tokenizer), model.config)
    clips = read_codes(speech, work / "codes.safetensors")
    examples = [(clip.voice, example) for clip, example in clips if len(example.codes) <= _LONGEST]
    reader = Reader(examples[:-_HELD_BACK], layout, _ROWS)
    other = Reader(examples[-_HELD_BACK:], layout, _MEASURED)(0, np.random.default_rng(SEED))
    hooks = Hooks(
        on_log=_tell,
        evaluate=lambda taught: held_out_losses(taught, layout, other, settings.max_positions),
        sample=lambda _, taught: write_checkpoint(taught, tokenizer, work / "latest"),
    )
    train(model, layout, reader, settings, work / "language", hooks)
    return model


def polish(model: Any, speech: Path, work: Path) -> None:
    """Let the decoder learn on from what the language model says, in place of what the encoder gives."""
    drawn = work / "drawn.safetensors"
    if not drawn.exists():
        layout = QuickLayout(TextTokenizer(work / "tokenizer.json"), model.config)
        clips = [
            layout.labelled(replace(example, speaker=SPEAKERS.index(clip.voice)))
            for clip, example in read_codes(speech, work / "codes.safetensors")
            if clip.voice in SPEAKERS and len(example.codes) <= _LONGEST
        ]
        torch.manual_seed(SEED)
        codes = dict(draw_all(model, layout, clips, LANGUAGE.max_positions, _TEMPERATURE, _TOP_K))
        part = drawn.with_suffix(".part")
        save_file(codes, part)
        os.replace(part, drawn)
    train_decoder(model.codec_model, speech, load_file(drawn), work / "polished.pt", POLISH_STEPS, _POLISH_WAVES)


def _tell(figures: dict[str, float]) -> None:
    print(json.dumps({key: round(value, 4) for key, value in figures.items()}), flush=True)


def _save(state: Any, path: Path) -> None:
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make csm-mini's data and train it, from nothing.")
    parser.add_argument("work", type=Path, help="a directory for everything that is made; 6 GB")
    parser.add_argument("--codec", type=Path, metavar="DIRECTORY", help="take a csm-mini's codec: no stage makes one")
    parser.add_argument("--language", action="store_true", help=argparse.SUPPRESS)  # one process of the last stage
    arguments = parser.parse_args()
    work: Path = arguments.work
    torch.set_num_threads(1)  # each part of the work has a thread or a process of its own: none waits for another
    if not arguments.language:
        make_speech(work / "speech", SEED, CLIPS)
        if not (work / "tokenizer.json").exists():
            build_tokenizer(lexicon()).save(str(work / "tokenizer.json"))
    if arguments.codec is not None:
        learnt = read_checkpoint(arguments.codec).codec_model.state_dict()
        for path in (work / "codec.pt", work / "decoder.pt"):
            _save(learnt, path)
    codec = train_codec(work / "speech", work)
    make_codes(codec, work / "speech", work / "codes.safetensors")
    codec = train_decoder(
        codec, work / "speech", load_file(work / "codes.safetensors"), work / "decoder.pt", DECODER_STEPS
    )
    tokenizer, unpolished = work / "tokenizer.json", work / "unpolished"
    if arguments.language:
        model = train_language(codec, work / "speech", work)
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            write_checkpoint(model, tokenizer, unpolished)
        return
    if not is_written(unpolished):
        processes = torch.cuda.device_count() or MachineLimits().cores().threads()
        launch = (
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(processes),
            "-m",
            "models.csm_mini_recipe",
        )
        subprocess.run([sys.executable, "-m", *launch, str(work), "--language"], check=True)
    model = read_checkpoint(unpolished)
    polish(model, work / "speech", work)
    write_checkpoint(model, tokenizer, work / "csm-mini")
    write_voices(work / "voices")
    print(f"done: {work / 'csm-mini'}, and its voices in {work / 'voices'}", flush=True)


if __name__ == "__main__":
    main()
