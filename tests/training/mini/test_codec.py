"""csm-mini's Mimi while it learns."""

from __future__ import annotations

import numpy as np
import torch

from training.mini.codec import CODEBOOKS, CodecTrainer, build_codec, crops, settle
from training.mini.codes import encode, reserve_stop_code


def tones(count: int = 4) -> list[np.ndarray]:
    time = np.arange(40_000) / 24_000
    return [(np.sin(2 * np.pi * (150 + 90 * each) * time) * 9_000).astype(np.int16) for each in range(count)]


def trainer(steps: int = 8, free_steps: int = 3) -> CodecTrainer:
    torch.manual_seed(0)
    made = CodecTrainer(build_codec(0), 0, steps, 1e-3, free_steps)
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
    whole = trainer()
    first = [whole.learn(crops(tones(), 4, 4, 0, step))["distance"] for step in range(8)]
    assert first[-1] < first[0]

    half = trainer()
    for step in range(5):
        half.learn(crops(tones(), 4, 4, 0, step))
    state = half.state()
    other = CodecTrainer(build_codec(1), 0, 8, 1e-3, 3)
    other.load(state)
    with torch.no_grad():
        wave = crops(tones(), 2, 4, 1, 0)
        torch.testing.assert_close(other.encode(wave), half.encode(wave))
    assert other.step == 5


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
