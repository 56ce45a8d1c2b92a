"""PackedLinear: close to plain products, and bit-identical per row in any batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine import SpeechRequest
from engine.engine_core import CsmEngine
from engine.model import packed_linear
from engine.model.packed_linear import (
    ROW_COUNTS,
    PackedLinear,
    can_pack,
    identically_rounding_counts,
    measured_row_counts,
    pack,
)

pytestmark = pytest.mark.skipif(not can_pack(torch.zeros(1)), reason="PyTorch without oneDNN")

Load = Callable[..., CsmEngine]
SHAPES = [(24, 16), (64, 33), (515, 256), (2051, 1024)]
BFLOAT16 = can_pack(torch.zeros(1, dtype=torch.bfloat16))
DTYPES = [torch.float32, torch.bfloat16] if BFLOAT16 else [torch.float32]
CHOICES = [None, (1,), (2, 3, 4), (4, 6, 12, 64), (16,)]


@pytest.fixture
def two_threads() -> Iterator[None]:
    """A product may be divided among threads, as a large model's are."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("counts", CHOICES)
@pytest.mark.parametrize(("out", "size"), SHAPES)
def test_products_are_close_to_plain_ones(
    out: int, size: int, counts: tuple[int, ...] | None, dtype: torch.dtype
) -> None:
    weight, x = normal(out, size).to(dtype), normal(70, size).to(dtype)
    expected = (x.float() @ weight.float().T).to(dtype)
    with torch.inference_mode():
        packed = PackedLinear(weight, counts)
        for rows in (1, 5, 70):
            torch.testing.assert_close(
                packed(x[:rows]), expected[:rows], atol=1e-3, rtol=max(1e-4, torch.finfo(dtype).eps)
            )
        assert torch.equal(packed(x.view(35, 2, size)).view(70, out), packed(x))


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("out", "size"), [*SHAPES, (2048, 2048)])
@pytest.mark.parametrize("chosen", ["measured", "alone"])
def test_a_row_is_bit_identical_in_any_batch_and_position(out: int, size: int, chosen: str, dtype: torch.dtype) -> None:
    x = normal(70, size).to(dtype)
    with torch.inference_mode():
        packed = PackedLinear(normal(out, size).to(dtype), None if chosen == "measured" else (1,))
        alone = torch.cat([packed(row[None]) for row in x])
        for rows in (*range(1, 10), 16, 31, 63, 64, 70):
            for start in {0, 70 - rows}:
                assert torch.equal(packed(x[start : start + rows]), alone[start : start + rows])


@pytest.mark.parametrize("counts", [counts for counts in CHOICES if counts])
def test_only_chosen_row_counts_are_multiplied(monkeypatch: pytest.MonkeyPatch, counts: tuple[int, ...]) -> None:
    packed, seen, product = PackedLinear(normal(24, 16), counts), set(), PackedLinear.product

    def watched(self: PackedLinear, x: Tensor) -> Tensor:
        seen.add(len(x))
        return product(self, x)

    monkeypatch.setattr(PackedLinear, "product", watched)
    for rows in range(1, 80):
        assert packed(normal(rows, 16)).shape == (rows, 24)
    assert seen == set(counts)


@pytest.mark.parametrize(
    ("differing", "expected"),
    [
        (set(), ROW_COUNTS),
        ({1}, ROW_COUNTS[1:]),
        ({1, 2, 3}, ROW_COUNTS[3:]),
        ({32, 64}, ROW_COUNTS[:-2]),
        (set(ROW_COUNTS[1:]), (1,)),
    ],
)
def test_identically_rounding_counts_are_found(differing: set[int], expected: tuple[int, ...]) -> None:
    """Each count in `differing` rounds differently from all others."""
    weight = normal(24, 16)

    def product(x: Tensor) -> Tensor:
        y = (x[:, None] * weight).sum(-1)
        return y * (1 + len(x) * 1e-6) if len(x) in differing else y

    assert identically_rounding_counts(product, normal(40, 16)) == expected


def test_a_count_whose_last_rows_round_differently_is_excluded() -> None:
    weight = normal(24, 16)

    def product(x: Tensor) -> Tensor:
        y = (x[:, None] * weight).sum(-1)
        if len(x) % 6 == 2:  # blocks of six, with a remainder for another kernel
            y[-2:] *= 1 + 1e-6
        return y

    assert identically_rounding_counts(product, normal(40, 16)) == tuple(n for n in ROW_COUNTS if n % 6 != 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("out", "size"), SHAPES[:3])
def test_an_order_of_summation_shows_in_every_dtype(
    monkeypatch: pytest.MonkeyPatch, out: int, size: int, dtype: torch.dtype
) -> None:
    """Products as bfloat16 kernels compute them: summed in float32, rounded once. Few rows are summed in two parts."""

    def product(x: Tensor, weight: Tensor) -> Tensor:
        x, weight = x.float(), weight.float()
        parts = x.split(16, 1), weight.split(16, 1)
        if len(x) < 4:
            return sum((part @ w.T for part, w in zip(*parts, strict=True)), torch.zeros(())).to(dtype)
        return (x[:, None] * weight).cumsum(-1)[..., -1].to(dtype)

    monkeypatch.setattr(packed_linear, "_pack", lambda weight: weight)
    monkeypatch.setattr(packed_linear, "_product", product)
    assert measured_row_counts(out, size, dtype) == ROW_COUNTS[3:]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("counts", [None, (1,), (4, 6, 12), (16,)])
def test_concurrent_requests_get_the_codes_of_single_ones(
    load: Load, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, counts: tuple[int, ...] | None, dtype: torch.dtype
) -> None:
    if counts:
        monkeypatch.setattr(packed_linear, "measured_row_counts", lambda *weight: counts)
    engine = load(checkpoint, dtype=str(dtype).removeprefix("torch."))
    requests = [SpeechRequest(f"Request {seed}.", seed=seed, max_frames=6 + 2 * seed) for seed in range(4)]
    alone = [engine.generate(request) for request in requests]
    for stream, speech in zip([engine.stream(request) for request in requests], alone, strict=True):
        batched = stream.collect()
        np.testing.assert_array_equal(batched.codes, speech.codes)
        np.testing.assert_allclose(batched.samples, speech.samples, atol=1e-6)


@pytest.mark.parametrize(
    ("counts", "level"), [(ROW_COUNTS, None), (ROW_COUNTS[1:], logging.INFO), ((1,), logging.WARNING)]
)
def test_the_row_counts_are_logged_once_with_their_shapes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, counts: tuple[int, ...], level: int | None
) -> None:
    tested = []

    def found(out: int, size: int, dtype: torch.dtype) -> tuple[int, ...]:
        tested.append((out, size))
        return counts

    monkeypatch.setattr(packed_linear, "measured_row_counts", found)
    with caplog.at_level(logging.INFO, packed_linear.__name__):
        pack(nn.Sequential(*(nn.Linear(8, out, bias=False) for out in (4, 4, 6))))
    assert tested == [(4, 8), (6, 8)]
    assert [record.levelno for record in caplog.records] == ([] if level is None else [level])
    assert all("4x8, 6x8" in record.getMessage() for record in caplog.records)


def test_only_packable_layers_are_replaced() -> None:
    model = nn.ModuleDict(
        {
            "plain": nn.Linear(8, 8, bias=False),
            "biased": nn.Linear(8, 8),
            "wide": nn.Linear(8, 8, bias=False, dtype=torch.float64),
            "coarse": nn.Linear(8, 8, bias=False, dtype=torch.bfloat16),
            "inner": nn.Sequential(nn.Linear(8, 4, bias=False)),
        }
    )
    before = sum(parameter.nbytes for parameter in model.parameters())
    pack(model)
    expected = [PackedLinear, nn.Linear, nn.Linear, PackedLinear if BFLOAT16 else nn.Linear]
    assert [type(model[name]) for name in ("plain", "biased", "wide", "coarse")] == expected
    assert isinstance(model["inner"][0], PackedLinear)
    assert sum(parameter.nbytes for parameter in model.parameters()) == before
