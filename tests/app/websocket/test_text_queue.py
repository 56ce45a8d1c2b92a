from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Busy, Unprocessable
from app.schemas.speech import SpeechJob
from app.websocket.messages import SpeakCommand
from app.websocket.text_queue import PendingText, TextQueue
from engine import SpeechRequest

pytestmark = pytest.mark.anyio


def speak_command(text: str, *, continues: bool = False, chunk_characters: int = 40) -> SpeakCommand:
    return SpeakCommand(text, SpeechJob(SpeechRequest(".", chunk_characters=chunk_characters), None), continues)


def without_space(pieces: list[str]) -> str:
    return "".join("".join(pieces).split())


@given(st.lists(st.text(alphabet="ab .!?,\n", max_size=30), min_size=1, max_size=12))
def test_all_pieces_are_yielded_once_and_in_order(written: list[str]) -> None:
    async def read() -> list[str]:
        text = PendingText(speak_command(written[0], continues=True), 10_000)

        async def write() -> None:
            for piece in written[1:]:
                text.append(piece, True)
                await asyncio.sleep(0)
            text.close()

        writing = asyncio.create_task(write())
        pieces = [piece async for piece in text.pieces()]
        await writing
        return pieces

    pieces = asyncio.run(read())
    assert all(piece and piece == piece.strip() for piece in pieces)
    assert without_space(pieces) == without_space(written) or not any(map(str.isalnum, without_space(written)))


async def test_a_complete_text_is_one_piece() -> None:
    assert [piece async for piece in PendingText(speak_command(" One. Two. Three "), 100).pieces()] == [
        "One. Two. Three"
    ]


async def test_sentences_that_arrived_meanwhile_are_one_piece() -> None:
    text = PendingText(speak_command("One. Tw", continues=True), 100)
    pieces = text.pieces()
    assert await anext(pieces) == "One."
    text.append("o. Three. Fo", True)
    assert await anext(pieces) == "Two. Three."
    text.append("ur.", False)
    assert await anext(pieces) == "Four."
    assert await anext(pieces, None) is None


async def test_yielded_text_no_longer_counts_against_the_limit() -> None:
    text = PendingText(speak_command("x" * 45 + ". ", continues=True), 50)
    with pytest.raises(Unprocessable, match="47 characters of this text are not spoken yet"):
        text.append("too much", True)
    await anext(text.pieces())
    text.append("not any more", True)


async def test_texts_are_yielded_in_order_until_finish() -> None:
    queue = TextQueue(max_queued=3, max_characters=100)
    for each in ("One", "Two", "Three"):
        queue.put(speak_command(each))
    with pytest.raises(Busy):
        queue.put(speak_command("Four"))
    queue.finish()
    assert [text.command.text async for text in queue] == ["One", "Two", "Three"]


async def test_a_piece_is_appended_to_the_open_text_even_if_the_queue_is_full() -> None:
    queue = TextQueue(max_queued=1, max_characters=100)
    queue.put(speak_command("One", continues=True))
    assert queue.continuing
    queue.put(speak_command(" more", continues=True))
    queue.put(speak_command(" end."))
    assert not queue.continuing
    queue.finish()
    (text,) = [each async for each in queue]
    assert [piece async for piece in text.pieces()] == ["One more end."]


async def test_clear_returns_the_queued_texts_and_closes_them() -> None:
    queue = TextQueue(max_queued=5, max_characters=100)
    queue.put(speak_command("One"))
    queue.put(speak_command("Two", continues=True))
    assert [text.command.text for text in queue.clear()] == ["One", "Two"]
    assert not queue.continuing
    queue.put(speak_command("Three"))
    queue.finish()
    assert [text.command.text async for text in queue] == ["Three"]


async def test_a_flush_yields_all_that_is_written_and_nothing_after_it() -> None:
    text = PendingText(speak_command("One. Two", continues=True), 100)
    text.append(" thr", True, flush=True)
    text.append("ee fo", True)
    pieces = text.pieces()
    assert await anext(pieces) == "One. Two thr"
    text.append("ur. Five", True)
    assert await anext(pieces) == "ee four."
    text.append("", True, flush=True)
    assert await anext(pieces) == "Five"


async def test_each_piece_waits_for_its_chunk_length_unless_flushed_or_complete() -> None:
    command = replace(speak_command("One. ", continues=True), chunk_lengths=(10, 20))
    text = PendingText(command, 100)
    pieces = text.pieces()
    text.append("Two.", True)  # 9 characters
    waiting = asyncio.ensure_future(anext(pieces))
    await asyncio.sleep(0)
    assert not waiting.done()
    text.append(" ", True)
    assert await waiting == "One. Two."
    text.append("Three. Four. Five", True)  # 18 with the space that is left
    waiting = asyncio.ensure_future(anext(pieces))
    await asyncio.sleep(0)
    assert not waiting.done()
    text.append("", True, flush=True)
    assert await waiting == "Three. Four. Five"
    text.append("Six. ", True)
    text.close()
    assert await anext(pieces) == "Six."
