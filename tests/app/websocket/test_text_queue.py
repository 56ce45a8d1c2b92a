from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Busy, Unprocessable
from app.schemas.speech import SpeechJob
from app.websocket.messages import SpeakCommand
from app.websocket.text_queue import PendingText, TextQueue
from engine import SpeechRequest

pytestmark = pytest.mark.anyio


def say(text: str, *, continues: bool = False, chunk_characters: int = 40) -> SpeakCommand:
    return SpeakCommand(text, SpeechJob(SpeechRequest(".", chunk_characters=chunk_characters), None), continues)


def words(pieces: list[str]) -> str:
    return "".join("".join(pieces).split())


@given(st.lists(st.text(alphabet="ab .!?,\n", max_size=30), min_size=1, max_size=12))
def test_whatever_way_it_is_written_all_of_it_is_said_once_and_in_order(written: list[str]) -> None:
    async def listen() -> list[str]:
        text = PendingText(say(written[0], continues=True), 10_000)
        said: list[str] = []

        async def write() -> None:
            for piece in written[1:]:
                text.append(piece, True)
                await asyncio.sleep(0)
            text.close()

        writing = asyncio.create_task(write())
        said = [piece async for piece in text.pieces()]
        await writing
        return said

    said = asyncio.run(listen())
    assert all(piece and piece == piece.strip() for piece in said)
    assert words(said) == words(written) or not any(map(str.isalnum, words(written)))


async def test_a_whole_text_is_one_piece() -> None:
    assert [piece async for piece in PendingText(say(" One. Two. Three "), 100).pieces()] == ["One. Two. Three"]


async def test_sentences_that_came_meanwhile_are_said_together() -> None:
    text = PendingText(say("One. Tw", continues=True), 100)
    pieces = text.pieces()
    assert await anext(pieces) == "One."
    text.append("o. Three. Fo", True)
    assert await anext(pieces) == "Two. Three."
    text.append("ur.", False)
    assert await anext(pieces) == "Four."
    assert await anext(pieces, None) is None


async def test_what_was_said_makes_room_for_more() -> None:
    text = PendingText(say("x" * 45 + ". ", continues=True), 50)
    with pytest.raises(Unprocessable, match="47 characters of this text are not spoken yet"):
        text.append("too much", True)
    await anext(text.pieces())
    text.append("not any more", True)


async def test_texts_come_out_in_order_until_they_are_finished() -> None:
    texts = TextQueue(max_queued=3, max_characters=100)
    for each in ("One", "Two", "Three"):
        texts.put(say(each))
    with pytest.raises(Busy):
        texts.put(say("Four"))
    texts.finish()
    assert [text.command.text async for text in texts] == ["One", "Two", "Three"]


async def test_a_piece_goes_to_the_text_that_is_open_also_when_many_wait() -> None:
    texts = TextQueue(max_queued=1, max_characters=100)
    texts.put(say("One", continues=True))
    assert texts.continuing
    texts.put(say(" more", continues=True))
    texts.put(say(" end."))
    assert not texts.continuing
    texts.finish()
    (text,) = [each async for each in texts]
    assert [piece async for piece in text.pieces()] == ["One more end."]


async def test_what_is_dropped_is_given_back_and_takes_no_more_pieces() -> None:
    texts = TextQueue(max_queued=5, max_characters=100)
    texts.put(say("One"))
    texts.put(say("Two", continues=True))
    assert [text.command.text for text in texts.clear()] == ["One", "Two"]
    assert not texts.continuing
    texts.put(say("Three"))
    texts.finish()
    assert [text.command.text async for text in texts] == ["Three"]
