"""csm-mini's Mimi while it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.mini.codec import CODEBOOKS, CodecTrainer, build_codec, crops, settle
from training.mini.codes import encode, reserve_stop_code


def tones(count: int = 4) -> list[np.ndarray]:
    time = np.arange(40_000) / 24_000
    return [(np.sin(2 * np.pi * (150 + 90 * each) * time) * 9_000).astype(np.int16) for each in range(count)]


def trainer(free_steps: int = 3) -> CodecTrainer:
    made = CodecTrainer(build_codec(0), 0, 100, 0.02, free_steps)  # the first steps take little of that rate
    settle(made, crops(tones(), 4, 4, 0, 99))
    return made


def test_a_settled_codec_passes_signals_on_at_unit_spread() -> None:
    made = trainer()
    wave = crops(tones(), 4, 4, 0, 99)
    with torch.no_grad():
        latent = made.encode(wave)
        sound = made.decode(latent)
    assert 0.3 < float(latent.std()) < 3
    assert 0.02 < float(sound.std()) < 0.2


def test_it_learns_and_goes_on_where_it_stopped() -> None:
    whole, wave = trainer(free_steps=100), crops(tones(), 4, 4, 0, 0)
    distances = [whole.learn(wave)["distance"] for _ in range(10)]
    assert distances[-1] < 0.9 * distances[0]

    other = CodecTrainer(build_codec(1), 0, 100, 0.02, 100)
    other.load(whole.state())
    assert other.step == 10
    assert other.learn(wave)["distance"] == pytest.approx(whole.learn(wave)["distance"], rel=1e-3)


def test_no_sound_is_encoded_as_the_stop_frame() -> None:
    made = trainer()
    for step in range(8):
        made.learn(crops(tones(), 4, 4, 0, step))
    wave = crops(tones(), 4, 8, 2, 0)
    codec = made.codec.eval()
    before = encode(codec, wave)
    reserve_stop_code(codec)
    after = encode(codec, wave)
    assert after.shape == (4, 8, CODEBOOKS)
    assert bool((after[..., 0] != 0).all())
    moved = before[..., 0] == 0  # what was code 0 has another number now, everything else has its own
    assert bool((before[..., 1:] == after[..., 1:]).all())
    assert len(after[..., 0][moved].unique()) <= 1
