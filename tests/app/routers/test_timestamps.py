"""When words are said, in every form in which the service tells it. The fake engine says a character in 80 ms."""

from __future__ import annotations

import base64
import json
import threading
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from app.main import create_app
from app.settings import Settings

pytestmark = pytest.mark.anyio

TEXT = "Say $5 now. Then <b> stop."
WORDS = [("Say", 0), ("$5", 4), ("now.", 7), ("Then", 12), ("<b>", 17), ("stop.", 21)]


def client_of(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://service", headers={"X-API-Key": "first-key"})


def events_of(body: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in body.splitlines() if line]


def marks_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["type"].endswith("mark")]


def decoded(events: list[dict[str, Any]]) -> bytes:
    return b"".join(base64.b64decode(each["audio"]) for each in events if each["type"] == "speech.audio.delta")


async def test_subtitles_come_in_place_of_the_audio(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        srt = await client.get("/tts/generate", params={"text": TEXT, "subtitles": "srt"})
        vtt = await client.post("/tts/generate", json={"text": TEXT, "subtitles": "vtt"})
        refused = await client.get("/tts/generate", params={"text": TEXT, "subtitles": "ass"})
    assert srt.headers["content-type"].split(";")[0] == "application/x-subrip"
    assert srt.text == (
        "1\n00:00:00,000 --> 00:00:00,880\nSay $5 now.\n\n2\n00:00:00,960 --> 00:00:02,080\nThen <b> stop.\n\n"
    )
    assert vtt.headers["content-type"].split(";")[0] == "text/vtt"
    assert vtt.text == (
        "WEBVTT\n\n1\n00:00:00.000 --> 00:00:00.880\nSay $5 now.\n\n"
        "2\n00:00:00.960 --> 00:00:02.080\nThen &lt;b&gt; stop.\n\n"
    )
    assert refused.status_code == 422


async def test_a_long_sentence_is_several_cues(settings: Settings, run: Any) -> None:
    text = "word " * 40 + "end."
    async with run(settings) as app, client_of(app) as client:
        srt = (await client.get("/tts/generate", params={"text": text, "subtitles": "srt"})).text
    cues = [cue.split("\n")[2] for cue in srt.strip().split("\n\n")]
    assert " ".join(cues) == text
    assert len(cues) > 2
    assert max(map(len, cues)) <= 84


async def test_events_hold_the_same_audio_and_marks_after_it(settings: Settings, run: Any) -> None:
    query = {"text": TEXT, "format": "raw_pcm", "seed": 1, "text_processing_chunk_size": 20}
    async with run(settings) as app, client_of(app) as client:
        plain = await client.get("/tts/generate", params=query)
        answer = await client.get("/tts/generate", params=query, headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer.text)
    assert decoded(events) == plain.content
    assert events[-1]["type"] == "speech.audio.done"
    marks = marks_of(events)
    assert [mark["text"] for mark in marks] == ["Say $5 now.", "Then <b> stop."]
    assert marks[0]["end_ms"] == 880
    assert marks[1]["start_ms"] == 880 - 30  # the crossfade
    words = [word for mark in marks for word in mark["words"]]
    assert [(word["text"], word["text_start"]) for word in words] == WORDS
    assert all(word["text"] == TEXT[word["text_start"] : word["text_end"]] for word in words)
    assert not any(word["estimated"] for word in words)
    # after the audio of the chunk, not before
    before = events[: events.index(marks[0])]
    assert len(decoded(before)) >= 880 * 48


async def test_words_that_are_said_for_one_are_one(settings: Settings, run: Any) -> None:
    body = {"text": TEXT, "normalize": True, "format": "raw_pcm"}
    async with run(settings) as app, client_of(app) as client:
        answer = await client.post("/tts/generate", json=body, headers={"Accept": "text/event-stream"})
    (mark,) = marks_of(events_of(answer.text))
    assert [(each["text"], each["spoken"]) for each in mark["words"]][:2] == [("Say", "Say"), ("$5", "five dollars")]
    assert (mark["words"][1]["start_ms"], mark["words"][1]["end_ms"]) == (4 * 80, 16 * 80)


async def test_openai_events_have_marks_at_the_speed_of_the_audio(settings: Settings, run: Any) -> None:
    body = {"input": TEXT, "stream_format": "sse", "response_format": "pcm", "speed": 2}
    async with run(settings) as app, client_of(app) as client:
        plain = await client.post("/v1/audio/speech", json=body)
        answer = await client.post("/v1/audio/speech", json={**body, "timestamps": True})
        refused = await client.post("/v1/audio/speech", json={**body, "timestamps": True, "stream_format": "audio"})
    assert marks_of(events_of(plain.text)) == []
    events = events_of(answer.text)
    (mark,) = marks_of(events)
    assert mark["end_ms"] == len(TEXT) * 80 / 2
    assert mark["words"][1]["start_ms"] == 4 * 80 / 2
    assert len(decoded(events)) == len(TEXT) * 80 * 48 / 2
    assert refused.status_code == 422


async def test_what_an_engine_does_not_know_is_marked_as_estimated(settings: Settings, run: Any) -> None:
    settings = settings.model_copy(update={"model_path": "fake:hides_words=true"})
    async with run(settings) as app, client_of(app) as client:
        answer = await client.get("/tts/generate", params={"text": TEXT}, headers={"Accept": "text/event-stream"})
    (mark,) = marks_of(events_of(answer.text))
    assert (mark["start_ms"], mark["end_ms"]) == (0, len(TEXT) * 80)  # frames are counted
    assert all(word["estimated"] for word in mark["words"])
    starts = [word["start_ms"] for word in mark["words"]]
    assert starts == sorted(starts)
    assert len(set(starts)) == len(starts)


async def test_an_alignment_has_every_character_of_the_text(settings: Settings, run: Any) -> None:
    text = f"  {TEXT} \n[pause:1s] \N{OWL} Bye "
    route = "/v1/text-to-speech/speaker_0"
    query, body = {"output_format": "pcm_24000"}, {"text": text, "voice_settings": {"speed": 0.8}}
    async with run(settings) as app, client_of(app) as client:
        plain = await client.post(route, params=query, json=body)
        whole = (await client.post(f"{route}/with-timestamps", params=query, json=body)).json()
        lines = await client.post(f"{route}/stream/with-timestamps", params=query, json=body)
        missing = await client.post("/v1/text-to-speech/nobody/with-timestamps", json=body)
    assert base64.b64decode(whole["audio_base64"]) == plain.content
    alignment = whole["alignment"]
    assert "".join(alignment["characters"]) == text
    starts, ends = alignment["character_start_times_seconds"], alignment["character_end_times_seconds"]
    assert starts[1:] == pytest.approx(ends[:-1], abs=0.001)
    assert starts[2] == 0.0
    bye = text.index("Bye")
    assert starts[bye] == pytest.approx((len(TEXT) * 0.08 + 1 + 2 * 0.08) / 0.8, abs=0.002)
    assert "".join(whole["normalized_alignment"]["characters"]) == f"{TEXT} Bye"
    parts = [json.loads(line) for line in lines.text.splitlines()]
    assert b"".join(base64.b64decode(part["audio_base64"]) for part in parts) == plain.content
    joined = [each for part in parts if part["alignment"] for each in part["alignment"]["characters"]]
    assert "".join(joined) == text
    assert missing.status_code == 404


def test_ws_marks_refer_to_the_whole_text_in_pieces(settings: Settings) -> None:
    app = create_app(settings)
    with TestClient(app, headers={"X-API-Key": "first-key"}) as client:
        for _ in range(5000):
            if client.get("/readyz").status_code == 200:
                break
            threading.Event().wait(0.005)
        with client.websocket_connect("/ws") as connection:
            connection.send_json({"text": "One two.  Thr", "continue": True, "timestamps": True})
            connection.send_json({"text": "ee four. "})
            messages: list[dict[str, Any]] = []
            while not messages or messages[-1]["type"] not in ("completion", "error"):
                messages.append(connection.receive_json())
    words = [word for mark in marks_of(messages) for word in mark["words"]]
    assert [(word["text"], word["text_start"], word["start_ms"]) for word in words] == [
        ("One", 0, 0),
        ("two.", 4, 320),
        ("Three", 10, 640),
        ("four.", 16, 1120),
    ]
    assert messages[-1]["duration_ms"] == words[-1]["end_ms"]
