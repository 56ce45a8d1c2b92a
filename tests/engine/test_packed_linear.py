"""PackedLinear: close to plain products, and bit-identical per row in any batch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine import SpeechRequest
from engine.engine_core import CsmEngine
from engine.model import packed_linear
from engine.model.packed_linear import ROW_COUNTS, PackedLinear, can_pack, identically_rounding_counts, pack

pytestmark = pytest.mark.skipif(not can_pack(torch.zeros(1)), reason="PyTorch without oneDNN")

Load = Callable[..., CsmEngine]
SHAPES = [(24, 16), (64, 33), (515, 256), (2051, 1024)]
CHOICES = [None, (1,), (2, 3, 4), (4, 6, 12, 64), (16,)]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("counts", CHOICES)
@pytest.mark.parametrize(("out", "size"), SHAPES)
def test_products_are_close_to_plain_ones(out: int, size: int, counts: tuple[int, ...] | None) -> None:
    weight, x = normal(out, size), normal(70, size)
    with torch.inference_mode():
        packed = PackedLinear(weight, counts)
        for rows in (1, 5, 70):
            torch.testing.assert_close(packed(x[:rows]), x[:rows] @ weight.T, atol=1e-3, rtol=1e-4)
        assert torch.equal(packed(x.view(35, 2, size)).view(70, out), packed(x))


@pytest.mark.parametrize(("out", "size"), SHAPES)
@pytest.mark.parametrize("chosen", ["measured", "alone"])
def test_a_row_is_bit_identical_in_any_batch_and_position(out: int, size: int, chosen: str) -> None:
    x = normal(70, size)
    with torch.inference_mode():
        packed = PackedLinear(normal(out, size), None if chosen == "measured" else (1,))
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

    assert identically_rounding_counts(product, 16, 24) == expected


def test_a_count_whose_last_rows_round_differently_is_excluded() -> None:
    weight = normal(24, 16)

    def product(x: Tensor) -> Tensor:
        y = (x[:, None] * weight).sum(-1)
        if len(x) % 6 == 2:  # blocks of six, with a remainder for another kernel
            y[-2:] *= 1 + 1e-6
        return y

    assert identically_rounding_counts(product, 16, 24) == tuple(count for count in ROW_COUNTS if count % 6 != 2)


@pytest.mark.parametrize("counts", [None, (1,), (4, 6, 12), (16,)])
def test_concurrent_requests_get_the_codes_of_single_ones(
    load: Load, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, counts: tuple[int, ...] | None
) -> None:
    if counts:
        monkeypatch.setattr(packed_linear, "identically_rounding_counts", lambda product, size, out: counts)
    engine = load(checkpoint)
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

    def found(product: object, size: int, out: int) -> tuple[int, ...]:
        tested.append((out, size))
        return counts

    monkeypatch.setattr(packed_linear, "identically_rounding_counts", found)
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
            "coarse": nn.Linear(8, 8, bias=False, dtype=torch.bfloat16),
            "inner": nn.Sequential(nn.Linear(8, 4, bias=False)),
        }
    )
    before = sum(parameter.nbytes for parameter in model.parameters())
    pack(model)
    assert [type(model[name]) for name in ("plain", "biased", "coarse")] == [PackedLinear, nn.Linear, nn.Linear]
    assert isinstance(model["inner"][0], PackedLinear)
    assert sum(parameter.nbytes for parameter in model.parameters()) == before
