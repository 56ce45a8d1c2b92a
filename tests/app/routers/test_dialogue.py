"""POST /tts/dialogue and ElevenLabs' /v1/text-to-dialogue."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest

from app.audio.encoders.pcm import to_int16
from app.settings import Settings
from engine import DialogueTurn, SpeechRequest
from engine.fake_stream import tone
from tests.app.voices.recordings import recording

pytestmark = pytest.mark.anyio

TURNS = [
    {"voice_id": "speaker_1", "text": "First."},
    {"voice_id": "speaker_2", "text": "Second."},
    {"voice_id": "speaker_1", "text": "Third."},
]
TONES = SpeechRequest(turns=(DialogueTurn("x", 1), DialogueTurn("x", 2)))


def client_of(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://service", headers={"X-API-Key": "second-key"})


def audio(*parts: int | tuple[int, int, int]) -> bytes:
    """Samples of silence, and the tone of a voice from one frame to another."""
    samples = [
        np.zeros(part, np.float32) if isinstance(part, int) else tone(TONES, part[1], part[2] - part[1], part[0])
        for part in parts
    ]
    return to_int16(np.concatenate(samples)).astype("<i2").tobytes()


async def test_turns_are_spoken_in_their_voices_with_gaps(settings: Settings, run: Any) -> None:
    first, second, third = (0, 0, 6), (1, 6, 13), (0, 13, 19)
    async with run(settings) as app, client_of(app) as client:

        async def spoken(**parameters: Any) -> httpx.Response:
            return await client.post("/tts/dialogue", json={"turns": TURNS, "format": "raw_pcm", **parameters})

        response = await spoken(seed=1)
        assert response.status_code == 200
        assert response.headers["X-TTS-Engine"] == "fake"
        assert response.content == audio(first, 4800, second, 4800, third)
        assert (await spoken(seed=1)).content == response.content
        assert (await spoken(gap_ms=0)).content == audio(first, second, third)
        longer = [*TURNS[:2], {**TURNS[2], "gap_ms": 1000}]
        assert (await spoken(turns=longer, gap_ms=0)).content == audio(first, second, 24_000, third)
        mixed = (await spoken(gap_ms=-80)).content
        assert len(mixed) == (19 - 2) * 3840
        assert mixed[: 5 * 3840] == audio((0, 0, 5))
        assert mixed[5 * 3840 : 6 * 3840] not in (audio((0, 5, 6)), audio((1, 6, 7)))
        assert mixed[6 * 3840 : 11 * 3840] == audio((1, 7, 12))
        half = await spoken(format="wav", sample_rate=12_000, max_audio_length_ms=800)
        assert half.headers["X-Sample-Rate"] == "12000"
        assert len(half.content) == 44 + 2 * 9600
        assert app.state.service.host.engine.status().active == 0


async def test_texts_are_read_turn_by_turn(settings: Settings, run: Any) -> None:
    turns = [
        {"voice_id": "speaker_1", "text": "**5** GIF"},
        {"voice_id": "speaker_2", "text": "<speak>No<break time='1s'/>no</speak>"},
    ]
    async with run(settings) as app, client_of(app) as client:
        body = {"turns": turns, "gap_ms": 0, "format": "raw_pcm", "lexicon": {"gif": "jif"}, "normalize": True}
        response = await client.post("/tts/dialogue", json=body)
        assert response.content == audio((0, 0, 8), (1, 8, 10), 24_000, (1, 10, 12))


async def test_a_recording_is_one_of_the_voices(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        uploaded = await client.post("/voices", files={"file": ("amy.wav", recording())})
        assert uploaded.status_code == 201
        turns = [{"voice_id": "amy.wav", "text": "One."}, {"voice_id": "speaker_1", "text": "Two."}]
        response = await client.post("/tts/dialogue", json={"turns": turns, "gap_ms": 0, "format": "raw_pcm"})
        assert response.content[4 * 3840 :] == audio((0, 4, 8))
        assert response.content[: 4 * 3840] not in (audio((0, 0, 4)), audio((1, 0, 4)))


@pytest.mark.parametrize(
    ("parameters", "status", "code", "expected"),
    [
        ({}, 422, "invalid_parameter", "turns is missing"),
        ({"turns": TURNS[:1]}, 422, "invalid_parameter", "turns"),
        ({"turns": TURNS * 34}, 422, "invalid_parameter", "turns"),
        ({"turns": [*TURNS, {"text": "Who?"}]}, 422, "invalid_parameter", "voice_id is missing"),
        ({"turns": [*TURNS, {"voice_id": "speaker_0", "text": " "}]}, 422, "invalid_parameter", "text"),
        ({"turns": [*TURNS, {"voice_id": "speaker_0", "text": "[pause:1s]"}]}, 422, "no_words", "turn 4 has no words"),
        ({"turns": [{"voice_id": "speaker_0", "text": "<speak><a/>"}, *TURNS]}, 422, "invalid_markup", "turn 1: "),
        ({"turns": [*TURNS, {"voice_id": "nobody", "text": "Hi."}]}, 404, "unknown_voice", "nobody"),
        (
            {"turns": [{"voice_id": f"speaker_{number}", "text": "Hi."} for number in range(11)]},
            422,
            "too_many_voices",
            "11 voices; the limit is 10",
        ),
        ({"turns": [{**TURNS[0], "text": "x" * 2501}] * 2}, 422, "text_too_long", "5002 characters"),
        ({"turns": TURNS, "gap_ms": -5001}, 422, "invalid_parameter", "gap_ms"),
        ({"turns": TURNS, "voice_id": "speaker_1"}, 422, "invalid_parameter", "voice_id is not a parameter"),
        ({"turns": TURNS, "format": "midi"}, 400, "unknown_format", "midi"),
    ],
)
async def test_invalid_dialogues_are_explained(
    settings: Settings, run: Any, parameters: dict[str, Any], status: int, code: str, expected: str
) -> None:
    async with run(settings) as app, client_of(app) as client:
        response = await client.post("/tts/dialogue", json=parameters)
        assert (response.status_code, response.json()["code"]) == (status, code), response.json()
        assert expected in response.json()["detail"]


async def test_marks_and_subtitles_tell_the_turn(settings: Settings, run: Any) -> None:
    body = {"turns": TURNS, "gap_ms": 1000, "format": "raw_pcm"}
    async with run(settings) as app, client_of(app) as client:
        events = await client.post("/tts/dialogue", json=body, headers={"Accept": "text/event-stream"})
        data = [json.loads(line[6:]) for line in events.text.splitlines() if line.startswith("data: {")]
        marks = [each for each in data if each["type"] == "speech.audio.mark"]
        assert [(each["turn"], each["text"], each["text_start"], each["start_ms"]) for each in marks] == [
            (0, "First.", 0, 0),
            (1, "Second.", 7, 480 + 1000),
            (2, "Third.", 15, 480 + 560 + 2000),
        ]
        assert [each["voice_id"] for each in marks] == ["speaker_1", "speaker_2", "speaker_1"]
        subtitles = await client.post("/tts/dialogue", json={**body, "subtitles": "srt"})
        assert subtitles.text.startswith("1\n00:00:00,000 --> 00:00:00,480\nFirst.\n\n2\n00:00:01,480 -->")


async def test_subtitles_name_the_speakers_in_the_order_in_which_they_begin(settings: Settings, run: Any) -> None:
    turns = [
        {"voice_id": "amy.wav", "text": "One, two <b>three. Four, five, six."},  # 19 and 16 frames of 80 ms
        {"voice_id": "speaker_2", "text": "Really?", "gap_ms": -1600},
        {"voice_id": "amy.wav", "text": "Yes."},
    ]
    async with run(settings) as app, client_of(app) as client:
        await client.post("/voices", files={"file": ("amy.wav", recording())})
        body = {"turns": turns, "subtitles": "vtt", "normalize": False}
        subtitles = await client.post("/tts/dialogue", json=body)
    assert subtitles.text == (
        "WEBVTT\n\n"
        "1\n00:00:00.000 --> 00:00:01.440\n<v amy>One, two &lt;b&gt;three.\n\n"
        "2\n00:00:01.200 --> 00:00:01.760\n<v speaker_2>Really?\n\n"
        "3\n00:00:01.520 --> 00:00:02.800\n<v amy>Four, five, six.\n\n"
        "4\n00:00:03.000 --> 00:00:03.320\n<v amy>Yes.\n\n"
    )


async def test_elevenlabs_alignment_tells_whose_characters_are_when(settings: Settings, run: Any) -> None:
    inputs = [TURNS[0], {"voice_id": "speaker_2", "text": " Second. "}, TURNS[2]]
    body = {"inputs": inputs, "settings": {"speed": 0.8}}
    query = {"output_format": "pcm_24000"}
    async with run(settings) as app, client_of(app) as client:
        plain = await client.post("/v1/text-to-dialogue", params=query, json=body)
        whole = (await client.post("/v1/text-to-dialogue/with-timestamps", params=query, json=body)).json()
        lines = await client.post("/v1/text-to-dialogue/stream/with-timestamps", params=query, json=body)
        missing = await client.post(
            "/v1/text-to-dialogue/with-timestamps", json={"inputs": [{**TURNS[0], "voice_id": "nobody"}]}
        )
    assert base64.b64decode(whole["audio_base64"]) == plain.content
    alignment = whole["alignment"]
    assert "".join(alignment["characters"]) == "".join(each["text"] for each in inputs)
    assert "".join(whole["normalized_alignment"]["characters"]) == "First.Second.Third."
    begins = (0.0, 0.48 + 0.2, 0.48 + 0.2 + 0.56 + 0.2)  # and the seconds of each turn
    expected = [
        ("speaker_1", 0, 0, 6, begins[0], 0.48),
        ("speaker_2", 1, 6, 15, begins[1], 0.56),
        ("speaker_1", 2, 15, 21, begins[2], 0.48),
    ]
    segments = whole["voice_segments"]
    for segment, (voice, turn, first, after, begin, seconds) in zip(segments, expected, strict=True):
        assert (segment["voice_id"], segment["dialogue_input_index"]) == (voice, turn)
        assert (segment["character_start_index"], segment["character_end_index"]) == (first, after)
        assert segment["start_time_seconds"] == pytest.approx(begin / 0.8, abs=0.002)
        assert segment["end_time_seconds"] == pytest.approx((begin + seconds) / 0.8, abs=0.002)
        assert alignment["character_start_times_seconds"][first] == segment["start_time_seconds"]
        assert alignment["character_end_times_seconds"][after - 1] == segment["end_time_seconds"]
    parts = [json.loads(line) for line in lines.text.splitlines()]
    assert b"".join(base64.b64decode(part["audio_base64"]) for part in parts) == plain.content
    said = {0: "", 1: "", 2: ""}
    for part in parts:
        for segment in part["voice_segments"]:
            characters = part["alignment"]["characters"]
            span = slice(segment["character_start_index"], segment["character_end_index"])
            said[segment["dialogue_input_index"]] += "".join(characters[span])
    assert list(said.values()) == [each["text"] for each in inputs]
    assert missing.status_code == 404


async def test_elevenlabs_dialogue_is_the_same_audio(settings: Settings, run: Any) -> None:
    async with run(settings) as app, client_of(app) as client:
        expected = (await client.post("/tts/dialogue", json={"turns": TURNS, "format": "raw_pcm"})).content
        for path in ("/v1/text-to-dialogue", "/v1/text-to-dialogue/stream"):
            response = await client.post(f"{path}?output_format=pcm_24000", json={"inputs": TURNS, "model_id": "any"})
            assert response.content == expected
            failed = await client.post(path, json={"inputs": [{**TURNS[0], "voice_id": "nobody"}]})
            assert failed.status_code == 404
            assert failed.json()["detail"]["status"] == "voice_not_found"
        refused = await client.post("/v1/text-to-dialogue", json={"inputs": TURNS, "audio_effects": {"a": 1}})
        assert refused.status_code == 422
