from __future__ import annotations

import asyncio

import numpy as np
import pytest

from app.errors import Unprocessable
from app.realtime.conversation import (
    MAX_ITEMS,
    MAX_SPEECH_FRAMES,
    Conversation,
    Entry,
    SpokenClause,
    chat_messages,
    speech_history,
)
from app.realtime.items import ContentPart, FunctionCallItem, FunctionCallOutputItem, MessageItem


def user(item_id: str, text: str) -> Entry:
    return Entry(MessageItem(id=item_id, role="user", content=[ContentPart(type="input_text", text=text)]))


def codes(frames: int, value: int = 0) -> np.ndarray:
    return np.full((frames, 2), value, np.int64)


def assistant(item_id: str, *clauses: tuple[str, int]) -> Entry:
    text = "".join(text for text, _ in clauses)
    item = MessageItem(id=item_id, role="assistant", content=[ContentPart(type="output_audio", transcript=text)])
    spoken = [SpokenClause(text, text.strip(), [codes(frames)], complete=True) for text, frames in clauses]
    return Entry(item, clauses=spoken)


def heard(entry: Entry) -> str | None:
    assert isinstance(entry.item, MessageItem)
    return entry.item.content[0].transcript


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, ""),
        (799, "Hello"),  # 9 of 10 frames are a little less than two words
        (800, "Hello there,"),
        (1200, "Hello there, how are"),
        (5000, "Hello there, how are you?"),
    ],
)
def test_the_text_that_was_heard_follows_from_frames(milliseconds: int, text: str) -> None:
    entry = assistant("a", ("Hello there,", 10), (" how are you?", 7))
    entry.truncate(milliseconds)
    assert heard(entry) == text


def test_a_later_report_of_what_was_heard_replaces_an_earlier_one() -> None:
    entry = assistant("a", ("One.", 10), (" Two.", 10))
    entry.truncate(80)
    entry.truncate(800)
    assert heard(entry) == "One."


def test_faster_speech_is_heard_in_less_time() -> None:
    entry = assistant("a", ("One.", 10), (" Two.", 10))
    entry.speed = 2.0
    assert entry.milliseconds == 800
    entry.truncate(400)
    assert heard(entry) == "One."


def test_a_clause_that_was_cut_off_counts_by_an_estimate_of_its_length() -> None:
    entry = assistant("a", ("a b c d e f g h i j " * 3, 3))  # 60 characters: about 50 frames
    entry.clauses[0].complete = False
    entry.truncate(240)
    assert heard(entry) == "a"


def test_only_clauses_that_were_heard_completely_are_context_for_speech() -> None:
    entry = assistant("a", ("One.", 10), (" Two.", 10))
    entry.truncate(1500)
    assert [segment.text for segment in entry.heard_segments(3)] == ["One."]
    assert [segment.speaker for segment in entry.heard_segments(3)] == [3]


async def resolved(value: np.ndarray | None) -> asyncio.Future[np.ndarray | None]:
    future: asyncio.Future[np.ndarray | None] = asyncio.get_running_loop().create_future()
    future.set_result(value)
    return future


@pytest.mark.anyio
async def test_the_speech_history_has_both_sides_under_their_speakers() -> None:
    question = user("u", "How are you?")
    question.codes = await resolved(codes(5, 7))
    entries = [question, assistant("a", ("Fine.", 4)), user("typed", "Good.")]
    history = speech_history(entries, assistant=0, user=1, with_user_audio=True)
    assert [(each.text, each.speaker, len(each.codes)) for each in history] == [("How are you?", 1, 5), ("Fine.", 0, 4)]
    assert [each.text for each in speech_history(entries, 0, 1, with_user_audio=False)] == ["Fine."]


@pytest.mark.anyio
async def test_an_engine_without_codes_has_no_speech_history() -> None:
    question = user("u", "How are you?")
    question.codes = await resolved(None)
    answer = assistant("a", ("Fine.", 4))
    answer.clauses[0].codes = [np.zeros((4, 0), np.int64)]
    assert speech_history([question, answer], 0, 1, with_user_audio=True) == []


def test_the_speech_history_keeps_the_newest_turns_that_fit() -> None:
    entries = [assistant(str(number), (f"{number}.", 200)) for number in range(5)]
    history = speech_history(entries, 0, 1, with_user_audio=True)
    assert [each.text for each in history] == ["3.", "4."]
    assert sum(len(each.codes) for each in history) <= MAX_SPEECH_FRAMES


def test_messages_for_the_language_model() -> None:
    call = FunctionCallItem(id="c", call_id="call", name="weather", arguments='{"city": "Bern"}')
    entries = [
        user("u", "Weather?"),
        Entry(call),
        Entry(FunctionCallOutputItem(id="o", call_id="call", output="sun")),
        assistant("a", ("Sunny.", 5)),
        assistant("b", ("Nobody heard this.", 5)),
    ]
    entries[-1].truncate(0)
    assert chat_messages("Be brief.", entries) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call", "content": "sun"},
        {"role": "assistant", "content": "Sunny."},
    ]


def test_an_image_is_passed_on() -> None:
    part = ContentPart(type="input_image", image_url="data:image/png;base64,AA==")
    [message] = chat_messages("", [Entry(MessageItem(id="u", role="user", content=[part]))])
    assert message["content"] == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]


def test_items_are_inserted_found_and_deleted() -> None:
    conversation = Conversation()
    assert conversation.add(user("a", "a")) is None
    assert conversation.add(user("c", "c")) == "a"
    assert conversation.add(user("b", "b"), after="a") == "a"
    assert conversation.add(user("first", "f"), after="root") is None
    assert [entry.item.id for entry in conversation] == ["first", "a", "b", "c"]
    assert conversation.previous_id("b") == "a"
    conversation.delete("b")
    for broken in (lambda: conversation.find("b"), lambda: conversation.add(user("d", "d"), after="b")):
        with pytest.raises(Unprocessable, match="'b' does not exist"):
            broken()
    with pytest.raises(Unprocessable, match="taken"):
        conversation.add(user("a", "again"))


def test_a_long_conversation_forgets_its_oldest_items() -> None:
    conversation = Conversation()
    for number in range(MAX_ITEMS + 5):
        conversation.add(user(str(number), "x"))
    ids = [entry.item.id for entry in conversation]
    assert (len(ids), ids[0]) == (MAX_ITEMS, "5")
