"""Packing loses and reorders no token, and cuts prompts at fixed positions only."""

from __future__ import annotations

import numpy as np
import pytest

from engine.context import Prefill
from engine.model.prompt_tokens import CODES, IS_AUDIO, POSITION, ROW
from engine.prompt_packing import CUT, PromptPiece, pack, take

CODEBOOKS, SCRATCH = 3, 999


def prompt(start: int, text: int, frames: int) -> Prefill:
    rng = np.random.default_rng(start)
    return Prefill(start, [list(range(1, text + 1)), rng.integers(1, 50, (frames, CODEBOOKS)), [7]])


PIECES = [
    PromptPiece(2, prompt(0, 5, 40)),
    PromptPiece(2, prompt(46, 11, 0)),  # behind the one above, in the same row
    PromptPiece(0, prompt(13, 1, 0)),
    PromptPiece(5, prompt(3, 100, 1)),
]


def contents(pieces: list[PromptPiece]) -> dict[tuple[int, int], tuple[int, ...]]:
    """(row, position) -> whether it is audio, and its ids"""
    found = {}
    for piece in pieces:
        position = piece.prefill.start
        for span in piece.prefill.spans:
            for each in span:
                ids = (0, each, 0, 0) if isinstance(span, list) else (1, *map(int, each))
                found[piece.row, position] = ids
                position += 1
    return found


@pytest.mark.parametrize("align", [1, 4])
@pytest.mark.parametrize("max_tokens", [16, 64, 1024])
def test_every_token_is_packed_once_at_its_row_and_position(max_tokens: int, align: int) -> None:
    packed: dict[tuple[int, int], tuple[int, ...]] = {}
    order: list[int] = []
    for each in pack(PIECES, CODEBOOKS, max_tokens, SCRATCH, align):
        assert len(each.tokens) <= max_tokens
        covered = np.zeros(len(each.tokens), bool)
        for segment in each.segments:
            tokens = each.tokens[segment.first : segment.first + segment.length]
            covered[segment.first : segment.first + segment.length] = True
            assert segment.first % align == 0
            assert set(tokens[:, ROW]) == {segment.row}
            assert list(tokens[:, POSITION]) == list(range(segment.start, segment.start + segment.length))
            for token in tokens:
                key = int(token[ROW]), int(token[POSITION])
                assert key not in packed
                packed[key] = (int(token[IS_AUDIO]), *map(int, token[CODES:]))
            order.append(segment.row)
            end = segment.start + segment.length
            assert end % CUT == 0 or end in {piece.prefill.start + piece.prefill.length for piece in PIECES}
        assert (each.tokens[~covered, POSITION] == SCRATCH).all()
        for first in range(0, len(each.tokens), align):
            assert len(set(each.tokens[first : first + align, ROW])) == 1  # padding belongs to the row before it
    assert packed == contents(PIECES)
    assert [row for row, before in zip(order, [None, *order], strict=False) if row != before] == [2, 0, 5]


def test_prompts_that_fit_go_in_one_pass() -> None:
    (only,) = pack(PIECES, CODEBOOKS, 1024, SCRATCH)
    assert len(only.tokens) == sum(piece.prefill.length for piece in PIECES)
    padded = only.padded(256, SCRATCH)
    assert padded.shape == (256, CODES + CODEBOOKS)
    assert (padded[len(only.tokens) :, POSITION] == SCRATCH).all()


@pytest.mark.parametrize("budget", [CUT, CUT + 5, 40, 1000])
def test_taking_never_exceeds_the_budget_and_always_goes_on(budget: int) -> None:
    pending = [prompt(3, 30, 20), prompt(54, 9, 0)]
    whole = contents([PromptPiece(0, each) for each in pending])
    taken: dict[tuple[int, int], tuple[int, ...]] = {}
    while pending:
        now = take(pending, budget)
        assert 0 < sum(each.length for each in now) <= budget
        taken |= contents([PromptPiece(0, each) for each in now])
    assert taken == whole


def test_nothing_is_taken_where_no_cut_fits() -> None:
    pending = [prompt(3, 30, 20)]
    assert take(pending, CUT - 4) == []
    assert len(pending) == 1
