"""csm-mini's Mimi while it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.csm_mini_recipe.codec import (
    CODEBOOKS,
    CODES,
    CodecTrainer,
    DecoderTrainer,
    build_codec,
    coded_crops,
    crops,
    settle,
)
from models.csm_mini_recipe.codes import LABELS, encode, label, reserve_codes


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


def test_a_decoder_learns_on_alone_and_codes_stay_what_they_are() -> None:
    first = trainer(free_steps=100)
    for step in range(4):
        first.learn(crops(tones(), 4, 4, 0, step))
    codec, wave = first.codec, crops(tones(), 4, 4, 0, 0)
    before = encode(codec.eval(), wave)
    clips = [
        (tone, encode(codec, torch.from_numpy(tone[None, :38_400] / np.float32(32_768)))[0].numpy()) for tone in tones()
    ]
    made = DecoderTrainer(codec, 100, 0.02)
    distances = [made.learn(*coded_crops(clips, 4, 4, 0, 0))["distance"] for _ in range(8)]
    assert distances[-1] < distances[0]
    assert bool((encode(codec.eval(), wave) == before).all())


def test_pieces_come_with_their_own_codes() -> None:
    tone = np.repeat(np.arange(20, dtype=np.int16), 1920)
    codes = np.repeat(np.arange(20)[:, None], CODEBOOKS, axis=1)
    short = (tone[: 3 * 1920], codes[:3])
    waves, told = coded_crops([(tone, codes), short], 5, 4, 0, 1)
    assert waves.shape == (5, 4 * 1920)
    assert told.shape == (5, CODEBOOKS, 4)
    heard = (waves.reshape(5, 4, 1920)[..., 0] * 32_768).round().long()
    assert bool((heard == told[:, 0]).all())


def test_no_sound_is_encoded_as_the_stop_frame() -> None:
    made = trainer()
    for step in range(8):
        made.learn(crops(tones(), 4, 4, 0, step))
    wave = crops(tones(), 4, 8, 2, 0)
    codec = made.codec.eval()
    before = encode(codec, wave)
    reserve_codes(codec)
    after = encode(codec, wave)
    assert after.shape == (4, 8, CODEBOOKS)
    assert bool((after[..., 0] != 0).all())
    moved = before[..., 0] == 0  # what was code 0 has another number now, everything else has its own
    assert bool((before[..., 1:-1] == after[..., 1:-1]).all())
    assert len(after[..., 0][moved].unique()) <= 1
    last = codec.quantizer.acoustic_residual_vector_quantizer.layers[-1].codebook
    lengths = (last.embed_sum / last.cluster_usage[:, None]).norm(dim=1)
    assert float(lengths[-LABELS:].min()) > 3.9 * float(lengths[:-LABELS].max())  # nothing falls to a label


def test_a_label_is_a_code_for_each_token_and_sounds_like_none_else() -> None:
    codes = np.ones((LABELS, CODEBOOKS), np.int64)
    labelled = label(codes, np.arange(LABELS))
    assert (labelled[:, :-1] == 1).all()
    assert sorted(labelled[:, -1]) == list(range(CODES - LABELS, CODES))
    assert (codes == 1).all()
    codec = trainer().codec.eval()
    codec.quantizer.acoustic_residual_vector_quantizer.layers[-1].codebook.embed_sum.normal_()
    reserve_codes(codec)
    with torch.no_grad():
        heard = codec.quantizer.decode(torch.from_numpy(labelled.T[None]))[0].T
    assert float(torch.pdist(heard).min()) > 0
