from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from csm_serve_client import Mark, StreamCut, UnexpectedAnswer, WordTiming

from tests.client.service import async_client, client, streamed

WORD = {
    "text": "$5",
    "text_start": 4,
    "text_end": 6,
    "spoken": "five dollars",
    "start_ms": 80,
    "end_ms": 400,
    "estimated": True,
}
MARK = {"text": "Say $5", "text_start": 0, "text_end": 6, "start_ms": 0, "end_ms": 400}
EVENTS = (
    {"type": "speech.audio.delta", "audio": base64.b64encode(b"one").decode()},
    {"type": "speech.audio.delta", "audio": base64.b64encode(b"two").decode()},
    {"type": "speech.audio.mark", **MARK, "words": [{**WORD, "of_a_newer_service": 1}], "of_a_newer_service": 1},
    {"type": "of_a_newer_service"},
    {"type": "speech.audio.done", "usage": {}},
)


def body_of(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)


def answer_of(body: bytes, size: int = 10_000) -> Any:
    parts = (body[start : start + size] for start in range(0, len(body), size))
    return streamed(*parts, **{"Content-Type": "text/event-stream; charset=utf-8"})


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_audio_and_marks_are_read_from_pieces_of_any_size(size: int) -> None:
    seen = []

    def answer(request: Any) -> Any:
        seen.append(request.headers["Accept"])
        return answer_of(body_of(*EVENTS), size)

    with client(answer) as service, service.stream("Say $5", format="raw_pcm", timestamps=True) as speech:
        assert b"".join(speech) == b"onetwo"
        assert (speech.received, speech.complete) == (6, True)
        assert speech.marks == [Mark(**MARK, words=(WordTiming(**WORD),))]
    assert seen == ["text/event-stream"]


@pytest.mark.anyio
async def test_the_async_client_reads_them_too() -> None:
    async with (
        async_client(lambda request: answer_of(body_of(*EVENTS))) as service,
        service.stream("Say $5", timestamps=True) as speech,
    ):
        assert b"".join([data async for data in speech]) == b"onetwo"
        assert [mark.text for mark in speech.marks] == ["Say $5"]


def test_without_the_last_event_the_stream_was_cut() -> None:
    with client(lambda request: answer_of(body_of(*EVENTS[:-1]))) as service:
        with service.stream("Hi.", timestamps=True) as speech, pytest.raises(StreamCut, match="last event"):
            list(speech)
        assert not speech.complete


@pytest.mark.parametrize(
    "body",
    [
        b"data: {\n\n",
        b"data: []\n\n",
        b'data: {"type": "speech.audio.delta", "audio": "?"}\n\n',
        b'data: {"type": "speech.audio.mark"}\n\n',
    ],
)
def test_events_of_another_server_are_reported(body: bytes) -> None:
    with client(lambda request: answer_of(body)) as service, service.stream("Hi.", timestamps=True) as speech:
        with pytest.raises(UnexpectedAnswer, match="cannot be read"):
            list(speech)
        assert isinstance(speech.marks, list)


def test_without_timestamps_there_are_no_marks() -> None:
    with client(lambda request: streamed(b"one")) as service, service.stream("Hi.") as speech:
        assert (b"".join(speech), speech.marks) == (b"one", [])
