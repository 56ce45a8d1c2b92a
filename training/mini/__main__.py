"""Raise csm-mini from nothing: speech, codec, codes, language model, checkpoint.

    python -m training.mini WORK_DIRECTORY

Every stage goes on where it stopped, and one that is complete is left alone.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from engine.model.tokenizer import TextTokenizer

from ..sequence import Layout
from ..settings import TrainSettings
from ..trainer import Hooks, train
from .codec import CodecTrainer, build_codec, crops, settle
from .codes import make_codes, read_codes, reserve_stop_code
from .guidance import Guidance
from .language import Reader, build_model, build_tokenizer, write_checkpoint
from .speech import make_speech, read_speech

SEED = 1
CLIPS = 18_000  # twelve hours
CODEC_STEPS, CODEC_BATCH, CODEC_FRAMES, CODEC_RATE = 5_500, 8, 16, 1.5e-3
_FREE_STEPS = 300  # of them without the quantizer
_SAVE_EVERY, _LOG_EVERY = 250, 50
_HELD_BACK = 250  # clips that are not learnt from
_LONGEST = 300  # positions of one clip
LANGUAGE = TrainSettings(
    steps=4_000, seed=SEED, max_positions=2_100, learning_rate=1.5e-3, warmup=100, final_share=0.05, depth_share=0.25,
    betas=(0.9, 0.98), weight_decay=0.05, precision="bfloat16", device="auto", log_every=25, sample_every=500,
)  # fmt: skip
_ROWS = 4  # whole contexts a step


def train_codec(speech: Path, work: Path) -> Any:
    """Mimi, trained. Its codebook 0 keeps code 0 for the end of speech."""
    done, unfinished = work / "codec.pt", work / "codec-state.pt"
    codec = build_codec(SEED)
    if done.exists():
        codec.load_state_dict(torch.load(done, weights_only=True))
        return codec.eval()
    recordings = [samples for _, _, samples in read_speech(speech)]
    trainer = CodecTrainer(codec, SEED, CODEC_STEPS, CODEC_RATE, _FREE_STEPS)
    if unfinished.exists():
        trainer.load(torch.load(unfinished, weights_only=True))
    else:
        settle(trainer, crops(recordings, 2 * CODEC_BATCH, CODEC_FRAMES, SEED, CODEC_STEPS))
    began = time.monotonic()
    while trainer.step < CODEC_STEPS:
        losses = trainer.learn(crops(recordings, CODEC_BATCH, CODEC_FRAMES, SEED, trainer.step))
        if trainer.step % _LOG_EVERY == 0:
            seconds, began = (time.monotonic() - began) / _LOG_EVERY, time.monotonic()
            line = {"codec": trainer.step, "of": CODEC_STEPS} | losses | {"seconds": seconds}
            print(json.dumps({key: round(value, 4) for key, value in line.items()}), flush=True)
        if trainer.step % _SAVE_EVERY == 0:
            _save(trainer.state(), unfinished)
    reserve_stop_code(codec.eval())
    _save(codec.state_dict(), done)
    return codec


def train_language(codec: Any, speech: Path, work: Path, settings: TrainSettings = LANGUAGE) -> Any:
    """The whole of CSM around the codec."""
    model = build_model(codec, SEED)
    build_tokenizer().save(str(work / "tokenizer.json"))
    layout = Layout(TextTokenizer(work / "tokenizer.json"), model.config)
    examples = read_codes(speech, work / "codes.safetensors")[:-_HELD_BACK]
    reader = Reader([each for each in examples if layout.length_of(each[1]) <= _LONGEST], layout, _ROWS)
    hooks = Hooks(
        logged=lambda entry: print(json.dumps({key: round(value, 4) for key, value in entry.items()}), flush=True),
        sample=lambda _, taught: write_checkpoint(taught, work / "latest"),
        extra_loss=Guidance(model, weight=1.0),
    )
    train(model, layout, reader, settings, work / "language", hooks)
    return model


def _save(state: Any, path: Path) -> None:
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make csm-mini's data and train it, from nothing.")
    parser.add_argument("work", type=Path, help="a directory for everything that is made; 5 GB")
    parser.add_argument("--out", type=Path, help="where the checkpoint goes (default: WORK/csm-mini)")
    arguments = parser.parse_args()
    work: Path = arguments.work
    torch.set_num_threads(1)  # the codec's trainer has threads of its own; see LANGUAGE for the rest
    make_speech(work / "speech", SEED, CLIPS)
    codec = train_codec(work / "speech", work)
    make_codes(codec, work / "speech", work / "codes.safetensors")
    model = train_language(codec, work / "speech", work)
    write_checkpoint(model, arguments.out or work / "csm-mini")


if __name__ == "__main__":
    main()
