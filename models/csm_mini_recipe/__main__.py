"""Trains csm-mini from scratch: speech, codec, codes, language model, decoder finetuning, checkpoint.

python -m models.csm_mini_recipe WORK_DIRECTORY

Every stage resumes from its saved state, and completed stages are skipped. Uses a GPU if there is one.
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

from .codec import CodecTrainer, DecoderTrainer, build_codec, init_lsuv, random_coded_crops, random_crops
from .codes import encode_dataset, read_codes, reserve_codes
from .decoder_finetuning import sample_all_codes
from .language import CachedLayout, PackedSampler, build_model, is_complete, read_checkpoint, write_checkpoint
from .pronunciation import build_tokenizer
from .speech import SPEAKERS, lexicon, read_dataset, write_dataset, write_voices

SEED = 1
CLIPS = 12_000  # seven hours
CODEC_STEPS, CODEC_BATCH, CODEC_FRAMES, CODEC_RATE = 3_000, 8, 16, 1.5e-3
DECODER_STEPS = 2_000
FINETUNING_STEPS = 3_000  # of the decoder, on codes sampled from the language model
_FINETUNING_WAVEFORM_WEIGHT = 0.2  # lower then: sampled codes have another waveform than the recording
_TEMPERATURE, _TOP_K = 0.8, 50  # for sampling those codes
_UNQUANTIZED_STEPS = 300  # initial codec steps that bypass the quantizer
_SAVE_EVERY, _LOG_EVERY = 250, 50
_HELD_OUT = 250  # clips not trained on
_MAX_FRAMES = 145  # per clip
LANGUAGE = TrainSettings(
    steps=3_750, seed=SEED, max_positions=1_060, learning_rate=1e-3, warmup=200, final_share=0.05, depth_share=0.25,
    betas=(0.9, 0.98), weight_decay=0.05, precision="auto", device="auto", log_every=50, save_every=250,
    evaluate_every=500, sample_every=500,
)  # fmt: skip
_CONTEXTS, _HELD_OUT_CONTEXTS = 2, 6  # full contexts per step, and of held-out clips


def train_codec(speech: Path, work: Path) -> Any:
    """Train Mimi; the encoder never emits code 0 of the first codebook, which marks the stop frame."""
    checkpoint, state_path = work / "codec.pt", work / "codec-state.pt"
    codec = build_codec(SEED).to("cuda" if torch.cuda.is_available() else "cpu")
    if checkpoint.exists():
        codec.load_state_dict(torch.load(checkpoint, weights_only=True, map_location="cpu"))
        return codec.eval()
    recordings = [samples for _, _, samples in read_dataset(speech)]
    trainer = CodecTrainer(codec, SEED, CODEC_STEPS, CODEC_RATE, _UNQUANTIZED_STEPS)
    if state_path.exists():
        trainer.load(torch.load(state_path, weights_only=True, map_location="cpu"))
    else:
        init_lsuv(trainer, random_crops(recordings, 2 * CODEC_BATCH, CODEC_FRAMES, SEED, CODEC_STEPS))
    _run_trainer(
        "codec",
        trainer,
        lambda step: trainer.train_step(random_crops(recordings, CODEC_BATCH, CODEC_FRAMES, SEED, step)),
        state_path,
    )
    reserve_codes(codec.eval())
    _save(round_to_bfloat16(codec), checkpoint)
    return codec


def _run_trainer(
    name: str, trainer: CodecTrainer | DecoderTrainer, train_step: Callable[[int], dict[str, float]], state_path: Path
) -> None:
    """Run all remaining steps, saving the state to `state_path`. train_step: called with the step number."""
    started = time.monotonic()
    while trainer.step < trainer.steps:
        metrics = train_step(trainer.step)
        if trainer.step % _LOG_EVERY == 0:
            seconds, started = (time.monotonic() - started) / _LOG_EVERY, time.monotonic()
            _print_metrics({name: trainer.step, "of": trainer.steps} | metrics | {"seconds": seconds})
        if trainer.step % _SAVE_EVERY == 0:
            _save(trainer.state(), state_path)


@torch.no_grad()
def round_to_bfloat16(codec: Any) -> dict[str, Tensor]:
    """Round the codec's weights in place to the checkpoint's precision, so that codes match the served codec's."""
    weights: dict[str, Tensor] = codec.state_dict()
    for weight in weights.values():
        weight.copy_(weight.to(torch.bfloat16))
    return weights


def train_decoder(
    codec: Any, speech: Path, codes: Mapping[str, Codes], checkpoint: Path, steps: int, waveform_weight: float = 1.0
) -> Any:
    """Train only the codec's decoder, with fixed codes. checkpoint: where its weights are saved."""
    state_path = checkpoint.with_name(f"{checkpoint.stem}-state.pt")
    if checkpoint.exists():
        codec.load_state_dict(torch.load(checkpoint, weights_only=True, map_location="cpu"))
        return codec.eval()
    clips = [(samples, codes[name].astype(np.int64)) for name, _, samples in read_dataset(speech) if name in codes]
    trainer = DecoderTrainer(codec, steps, CODEC_RATE, waveform_weight)
    if state_path.exists():
        trainer.load(torch.load(state_path, weights_only=True, map_location="cpu"))
    _run_trainer(
        checkpoint.stem,
        trainer,
        lambda step: trainer.train_step(*random_coded_crops(clips, CODEC_BATCH, CODEC_FRAMES, SEED, step)),
        state_path,
    )
    _save(codec.eval().state_dict(), checkpoint)
    return codec


def train_language_model(codec: Any, speech: Path, work: Path, settings: TrainSettings = LANGUAGE) -> Any:
    """Train CSM around the codec, in each process started by torch.distributed.run."""
    model = build_model(codec, SEED)
    tokenizer = work / "tokenizer.json"
    layout = CachedLayout(TextTokenizer(tokenizer), model.config)
    clips = read_codes(speech, work / "codes.safetensors")
    examples = [(clip.voice, example) for clip, example in clips if len(example.codes) <= _MAX_FRAMES]
    sampler = PackedSampler(examples[:-_HELD_OUT], layout, _CONTEXTS)
    held_out = PackedSampler(examples[-_HELD_OUT:], layout, _HELD_OUT_CONTEXTS)(0, np.random.default_rng(SEED))
    hooks = Hooks(
        on_log=_print_metrics,
        evaluate=lambda model: held_out_losses(model, layout, held_out, settings.max_positions),
        sample=lambda _, model: write_checkpoint(model, tokenizer, work / "latest"),
    )
    train(model, layout, sampler, settings, work / "language", hooks)
    return model


def finetune_decoder(model: Any, speech: Path, work: Path) -> None:
    """Finetune the decoder on codes sampled from the language model instead of the encoder's."""
    sampled = work / "sampled-codes.safetensors"
    if not sampled.exists():
        layout = CachedLayout(TextTokenizer(work / "tokenizer.json"), model.config)
        clips = [
            layout.with_token_labels(replace(example, speaker=SPEAKERS.index(clip.voice)))
            for clip, example in read_codes(speech, work / "codes.safetensors")
            if clip.voice in SPEAKERS and len(example.codes) <= _MAX_FRAMES
        ]
        torch.manual_seed(SEED)
        codes = dict(sample_all_codes(model, layout, clips, LANGUAGE.max_positions, _TEMPERATURE, _TOP_K))
        partial = sampled.with_suffix(".partial")
        save_file(codes, partial)
        os.replace(partial, sampled)
    train_decoder(
        model.codec_model,
        speech,
        load_file(sampled),
        work / "finetuned-decoder.pt",
        FINETUNING_STEPS,
        _FINETUNING_WAVEFORM_WEIGHT,
    )


def _print_metrics(metrics: dict[str, float]) -> None:
    print(json.dumps({key: round(value, 4) for key, value in metrics.items()}), flush=True)


def _save(state: Any, path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate csm-mini's data and train it from scratch.")
    parser.add_argument("work", type=Path, help="output directory; takes 6 GB")
    parser.add_argument(
        "--codec", type=Path, metavar="DIRECTORY", help="use the codec of this csm-mini and skip the codec's stages"
    )
    parser.add_argument(
        "--language", action="store_true", help=argparse.SUPPRESS
    )  # run as one process of language model training
    arguments = parser.parse_args()
    work: Path = arguments.work
    torch.set_num_threads(1)  # work is parallel over threads and processes, so each runs single-threaded operators
    if not arguments.language:
        write_dataset(work / "speech", SEED, CLIPS)
        if not (work / "tokenizer.json").exists():
            build_tokenizer(lexicon()).save(str(work / "tokenizer.json"))
    if arguments.codec is not None:
        codec_weights = read_checkpoint(arguments.codec).codec_model.state_dict()
        for path in (work / "codec.pt", work / "decoder.pt"):
            _save(codec_weights, path)
    codec = train_codec(work / "speech", work)
    encode_dataset(codec, work / "speech", work / "codes.safetensors")
    codec = train_decoder(
        codec, work / "speech", load_file(work / "codes.safetensors"), work / "decoder.pt", DECODER_STEPS
    )
    tokenizer, language_model = work / "tokenizer.json", work / "language-model"
    if arguments.language:
        model = train_language_model(codec, work / "speech", work)
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            write_checkpoint(model, tokenizer, language_model)
        return
    if not is_complete(language_model):
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
    model = read_checkpoint(language_model)
    finetune_decoder(model, work / "speech", work)
    write_checkpoint(model, tokenizer, work / "csm-mini")
    write_voices(work / "voices")
    print(f"checkpoint: {work / 'csm-mini'}, and its voices in {work / 'voices'}", flush=True)


if __name__ == "__main__":
    main()
