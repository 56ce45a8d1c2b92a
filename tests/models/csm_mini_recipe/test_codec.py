"""Training of csm-mini's Mimi codec."""

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
    init_lsuv,
    random_coded_crops,
    random_crops,
)
from models.csm_mini_recipe.codes import LABEL_COUNT, add_token_labels, encode, reserve_codes


def tones(count: int = 4) -> list[np.ndarray]:
    time = np.arange(40_000) / 24_000
    return [(np.sin(2 * np.pi * (150 + 90 * each) * time) * 9_000).astype(np.int16) for each in range(count)]


def trainer(unquantized_steps: int = 3) -> CodecTrainer:
    codec_trainer = CodecTrainer(build_codec(0), 0, 100, 0.02, unquantized_steps)  # warm-up lowers the rate
    init_lsuv(codec_trainer, random_crops(tones(), 4, 4, 0, 99))
    return codec_trainer


def test_lsuv_initialization_keeps_unit_variance() -> None:
    codec_trainer = trainer()
    wave = random_crops(tones(), 4, 4, 0, 99)
    with torch.no_grad():
        latent = codec_trainer.encode(wave)
        output = codec_trainer.decode(latent)
    assert 0.3 < float(latent.std()) < 3
    assert 0.02 < float(output.std()) < 0.2


def test_training_lowers_the_loss_and_resumes() -> None:
    first, wave = trainer(unquantized_steps=100), random_crops(tones(), 4, 4, 0, 0)
    distances = [first.train_step(wave)["distance"] for _ in range(10)]
    assert distances[-1] < 0.9 * distances[0]

    other = CodecTrainer(build_codec(1), 0, 100, 0.02, 100)
    other.load(first.state())
    assert other.step == 10
    assert other.train_step(wave)["distance"] == pytest.approx(first.train_step(wave)["distance"], rel=1e-3)


def test_decoder_training_keeps_the_codes() -> None:
    first = trainer(unquantized_steps=100)
    for step in range(4):
        first.train_step(random_crops(tones(), 4, 4, 0, step))
    codec, wave = first.codec, random_crops(tones(), 4, 4, 0, 0)
    before = encode(codec.eval(), wave)
    clips = [
        (tone, encode(codec, torch.from_numpy(tone[None, :38_400] / np.float32(32_768)))[0].numpy()) for tone in tones()
    ]
    codec_trainer = DecoderTrainer(codec, 100, 0.02)
    distances = [codec_trainer.train_step(*random_coded_crops(clips, 4, 4, 0, 0))["distance"] for _ in range(8)]
    assert distances[-1] < distances[0]
    assert bool((encode(codec.eval(), wave) == before).all())


def test_crops_match_their_codes() -> None:
    tone = np.repeat(np.arange(20, dtype=np.int16), 1920)
    codes = np.repeat(np.arange(20)[:, None], CODEBOOKS, axis=1)
    short = (tone[: 3 * 1920], codes[:3])
    waves, crop_codes = random_coded_crops([(tone, codes), short], 5, 4, 0, 1)
    assert waves.shape == (5, 4 * 1920)
    assert crop_codes.shape == (5, CODEBOOKS, 4)
    decoded = (waves.reshape(5, 4, 1920)[..., 0] * 32_768).round().long()
    assert bool((decoded == crop_codes[:, 0]).all())


def test_reserved_codes_are_never_emitted() -> None:
    codec_trainer = trainer()
    for step in range(8):
        codec_trainer.train_step(random_crops(tones(), 4, 4, 0, step))
    wave = random_crops(tones(), 4, 8, 2, 0)
    codec = codec_trainer.codec.eval()
    before = encode(codec, wave)
    reserve_codes(codec)
    after = encode(codec, wave)
    assert after.shape == (4, 8, CODEBOOKS)
    assert bool((after[..., 0] != 0).all())
    moved = before[..., 0] == 0  # only frames with code 0 get another code
    assert bool((before[..., 1:-1] == after[..., 1:-1]).all())
    assert len(after[..., 0][moved].unique()) <= 1
    last = codec.quantizer.acoustic_residual_vector_quantizer.layers[-1].codebook
    lengths = (last.embed_sum / last.cluster_usage[:, None]).norm(dim=1)
    # no vector is assigned to a label
    assert float(lengths[-LABEL_COUNT:].min()) > 3.9 * float(lengths[:-LABEL_COUNT].max())


def test_labels_are_distinct_codes_with_distinct_latents() -> None:
    codes = np.ones((LABEL_COUNT, CODEBOOKS), np.int64)
    labelled = add_token_labels(codes, np.arange(LABEL_COUNT))
    assert (labelled[:, :-1] == 1).all()
    assert sorted(labelled[:, -1]) == list(range(CODES - LABEL_COUNT, CODES))
    assert (codes == 1).all()
    codec = trainer().codec.eval()
    codec.quantizer.acoustic_residual_vector_quantizer.layers[-1].codebook.embed_sum.normal_()
    reserve_codes(codec)
    with torch.no_grad():
        decoded = codec.quantizer.decode(torch.from_numpy(labelled.T[None]))[0].T
    assert float(torch.pdist(decoded).min()) > 0
