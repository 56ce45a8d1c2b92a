"""ElevenLabs' official client against the service."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import av
import httpx
import pytest
from elevenlabs import AsyncElevenLabs, DialogueInput, ElevenLabs, VoiceSettings
from elevenlabs.core.api_error import ApiError
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from app.schemas.elevenlabs import OUTPUT_FORMATS
from tests.app.voices.recordings import recording
from tests.integration.shared import KEY, Server, serving

TEXT = "x" * 50  # four seconds of the fake engine's audio
SECONDS = 4.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("elevenlabs")
    (folder / "preloaded").mkdir()
    (folder / "preloaded" / "house.wav").write_bytes(recording())
    with serving(folder, MODEL_PATH="fake:frame_seconds=0.001", MAX_TEXT_LENGTH="1000") as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[ElevenLabs]:
    with httpx.Client(timeout=30) as connection:
        yield ElevenLabs(base_url=server.url, api_key=KEY, httpx_client=connection)


def seconds_of(data: bytes, name: str) -> float:
    kind, rate = name.split("_")[:2]
    if kind in ("pcm", "ulaw", "alaw"):
        return len(data) / int(rate) / (2 if kind == "pcm" else 1)
    with av.open(io.BytesIO(data)) as file:
        assert file.streams.audio[0].rate == int(rate)
        return sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))


def test_every_output_format_contains_the_whole_speech(client: ElevenLabs) -> None:
    for name in OUTPUT_FORMATS:
        spoken = b"".join(client.text_to_speech.convert("speaker_0", text=TEXT, output_format=name))
        assert seconds_of(spoken, name) == pytest.approx(SECONDS, abs=0.2), name
    spoken = b"".join(client.text_to_speech.convert("speaker_0", text=TEXT))
    assert seconds_of(spoken, "mp3_44100") == pytest.approx(SECONDS, abs=0.2)


def test_speech_is_streamed_while_it_is_generated(server: Server, client: ElevenLabs) -> None:
    def ended() -> bool:
        return "/v1/text-to-speech/speaker_2/stream" in server.log  # the log line of this request

    parts = client.text_to_speech.stream("speaker_2", text="x" * 1000, output_format="pcm_24000")
    first = next(parts)
    assert not ended()
    whole = b"".join(client.text_to_speech.convert("speaker_2", text="x" * 1000, output_format="pcm_24000"))
    assert first + b"".join(parts) == whole
    server.wait_until(ended)


def test_a_dialogue_is_spoken_by_its_voices(client: ElevenLabs) -> None:
    inputs = [DialogueInput(text="x" * 20, voice_id=voice) for voice in ("speaker_0", "house.wav", "speaker_0")]
    whole = b"".join(client.text_to_dialogue.convert(inputs=inputs, output_format="pcm_24000", seed=1))
    assert len(whole) == 60 * 3840 + 2 * 2 * 4800
    assert b"".join(client.text_to_dialogue.stream(inputs=inputs, output_format="pcm_24000", seed=1)) == whole
    with pytest.raises(ApiError) as raised:
        b"".join(client.text_to_dialogue.convert(inputs=[DialogueInput(text="Hi.", voice_id="nobody")]))
    assert raised.value.status_code == 404


def test_a_dialogue_with_timestamps_tells_whose_turn_is_when(server: Server, client: ElevenLabs) -> None:
    voices = ("speaker_0", "house.wav", "speaker_0")
    inputs = [DialogueInput(text="x" * count, voice_id=voice) for count, voice in zip((20, 5, 10), voices, strict=True)]
    options: dict[str, Any] = {"inputs": inputs, "output_format": "pcm_24000", "seed": 1}
    spoken = b"".join(client.text_to_dialogue.convert(**options))
    whole = client.text_to_dialogue.convert_with_timestamps(**options)
    assert base64.b64decode(whole.audio_base_64) == spoken
    assert whole.alignment is not None
    assert "".join(whole.alignment.characters) == "x" * 35
    expected = [(0, 20, 0.0, 1.6), (20, 25, 1.8, 2.2), (25, 35, 2.4, 3.2)]
    for turn, (each, (first, after, *times)) in enumerate(zip(whole.voice_segments, expected, strict=True)):
        assert (each.dialogue_input_index, each.voice_id) == (turn, voices[turn])
        assert (each.character_start_index, each.character_end_index) == (first, after)
        assert [each.start_time_seconds, each.end_time_seconds] == pytest.approx(times, abs=0.002)

    parts = list(client.text_to_dialogue.stream_with_timestamps(**options))
    assert b"".join(base64.b64decode(part.audio_base_64) for part in parts) == spoken
    assert [each for part in parts for each in part.voice_segments][-1].end_time_seconds == pytest.approx(
        3.2, abs=0.002
    )

    async def stream() -> list[Any]:
        async with httpx.AsyncClient(timeout=30) as connection:
            other = AsyncElevenLabs(base_url=server.url, api_key=KEY, httpx_client=connection)
            assert await other.text_to_dialogue.convert_with_timestamps(**options) == whole
            return [part async for part in other.text_to_dialogue.stream_with_timestamps(**options)]

    assert asyncio.run(stream()) == parts
    for refused, status in (([DialogueInput(text="Hi.", voice_id="nobody")], 404), (eleven_voices(), 422)):
        with pytest.raises(ApiError) as raised:
            client.text_to_dialogue.convert_with_timestamps(inputs=refused)
        assert raised.value.status_code == status
        with pytest.raises(ApiError) as raised:
            list(client.text_to_dialogue.stream_with_timestamps(inputs=refused))
        assert raised.value.status_code == status


def eleven_voices() -> list[DialogueInput]:
    return [DialogueInput(text="Hi.", voice_id=f"speaker_{number}") for number in range(11)]


def test_the_async_client_streams_too(server: Server) -> None:
    async def stream() -> int:
        async with httpx.AsyncClient(timeout=30) as connection:
            client = AsyncElevenLabs(base_url=server.url, api_key=KEY, httpx_client=connection)
            parts = client.text_to_speech.stream("speaker_1", text=TEXT, output_format="pcm_24000")
            return sum([len(part) async for part in parts])

    assert asyncio.run(stream()) == 50 * 3840


def test_speed_changes_the_length(client: ElevenLabs) -> None:
    settings = VoiceSettings(speed=0.8)
    parts = client.text_to_speech.convert("speaker_0", text=TEXT, output_format="pcm_24000", voice_settings=settings)
    assert len(b"".join(parts)) // 2 == round(50 * 1920 / 0.8)


def test_the_client_reads_timestamps(client: ElevenLabs) -> None:
    text = "Hello there. And good bye."
    whole = client.text_to_speech.convert_with_timestamps("speaker_0", text=text, output_format="pcm_24000")
    assert whole.alignment is not None
    assert "".join(whole.alignment.characters) == text
    assert whole.alignment.character_start_times_seconds[6] == pytest.approx(6 * 0.08)
    parts = list(client.text_to_speech.stream_with_timestamps("speaker_0", text=text, output_format="pcm_24000"))
    assert b"".join(base64.b64decode(part.audio_base_64) for part in parts) == base64.b64decode(whole.audio_base_64)
    aligned = [part.alignment for part in parts if part.alignment is not None]
    assert "".join(character for each in aligned for character in each.characters) == text


def test_voices_are_listed_added_spoken_and_deleted(client: ElevenLabs) -> None:
    listed = client.voices.get_all().voices
    assert [voice.voice_id for voice in listed[:2]] == ["house.wav", "speaker_0"]
    assert (listed[0].name, listed[0].category, listed[0].is_owner) == ("house", "premade", False)

    added = client.voices.ivc.create(name="Amy: my own", files=[("a.wav", recording())], labels={"accent": "plain"})
    assert (added.voice_id, added.requires_verification) == ("Amy- my own", False)
    assert client.user.subscription.get().voice_slots_used == 1
    voice = client.voices.get(added.voice_id)
    assert (voice.name, voice.category) == ("Amy- my own", "cloned")
    assert voice.created_at_unix is not None
    assert voice.created_at_unix > 1_700_000_000
    assert b"".join(client.text_to_speech.convert(added.voice_id, text="Hi", output_format="ulaw_8000"))

    first = client.voices.search(page_size=2)
    assert (len(first.voices), first.has_more, first.total_count) == (2, True, len(listed) + 1)
    ids = [voice.voice_id for voice in first.voices]
    while first.has_more:
        first = client.voices.search(page_size=2, next_page_token=first.next_page_token)
        ids += [voice.voice_id for voice in first.voices]
    assert sorted(ids) == sorted([added.voice_id, *(voice.voice_id for voice in listed)])
    assert [each.voice_id for each in client.voices.search(search="AMY").voices] == [added.voice_id]

    assert client.voices.delete(added.voice_id).status == "ok"
    with pytest.raises(ApiError) as gone:
        client.voices.get(added.voice_id)
    assert gone.value.status_code == 404
    assert gone.value.body["detail"]["status"] == "voice_not_found"


def test_models_are_elevenlabs_own_with_its_header_alone(server: Server, client: ElevenLabs) -> None:
    (model,) = client.models.list()
    assert (model.can_do_text_to_speech, model.maximum_text_length_per_request) == (True, 1000)
    openai = httpx.get(f"{server.url}/v1/models", headers={"Authorization": f"Bearer {KEY}"}, timeout=30).json()
    assert [each["id"] for each in openai["data"]] == [model.model_id]


@pytest.mark.parametrize(
    ("parameters", "status", "name", "code"),
    [
        ({"voice_id": "nobody"}, 404, "voice_not_found", "unknown_voice"),
        ({"text": "x" * 1001}, 422, "max_character_limit_exceeded", "text_too_long"),
        ({"output_format": "mp3_1_2"}, 400, "invalid_output_format", "unknown_format"),
        ({"language_code": "de"}, 422, "invalid_parameter", "invalid_parameter"),
        (
            {"pronunciation_dictionary_locators": [{"pronunciation_dictionary_id": "a"}]},
            422,
            *["invalid_parameter"] * 2,
        ),
        ({"audio_effects": {"distance": 1.0}}, 422, "invalid_parameter", "invalid_parameter"),
        ({"apply_language_text_normalization": True}, 422, "invalid_parameter", "invalid_parameter"),
        ({"voice_settings": {"stability": 2}}, 422, "invalid_parameter", "invalid_parameter"),
        ({"seed": -1}, 422, "invalid_parameter", "invalid_parameter"),
    ],
)
def test_errors_have_elevenlabs_shape_and_name_the_field(
    client: ElevenLabs, parameters: dict[str, Any], status: int, name: str, code: str
) -> None:
    with pytest.raises(ApiError) as refused:
        b"".join(client.text_to_speech.convert(**{"voice_id": "speaker_0", "text": "Hi", **parameters}))
    assert refused.value.status_code == status
    body = refused.value.body
    assert (body["detail"]["status"], body["code"]) == (name, code)
    if status == 422 and name == "invalid_parameter":
        assert body["detail"]["message"].startswith(next(iter(parameters)))


def test_a_wrong_key_is_refused_in_elevenlabs_shape(server: Server) -> None:
    with httpx.Client(timeout=30) as connection, pytest.raises(ApiError) as refused:
        ElevenLabs(base_url=server.url, api_key="wrong", httpx_client=connection).voices.get_all()
    assert refused.value.status_code == 401
    assert refused.value.body["detail"] == {"status": "invalid_api_key", "message": "Invalid or missing API Key"}


def test_harmless_fields_are_ignored(client: ElevenLabs) -> None:
    spoken = client.text_to_speech.convert(
        "speaker_0",
        text=TEXT,
        model_id="eleven_flash_v2_5",
        language_code="en-GB",
        enable_logging=False,
        optimize_streaming_latency=3,
        previous_text="Before.",
        next_text="After.",
        previous_request_ids=["a"],
        apply_text_normalization="off",
        voice_settings=VoiceSettings(stability=0.4, similarity_boost=0.9, style=0.2, use_speaker_boost=True),
        output_format="pcm_24000",
    )
    assert len(b"".join(spoken)) == 50 * 3840


def test_what_an_upload_cannot_do_is_refused(client: ElevenLabs) -> None:
    with pytest.raises(ApiError, match="remove_background_noise"):
        client.voices.ivc.create(name="noisy", files=[("a.wav", recording())], remove_background_noise=True)
    with pytest.raises(ApiError, match="Maximum number of files is 25"):
        client.voices.ivc.create(name="many", files=[("a.wav", recording())] * 26)
    with pytest.raises(ApiError, match=r"^.*b\.txt: "):
        client.voices.ivc.create(name="noisy", files=[("a.wav", recording()), ("b.txt", b"Not audio.")])
    assert [voice.voice_id for voice in client.voices.search(search="noisy").voices] == []


def test_several_files_are_one_voice(server: Server, client: ElevenLabs) -> None:
    added = client.voices.ivc.create(name="both", files=[("a.wav", recording()), ("b.mp3", recording("mp3"))])
    assert b"".join(client.text_to_speech.convert(added.voice_id, text="Hi", output_format="pcm_24000"))
    headers = {"xi-api-key": KEY}
    both = httpx.get(f"{server.url}/voices/both", headers=headers, timeout=30).json()
    files = [("files", ("a.wav", recording())), ("files", ("b.mp3", recording("mp3"))), ("files", ("c.wav", b"x"))]
    assert both["has_transcript"] is False
    client.voices.delete("both")
    form = {"name": "both", "transcript": ["One.", "Two."]}
    stored = httpx.post(f"{server.url}/v1/voices/add", data=form, files=files[:2], headers=headers, timeout=30).json()
    assert stored["joined"] == ["a.wav", "b.mp3"]
    again = httpx.get(f"{server.url}/voices/both", headers=headers, timeout=30).json()
    assert (again["has_transcript"], again["sha256"]) == (True, both["sha256"])
    client.voices.delete("both")
    refused = httpx.post(f"{server.url}/v1/voices/add", data=form, files=files, headers=headers, timeout=30)
    assert (refused.status_code, refused.json()["code"]) == (422, "bad_transcript")
    form["name"] = "one"
    refused = httpx.post(f"{server.url}/v1/voices/add", data=form, files=files[:1], headers=headers, timeout=30)
    assert (refused.status_code, refused.json()["code"]) == (422, "bad_transcript")


# ---- WS stream-input


def stream_input(server: Server, query: str = "output_format=pcm_24000", voice: str = "speaker_0") -> ClientConnection:
    url = f"{server.url.replace('http', 'ws', 1)}/v1/text-to-speech/{voice}/stream-input?{query}"
    return connect(url, additional_headers={"xi-api-key": KEY})


def send(socket: ClientConnection, text: str, **fields: Any) -> None:
    socket.send(json.dumps({"text": text, **fields}))


def receive(socket: ClientConnection) -> dict[str, Any]:
    message = json.loads(socket.recv(timeout=30))
    assert isinstance(message, dict)
    return message


def receive_all(socket: ClientConnection) -> tuple[bytes, dict[str, Any]]:
    """The audio up to the last message, and that message."""
    audio = b""
    while True:
        message = receive(socket)
        if not message.get("audio"):
            return audio, message
        assert (message["isFinal"], message["alignment"], message["normalizedAlignment"]) == (None, None, None)
        audio += base64.b64decode(message["audio"])


def receive_alignment(socket: ClientConnection) -> tuple[dict[str, Any], dict[str, Any]]:
    """The next alignment and the one of what is said, past the audio before it."""
    while (message := receive(socket))["alignment"] is None:
        assert message["audio"]
        assert message["isFinal"] is None
    return message["alignment"], message["normalizedAlignment"]


@pytest.mark.filterwarnings("ignore:ConnectionClosed.code is deprecated:DeprecationWarning")  # the client reads it
def test_the_realtime_client_speaks_a_text_as_it_is_written(server: Server, client: ElevenLabs) -> None:
    def text() -> Iterator[str]:
        yield from ("x" * 20, ". ", "y" * 20, ".")

    # The client takes every address for wss://, which needs a proxy with a certificate.
    client.text_to_speech._ws_base_url = server.url.replace("http", "ws", 1)  # type: ignore[attr-defined]
    settings = VoiceSettings(stability=0.5, speed=0.8)
    parts = list(
        client.text_to_speech.convert_realtime(
            "speaker_0", text=text(), model_id="any", output_format="pcm_24000", voice_settings=settings
        )
    )
    assert len(parts) > 1
    # 20 letters, the full stop and what is between the sentences, at 80 ms each, slowed down.
    assert sum(map(len, parts)) / 2 / 24_000 * 0.8 == pytest.approx(42 * 0.08, abs=0.4)


def test_a_compressed_stream_is_one_file_over_all_messages(server: Server) -> None:
    with stream_input(server, "output_format=mp3_44100_64") as socket:
        send(socket, " ")
        send(socket, "x" * 24 + ". ", flush=True)
        first = receive(socket)
        send(socket, "y" * 24 + ". ")
        send(socket, "")
        rest, last = receive_all(socket)
        assert last["isFinal"] is True
        with pytest.raises(ConnectionClosedOK):
            socket.recv(timeout=30)
    assert seconds_of(base64.b64decode(first["audio"]) + rest, "mp3_44100") == pytest.approx(SECONDS, abs=0.3)


def test_flush_speaks_an_incomplete_sentence_and_the_connection_stays(server: Server) -> None:
    with stream_input(server) as socket:
        send(socket, " ")
        send(socket, "No sentence end ", flush=True)
        assert receive(socket)["audio"]  # with nothing more to come from here
        send(socket, "and on.")
        send(socket, "")
        assert receive_all(socket)[1]["isFinal"] is True


def test_alignments_add_up_to_the_whole_audio(server: Server) -> None:
    with stream_input(server, "output_format=pcm_24000&sync_alignment=true") as socket:
        send(socket, " ", voice_settings={"speed": 0.8})
        send(socket, "One two. ", flush=True)
        first, _ = receive_alignment(socket)
        send(socket, "Three four. ")
        send(socket, "")
        second, said = receive_alignment(socket)
        assert receive_all(socket)[1]["isFinal"] is True
    for aligned, chars, milliseconds in ((first, "One two.", 8 * 100), (second, " Three four.", 11 * 100)):
        assert "".join(aligned["chars"]) == chars
        ends = [sum(each) for each in zip(aligned["charStartTimesMs"], aligned["charDurationsMs"], strict=True)]
        assert aligned["charStartTimesMs"] == [0, *ends[:-1]]
        assert ends[-1] == pytest.approx(milliseconds, abs=2)
    assert second["charStartTimesMs"][1] == pytest.approx(0, abs=2)  # "T", after the space
    assert second["charStartTimesMs"][7] == pytest.approx(6 * 100, abs=2)
    assert said == second  # nothing is normalised here


def test_an_empty_connection_ends_with_is_final(server: Server) -> None:
    with stream_input(server) as socket:
        send(socket, " ")
        send(socket, "")
        audio, last = receive_all(socket)
        assert (audio, last["isFinal"]) == (b"", True)


@pytest.mark.parametrize(
    ("messages", "name", "close_code"),
    [
        ([{"text": " ", "voice_settings": {"speed": 9}}], "voice_settings.speed", 1008),
        ([{"text": " ", "pronunciation_dictionary_locators": [{}]}], "pronunciation_dictionary_locators", 1008),
        ([{"text": " ", "generation_config": {"chunk_length_schedule": [0]}}], "generation_config", 1008),
        ([{}], "text is missing", 1008),
        ([{"text": "[raise] fails", "flush": True}], "", 1011),
    ],
)
def test_an_error_is_told_and_closes_the_connection(
    server: Server, messages: list[dict[str, Any]], name: str, close_code: int
) -> None:
    with stream_input(server) as socket:
        for message in messages:
            socket.send(json.dumps(message))
        error = receive_all(socket)[1]
        assert error["message"].startswith(name)
        assert error["code"] == close_code
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=30)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (close_code, error["error"])


@pytest.mark.parametrize(
    ("query", "voice", "status", "name"),
    [
        ("", "nobody", 404, "voice_not_found"),
        ("output_format=mp3", "speaker_0", 400, "invalid_output_format"),
        ("language_code=fr", "speaker_0", 422, "invalid_parameter"),
    ],
)
def test_a_wrong_handshake_is_refused(server: Server, query: str, voice: str, status: int, name: str) -> None:
    with pytest.raises(InvalidStatus) as refused, stream_input(server, query, voice):
        pass
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body)["detail"]["status"] == name
