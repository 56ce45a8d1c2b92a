"""MimiCodec: streamed equals whole, rows are independent, inactive rows keep their state, loading errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.codec.decoder import Product
from engine.codec.mimi import MimiCodec, frame_count, load_moshi_mimi, load_transformers_mimi
from engine.errors import CheckpointError
from engine.model.config import read_config
from engine.model.weights import open_tensors

from . import checkpoints

CPU = torch.device("cpu")
CSM_MINI = Path(__file__).resolve().parent.parent.parent / "models/csm-mini"


def unallocated(directory: Path) -> MimiCodec:
    config = read_config(directory / "config.json")
    return load_transformers_mimi(config.codec, open_tensors(directory), config.codebooks, CPU)


def codec_of(directory: Path, rows: int = 4) -> MimiCodec:
    codec = unallocated(directory)
    codec.allocate(rows)
    return codec


def decoded_at_once(directory: Path, codes: torch.Tensor) -> torch.Tensor:
    """Samples of codes (frames, codebooks), from moshi's own decoder: the plain twin of the streaming one."""
    samples: torch.Tensor = unallocated(directory)._mimi.decode(codes.T[None])[0, 0]
    return samples


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose codec attends to at most 10 frames."""
    model = checkpoints.build_model(seed=1, codec_sliding_window=20)
    return checkpoints.write_checkpoint(tmp_path_factory.mktemp("narrow"), model)


def stream(codec: MimiCodec, codes: torch.Tensor, row: int, others: torch.Tensor | None = None) -> torch.Tensor:
    """Decode codes (frames, codebooks) frame by frame in one row; the others are inactive, or decode `others`."""
    rows, active = codes.new_zeros(4, codes.shape[1]), torch.arange(4) == row
    if others is not None:
        active = torch.ones(4, dtype=torch.bool)
    out = []
    for number, frame in enumerate(codes):
        if others is not None:
            rows[:] = others[number]
        rows[row] = frame
        out.append(codec.decode(rows, active)[row])
    return torch.cat(out)


@pytest.fixture
def codes() -> torch.Tensor:
    return torch.randint(0, 64, (37, 4), generator=torch.Generator().manual_seed(3))


@torch.inference_mode()
def test_streaming_equals_decoding_at_once_beyond_the_attention_window(narrow: Path, codes: torch.Tensor) -> None:
    streamed = stream(codec_of(narrow), codes, row=2)
    whole = decoded_at_once(narrow, codes)
    assert torch.allclose(streamed, whole, atol=1e-5 * float(whole.abs().max()))


@torch.inference_mode()
def test_a_row_does_not_depend_on_other_rows(narrow: Path, codes: torch.Tensor) -> None:
    alone = stream(codec_of(narrow), codes, row=1)
    others = torch.randint(0, 64, (len(codes), 4, 4), generator=torch.Generator().manual_seed(4))
    among = stream(codec_of(narrow), codes, row=1, others=others)
    assert torch.equal(alone, among)


@torch.inference_mode()
def test_a_row_does_not_depend_on_the_number_of_rows(narrow: Path, codes: torch.Tensor) -> None:
    """With packed weights, as on a CPU, and at least two rows, as in the engine."""
    most = 7
    codec = codec_of(narrow, most)
    codec.decoder.pack()

    def first_row(rows: int) -> torch.Tensor:
        codec.reset(torch.ones(most, dtype=torch.bool))
        among = torch.randint(0, 64, (6, rows, 4), generator=torch.Generator().manual_seed(rows))
        among[:, 0] = codes[:6]
        return torch.cat([codec.decode(frame, torch.ones(rows, dtype=torch.bool))[0] for frame in among])

    alone = first_row(2)
    for rows in (3, 4, 7):
        assert torch.equal(first_row(rows), alone), rows


def rounded_to_tf32(x: torch.Tensor) -> torch.Tensor:
    """To ten bits of mantissa, as tensor cores read float32 with TF32 allowed."""
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


@torch.inference_mode()
def test_products_in_tf32_stay_within_a_thousandth(monkeypatch: pytest.MonkeyPatch) -> None:
    """On trained weights, those of csm-mini."""
    codes = torch.randint(0, 512, (8, 2, 5), generator=torch.Generator().manual_seed(3))
    codec = codec_of(CSM_MINI, rows=2)

    def decoded() -> torch.Tensor:
        codec.reset(torch.ones(2, dtype=torch.bool))
        return torch.cat([codec.decode(frame, torch.ones(2, dtype=torch.bool)) for frame in codes])

    exact = decoded()
    products = [module for module in codec.decoder.modules() if isinstance(module, Product)]
    assert len(products) == 1 + 4 * 3 + 1 + 3 * 4 + 1  # upsampling, layers, convolutions
    for module in products:
        module.linear.weight.copy_(rounded_to_tf32(module.linear.weight))
    forward, add_to = Product.forward, Product.add_to
    monkeypatch.setattr(Product, "forward", lambda self, x: forward(self, rounded_to_tf32(x)))
    monkeypatch.setattr(Product, "add_to", lambda self, total, x: add_to(self, total, rounded_to_tf32(x)))
    assert 1e-6 < float((decoded() - exact).abs().max() / exact.abs().max()) < 1e-3


@torch.inference_mode()
def test_an_inactive_row_keeps_its_state(narrow: Path, codes: torch.Tensor) -> None:
    unbroken = stream(codec_of(narrow), codes, row=1)
    codec = codec_of(narrow)
    first = stream(codec, codes[:20], row=1)
    stream(codec, codes.flip(0), row=3)  # 37 frames in which row 1 is inactive
    second = stream(codec, codes[20:], row=1)
    assert torch.allclose(torch.cat((first, second)), unbroken, atol=1e-6 * float(unbroken.abs().max()))


@torch.inference_mode()
def test_resetting_a_row_leaves_the_others_unchanged(narrow: Path, codes: torch.Tensor) -> None:
    fresh = stream(codec_of(narrow), codes, row=1)
    codec = codec_of(narrow)
    head = stream(codec, codes[:15], row=2)
    stream(codec, codes.flip(0), row=1)
    codec.reset(torch.arange(4) == 1)
    again = stream(codec, codes, row=1)
    tail = stream(codec, codes[15:], row=2)
    unbroken = stream(codec_of(narrow), codes, row=2)
    assert torch.equal(again, fresh)
    assert torch.allclose(torch.cat((head, tail)), unbroken, atol=1e-6 * float(unbroken.abs().max()))


@torch.inference_mode()
def test_encoding_equals_transformers(checkpoint: Path, model: Any) -> None:
    codec = codec_of(checkpoint)
    wave = np.random.default_rng(0).normal(0, 0.1, 30_000).astype(np.float32)
    padded = torch.nn.functional.pad(torch.from_numpy(wave), (0, -wave.size % 1920))
    expected = model.codec_model.encode(padded[None, None]).audio_codes[0].T
    stream(codec, torch.zeros(5, 4, dtype=torch.int64), row=0)  # decoding must not affect the encoder
    assert torch.equal(codec.encode(wave), expected)


@pytest.mark.parametrize(
    ("samples", "rate"), [(1, 24_000), (1920, 24_000), (1921, 24_000), (44_100, 44_100), (999, 8000)]
)
def test_frame_count_equals_the_number_of_encoded_frames(checkpoint: Path, samples: int, rate: int) -> None:
    wave = np.random.default_rng(1).normal(0, 0.1, samples).astype(np.float32)
    with torch.inference_mode():
        assert len(codec_of(checkpoint).encode(wave, rate)) == frame_count(samples, rate)


def test_resampled_recordings_have_nearly_the_same_codes(checkpoint: Path) -> None:
    """One second of a 200 Hz tone at 48 kHz and at 24 kHz."""
    codec = codec_of(checkpoint)
    tone = {rate: np.sin(np.arange(rate) * 2 * np.pi * 200 / rate).astype(np.float32) for rate in (24_000, 48_000)}
    with torch.inference_mode():
        direct, resampled = codec.encode(tone[24_000]), codec.encode(tone[48_000], 48_000)
    assert direct.shape == resampled.shape
    assert (direct == resampled).float().mean() > 0.8


@pytest.mark.parametrize(
    ("change", "named"),
    [({"codec_use_conv_shortcut": True}, "use_conv_shortcut"), ({"codec_upsampling_ratios": [8, 6, 5, 2]}, "1920")],
)
def test_a_codec_configuration_that_moshi_does_not_support_is_rejected_by_name(
    change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    checkpoints.write_checkpoint(tmp_path, checkpoints.build_model(**change))
    with pytest.raises(CheckpointError, match=named):
        codec_of(tmp_path)


def test_pickled_weights_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "mimi.pt"
    path.write_bytes(b"cos\nsystem\n")
    with pytest.raises(CheckpointError, match="safetensors"):
        load_moshi_mimi(str(path), 4, CPU, None)
