from __future__ import annotations

import base64
import io
import json
import threading
import unicodedata
import wave
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from app.audio.watermark import Watermarker
from app.main import create_app
from app.settings import Settings
from app.watermark_key import PUBLIC_KEY
from engine import Lexicon, SpeechRequest, spoken_text
from tests.app.voices.recordings import recording

FRAME = 1920 * 4  # bytes of float32

OpenClient = Callable[..., AbstractContextManager[TestClient]]


@pytest.fixture
def open_client(settings: Settings, wait_until: Any) -> OpenClient:
    """Starts an application with changed settings; yields a client of it once it is ready.

    Texts are not normalised, since the fake engine reads instructions in them.
    """

    @contextmanager
    def start(**changes: Any) -> Iterator[TestClient]:
        app = create_app(settings.model_copy(update={"tts_normalize": "off", **changes}))
        with TestClient(app, headers={"X-API-Key": "first-key"}) as client:
            wait_until(lambda: app.state.service.host.status().state == "ready")
            yield client

    return start


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    def wait(condition: Callable[[], bool]) -> None:
        pause = threading.Event()
        while not condition():
            pause.wait(0.002)

    return wait


def admission_of(client: TestClient) -> Any:
    return client.app.state.service.host.admission  # type: ignore[attr-defined]  # starlette's type is a bare ASGI application


def record_requests(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> list[SpeechRequest]:
    """A list that collects the requests to the engine from now on."""
    engine = client.app.state.service.host.engine  # type: ignore[attr-defined]
    requests: list[SpeechRequest] = []
    original = engine.stream

    def stream(request: SpeechRequest) -> Any:
        requests.append(request)
        return original(request)

    monkeypatch.setattr(engine, "stream", stream)
    return requests


def receive_response(connection: WebSocketTestSession) -> list[dict[str, Any]]:
    """The messages of one text, up to its completion or error."""
    messages = [connection.receive_json()]
    while messages[-1]["type"] not in ("completion", "error"):
        messages.append(connection.receive_json())
    return messages


def join_audio(messages: list[dict[str, Any]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    chunks = [message for message in messages if message["type"] == "audio_chunk"]
    assert [chunk["index"] for chunk in chunks] == list(range(len(chunks)))
    assert all(chunk["sample_rate"] == 24_000 for chunk in chunks)
    return np.frombuffer(b"".join(base64.b64decode(chunk["audio"]) for chunk in chunks), "<f4")


# ---- /ws


def test_ws_sends_status_audio_and_completion(open_client: OpenClient) -> None:
    with open_client() as client, client.websocket_connect("/ws") as connection:
        for text in ("Hello.", "Hello again."):  # any number on one connection
            connection.send_json({"text": text, "seed": 1, "audio_tokens_per_slice": 2})
            started, *chunks, completion = receive_response(connection)
            assert (started["type"], started["status"], started["sample_rate"]) == ("audio_status", "started", 24_000)
            audio = join_audio(chunks)
            assert audio.size == len(text) * 1920
            assert np.abs(audio).max() > 0.1
            assert completion["type"] == "completion"
            assert completion["duration_ms"] == len(text) * 80
            assert completion["chunks"] == len(chunks)
            assert completion["request_id"] == started["request_id"]
            assert 0 <= completion["first_audio_ms"] <= completion["processing_time_ms"] + 1
            assert "cancelled" not in completion


def test_ws_sends_binary_chunks_on_request(open_client: OpenClient) -> None:
    with open_client() as client, client.websocket_connect("/ws") as connection:
        connection.send_json({"text": "Hello.", "binary": True})
        assert connection.receive_json()["status"] == "started"
        data = b""
        while len(data) < 6 * FRAME:
            data += connection.receive_bytes()
        assert connection.receive_json()["duration_ms"] == 480


def test_ws_accepts_every_parameter_of_tts_generate(open_client: OpenClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_client() as client, client.websocket_connect("/ws") as connection:
        requests = record_requests(client, monkeypatch)
        connection.send_json(
            {
                "text": "Hello there.",
                "voice_id": "speaker_7",
                "format": "wav",
                "synthesis_temperature": 0.1,
                "top_k": 3,
                "cfg_guidance_weight": 1,
                "voice_exaggeration_factor": 0.2,
                "text_processing_chunk_size": 30,
                "audio_tokens_per_slice": 4,
                "remove_leading_milliseconds": 80,
                "remove_trailing_milliseconds": 160,
                "chunk_overlap_method": "zero",
                "crossfade_duration_milliseconds": 10,
                "max_audio_length_ms": 800,
                "seed": 5,
            }
        )
        assert join_audio(receive_response(connection)).size == (10 - 1 - 2) * 1920
        (request,) = requests
        assert (request.speaker, request.temperature, request.top_k, request.guidance) == (7, 0.1, 3, 1)
        assert (request.exaggeration, request.chunk_characters, request.slice_frames) == (0.2, 30, 4)
        assert (request.overlap, request.crossfade_milliseconds, request.max_frames, request.seed) == (
            "zero",
            10,
            10,
            5,
        )


@pytest.mark.parametrize(
    ("message", "code", "expected"),
    [
        ("Hello", "bad_message", "not JSON"),
        ("[]", "bad_message", "JSON object"),
        ("{}", "invalid_parameter", "text is missing"),
        ('{"text": ""}', "invalid_parameter", "text"),
        ('{"text": " "}', "invalid_parameter", "text"),
        ('{"text": 5}', "invalid_parameter", "text"),
        ('{"text": "\\ud800"}', "invalid_parameter", "text"),
        ('{"text": "Hi", "top_k": 0}', "invalid_parameter", "top_k"),
        ('{"text": "Hi", "volume": 0}', "invalid_parameter", "volume is not a parameter"),
        ('{"text": "Hi", "binary": 1}', "invalid_parameter", "binary"),
        ('{"text": "Hi", "continue": "yes"}', "invalid_parameter", "continue"),
        ('{"text": "Hi", "timestamps": "yes"}', "invalid_parameter", "timestamps"),
        ('{"text": "Hi", "subtitles": "srt"}', "invalid_parameter", "timestamps"),
        ('{"type": "sing"}', "invalid_parameter", "sing"),
        ('{"text": "Hi", "voice_id": "nobody"}', "unknown_voice", "nobody"),
        ('{"text": "Hi", "voice_id": "../x"}', "unknown_voice", "x"),
        ('{"text": "[raise]"}', "engine_failed", "failed"),
        ('{"text": "Hi", "remove_leading_milliseconds": 1000}', "unprocessable", "there is no audio"),
        (json.dumps({"text": "x" * 5001}), "text_too_long", "5001 characters"),
        ("[" * 100_000, "bad_message", "not JSON"),
    ],
)
def test_ws_sends_errors_and_continues(open_client: OpenClient, message: str, code: str, expected: str) -> None:
    with open_client() as client, client.websocket_connect("/ws") as connection:
        connection.send_text(message)
        error = receive_response(connection)[-1]
        assert (error["type"], error["code"]) == ("error", code)
        assert expected in error["message"]
        connection.send_json({"text": "Hi"})
        assert receive_response(connection)[-1]["type"] == "completion"


def test_a_binary_message_is_rejected(open_client: OpenClient) -> None:
    with open_client() as client, client.websocket_connect("/ws") as connection:
        connection.send_bytes(b"Hello")
        assert connection.receive_json()["code"] == "bad_message"


def test_an_engine_failure_mid_text_is_an_error_without_completion(open_client: OpenClient) -> None:
    with open_client() as client, client.websocket_connect("/ws") as connection:
        connection.send_json({"text": "[raise@3]" + "x" * 20})
        messages = receive_response(connection)
        assert messages[-1]["code"] == "engine_failed"
        assert join_audio(messages[:-1]).size <= 3 * 1920


def test_a_busy_service_is_an_error_and_the_connection_stays_open(open_client: OpenClient) -> None:
    with (
        open_client(max_queued_requests=0, model_path="fake:frame_seconds=0.01") as client,
        client.websocket_connect("/ws") as first,
        client.websocket_connect("/ws") as second,
    ):
        first.send_json({"text": "x" * 4000, "cfg_guidance_weight": 1})  # both slots
        assert first.receive_json()["status"] == "started"
        second.send_json({"text": "Hello."})
        error = second.receive_json()
        assert (error["type"], error["code"], error["retry_after"]) == ("error", "busy", 1)
        first.send_json({"type": "cancel"})
        receive_response(first)
        second.send_json({"text": "Hello."})
        assert receive_response(second)[-1]["type"] == "completion"


def test_cancel_stops_the_current_text_and_frees_its_slot(open_client: OpenClient, wait_until: Any) -> None:
    with open_client(model_path="fake:frame_seconds=0.01") as client, client.websocket_connect("/ws") as connection:
        connection.send_json({"text": "x" * 4000})
        connection.send_json({"text": "Next."})
        assert connection.receive_json()["status"] == "started"
        assert connection.receive_json()["type"] == "audio_chunk"
        assert admission_of(client).active == 1
        connection.send_json({"type": "cancel"})
        completion = receive_response(connection)[-1]
        assert completion["cancelled"] is True
        assert completion["duration_ms"] < 4000 * 80
        assert join_audio(receive_response(connection)).size == 5 * 1920  # the queued text is spoken
        wait_until(lambda: admission_of(client).active == 0)
        connection.send_json({"type": "cancel"})  # without a current text it is ignored
        connection.send_json({"text": "Hi"})
        assert receive_response(connection)[-1]["duration_ms"] == 160


def test_cancel_all_drops_the_queued_texts(open_client: OpenClient) -> None:
    with open_client(model_path="fake:frame_seconds=0.01") as client, client.websocket_connect("/ws") as connection:
        connection.send_json({"text": "x" * 4000})
        connection.send_json({"text": "Never spoken."})
        assert connection.receive_json()["status"] == "started"
        connection.send_json({"type": "cancel", "all": True})
        assert receive_response(connection)[-1]["cancelled"] is True
        connection.send_json({"text": "Hi"})
        assert receive_response(connection)[-1]["duration_ms"] == 160


def test_a_disconnect_frees_the_slot(open_client: OpenClient, wait_until: Any) -> None:
    with open_client(model_path="fake:frame_seconds=0.01") as client:
        with client.websocket_connect("/ws") as connection:
            connection.send_json({"text": "x" * 4000})
            assert connection.receive_json()["status"] == "started"
            assert admission_of(client).active == 1
        wait_until(lambda: admission_of(client).active == 0)


def test_the_queue_is_limited(open_client: OpenClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.websocket.session.MAX_QUEUED_TEXTS", 2)
    with open_client(model_path="fake:frame_seconds=0.01") as client, client.websocket_connect("/ws") as connection:
        connection.send_json({"text": "x" * 4000})
        assert connection.receive_json()["status"] == "started"
        for text in ("One.", "Two.", "Three."):
            connection.send_json({"text": text})
        assert receive_response(connection)[-1]["code"] == "too_many_texts"
        connection.send_json({"type": "cancel"})
        assert receive_response(connection)[-1]["cancelled"] is True
        assert [receive_response(connection)[-1]["duration_ms"] for _ in range(2)] == [320, 320]


# ---- texts in pieces


def test_sentences_are_spoken_before_the_text_is_complete(
    open_client: OpenClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_client() as client, client.websocket_connect("/ws") as connection:
        requests = record_requests(client, monkeypatch)
        for token in ("Once", " upon", " a time. The", " rest"):
            connection.send_json({"text": token, "continue": True, "seed": 3})
        messages = [connection.receive_json() for _ in range(3)]
        assert messages[0]["status"] == "started"
        assert requests[0].text == "Once upon a time."
        connection.send_json({"text": " follows."})
        messages += receive_response(connection)
        assert [request.text.strip() for request in requests] == ["Once upon a time.", "The rest follows."]
        assert [message["type"] for message in messages].count("completion") == 1
        assert join_audio(messages).size * 1000 // 24_000 == messages[-1]["duration_ms"]
        assert all(request.seed == 3 for request in requests)
        # the second piece continues the first
        assert [segment.text for segment in requests[1].history] == ["Once upon a time."]
        assert len(requests[1].history[0].codes) == len("Once upon a time.")


@pytest.mark.parametrize("end", [{"text": ""}, {"text": "\n"}, {}])
def test_an_empty_piece_ends_a_text(open_client: OpenClient, end: dict[str, str]) -> None:
    with open_client() as client, client.websocket_connect("/ws") as connection:
        connection.send_json({"text": "Hello", "continue": True})
        connection.send_json({"text": " ", "continue": True})
        connection.send_json(end)
        assert receive_response(connection)[-1]["duration_ms"] == 5 * 80
        connection.send_json({"text": "Hi"})  # a new text
        assert receive_response(connection)[-1]["duration_ms"] == 2 * 80


def test_a_text_without_words_is_an_error(open_client: OpenClient) -> None:
    with open_client() as client, client.websocket_connect("/ws") as connection:
        connection.send_json({"text": "", "continue": True})
        connection.send_json({"text": ""})
        assert receive_response(connection)[-1]["type"] == "error"


def test_a_long_sentence_is_split(open_client: OpenClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_client() as client, client.websocket_connect("/ws") as connection:
        requests = record_requests(client, monkeypatch)
        for _ in range(30):
            connection.send_json({"text": "word after word ", "continue": True, "text_processing_chunk_size": 40})
        assert connection.receive_json()["status"] == "started"
        connection.send_json({"text": "and no end"})
        receive_response(connection)
        assert len(requests) > 1
        spoken = " ".join(" ".join(request.text for request in requests).split())
        assert spoken == "word after word " * 30 + "and no end"


def test_max_audio_length_applies_to_all_pieces_together(open_client: OpenClient) -> None:
    with open_client() as client, client.websocket_connect("/ws") as connection:
        parameters = {"continue": True, "max_audio_length_ms": 2000}
        for token in ("Once upon a time. ", "There was a king. ", "He lived long. "):
            connection.send_json({"text": token, **parameters})
        connection.send_json({"text": "The end."})
        assert receive_response(connection)[-1]["duration_ms"] == 2000
        connection.send_json({"text": "Hi"})
        assert receive_response(connection)[-1]["duration_ms"] == 160


def test_a_piece_over_the_limit_is_rejected_and_the_rest_is_spoken(open_client: OpenClient) -> None:
    with open_client(max_text_length=50) as client, client.websocket_connect("/ws") as connection:
        connection.send_json({"text": "Forty characters without any end of them", "continue": True})
        connection.send_json({"text": "and then twenty more", "continue": True})
        assert receive_response(connection)[-1]["code"] == "text_too_long"
        connection.send_json({"text": "."})
        assert receive_response(connection)[-1]["duration_ms"] == 41 * 80


def test_cancel_ends_an_open_text(open_client: OpenClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_client(model_path="fake:frame_seconds=0.01") as client, client.websocket_connect("/ws") as connection:
        connection.send_json({"text": "x" * 3000 + ". And", "continue": True})
        assert connection.receive_json()["status"] == "started"
        connection.send_json({"type": "cancel"})
        assert receive_response(connection)[-1]["cancelled"] is True
        connection.send_json({"text": "New."})
        assert receive_response(connection)[-1]["duration_ms"] == 4 * 80


# ---- /api/{voice_name}


@pytest.mark.parametrize("message", ["Hello.", '{"text": "Hello."}'])
def test_api_sends_float32_and_a_completion(open_client: OpenClient, message: str) -> None:
    with open_client() as client, client.websocket_connect("/api/speaker_3") as connection:
        for _ in range(2):
            connection.send_text(message)
            data = b""
            while len(data) < 6 * FRAME:
                data += connection.receive_bytes()
            assert connection.receive_json() == {"type": "completion"}
            assert np.abs(np.frombuffer(data, "<f4")).max() <= 1


@pytest.mark.parametrize("message", ["{not json", '{"text" "x"}', "12345678", '"quoted"'])
def test_messages_that_are_not_json_objects_are_plain_text(open_client: OpenClient, message: str) -> None:
    with open_client() as client, client.websocket_connect("/api/speaker_3") as connection:
        connection.send_text(message)
        data = b""
        while len(data) < len(message) * FRAME:
            data += connection.receive_bytes()
        assert connection.receive_json() == {"type": "completion"}


def test_each_voice_has_an_endpoint_with_and_without_extension(open_client: OpenClient, settings: Settings) -> None:
    settings.voices_dir.mkdir(parents=True, exist_ok=True)
    for name, hertz in (("amy.wav", 200), ("bob.wav", 300)):
        with wave.open(str(settings.voices_dir / name), "wb") as file:
            file.setparams((1, 2, 24_000, 0, "NONE", ""))
            seconds = np.arange(48_000) / 24_000
            file.writeframes((8000 * np.sin(2 * np.pi * hertz * seconds)).astype("<i2").tobytes())
    audio = {}
    with open_client() as client:
        for name in ("amy", "amy.wav", "bob"):
            with client.websocket_connect(f"/api/{name}") as connection:
                connection.send_text("Hi")
                audio[name] = connection.receive_bytes()
                connection.receive_bytes()
                assert connection.receive_json() == {"type": "completion"}
    assert audio["amy"] == audio["amy.wav"] != audio["bob"]


def test_the_sample_rate_of_a_connection(open_client: OpenClient) -> None:
    with open_client() as client, client.websocket_connect("/ws") as connection:
        for rate, binary in ((8_000, False), (44_100, True)):
            connection.send_json({"text": "Hello", "sample_rate": rate, "binary": binary})
            assert connection.receive_json()["sample_rate"] == rate
            size = 0
            while size < 5 * 1920 * rate // 24_000:
                if binary:
                    size += len(connection.receive_bytes()) // 4
                else:
                    chunk = connection.receive_json()
                    assert chunk["sample_rate"] == rate
                    size += len(base64.b64decode(chunk["audio"])) // 4
            assert size == 5 * 1920 * rate // 24_000
            assert connection.receive_json()["duration_ms"] == 400
        connection.send_json({"text": "Hello", "sample_rate": 7_000})
        assert connection.receive_json()["code"] == "invalid_parameter"


def test_a_voice_of_any_script_has_an_endpoint(open_client: OpenClient, settings: Settings) -> None:
    name = "Stimme-ä (1).wav"
    settings.voices_dir.mkdir(parents=True, exist_ok=True)
    (settings.voices_dir / name).write_bytes(recording())
    with open_client() as client:
        for form in (name, unicodedata.normalize("NFD", name), name.removesuffix(".wav")):
            with client.websocket_connect(f"/api/{quote(form)}") as connection:
                connection.send_json({"text": "x", "voice_id": unicodedata.normalize("NFC", form)})
                assert connection.receive_bytes()
                assert connection.receive_json() == {"type": "completion"}


@pytest.mark.parametrize("name", ["nobody", "speaker_1000", ".hidden"])
def test_an_unknown_voice_is_rejected_in_the_handshake(open_client: OpenClient, name: str) -> None:
    with open_client() as client:
        with pytest.raises(WebSocketDisconnect) as rejected, client.websocket_connect(f"/api/{name}"):
            pass
        assert getattr(rejected.value, "status_code", None) == 404


def test_a_voice_id_other_than_the_endpoints_is_rejected(open_client: OpenClient) -> None:
    with open_client() as client, client.websocket_connect("/api/speaker_3") as connection:
        connection.send_json({"text": "Hi", "voice_id": "speaker_4"})
        assert "speaker_3" in connection.receive_json()["message"]


# ---- /stream


def test_stream_sends_one_wav_file_per_text_and_closes_when_done(open_client: OpenClient) -> None:
    with open_client() as client, client.websocket_connect("/stream") as connection:
        connection.send_json({"text": "Hello.", "speaker_id": 0, "max_audio_length_ms": 30_000})
        connection.send_json({"text": "And on."})
        connection.send_json({"done": True})
        for text in ("Hello.", "And on."):
            message = connection.receive_json()
            assert set(message) == {"audio_base64", "sample_rate", "processing_time_ms", "text"}
            assert (message["text"], message["sample_rate"]) == (text, 24_000)
            assert message["processing_time_ms"] >= 0
            with wave.open(io.BytesIO(base64.b64decode(message["audio_base64"]))) as file:
                assert (file.getframerate(), file.getnframes()) == (24_000, len(text) * 1920)
        assert connection.receive_json() == {"status": "closed"}
        with pytest.raises(WebSocketDisconnect) as closed:
            connection.receive_json()
        assert closed.value.code == 1000


def test_stream_rejects_a_missing_text(open_client: OpenClient) -> None:
    with open_client() as client, client.websocket_connect("/stream") as connection:
        for message in ({"text": ""}, {}, {"text": "  "}):
            connection.send_json(message)
            assert connection.receive_json() == {"error": "No text provided"}


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"text": "Hi", "speaker_id": 1000}, "invalid_parameter"),
        ({"text": "Hi", "speaker_id": -1}, "invalid_parameter"),
        ({"text": "Hi", "max_audio_length_ms": 79}, "invalid_parameter"),
        ({"text": "<speak>Hi <emphasis/></speak>"}, "invalid_markup"),
        ({"text": "Hi", "watermark_key": [1, 2]}, "invalid_parameter"),
        ({"text": "Hi", "watermark_key": [1, 2, 3, 4, 256]}, "invalid_parameter"),
        ({"text": "Hi", "pitch": 1}, "invalid_parameter"),
        ({"text": 5}, "invalid_parameter"),
        ({"text": "[raise]"}, "engine_failed"),
    ],
)
def test_stream_sends_errors_and_continues(open_client: OpenClient, message: dict[str, Any], code: str) -> None:
    with open_client() as client, client.websocket_connect("/stream") as connection:
        connection.send_json(message)
        reply = connection.receive_json()
        assert reply["code"] == code
        assert reply["error"]
        connection.send_json({"text": "Hi"})
        assert "audio_base64" in connection.receive_json()


def test_stream_passes_previous_texts_as_history(open_client: OpenClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_client() as client, client.websocket_connect("/stream") as connection:
        requests = record_requests(client, monkeypatch)
        for text, speaker in (("Hello.", 0), ("Hi!", 1), ("[raise@1] Lost.", 0), ("Bye.", 0)):
            connection.send_json({"text": text, "speaker_id": speaker})
            connection.receive_json()
        assert [[(segment.text, segment.speaker) for segment in request.history] for request in requests] == [
            [],
            [("Hello.", 0)],
            [("Hello.", 0), ("Hi!", 1)],
            [("Hello.", 0), ("Hi!", 1)],
        ]
        assert len({request.seed for request in requests}) == 1
        assert all(len(segment.codes) == len(segment.text) for segment in requests[-1].history)
    with open_client() as client, client.websocket_connect("/stream") as connection:
        requests = record_requests(client, monkeypatch)
        connection.send_json({"text": "Another connection."})
        connection.receive_json()
        assert requests[0].history == ()


def test_the_history_is_limited(open_client: OpenClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.websocket.text_speaker.MAX_HISTORY_FRAMES", 20)
    with open_client() as client, client.websocket_connect("/stream") as connection:
        requests = record_requests(client, monkeypatch)
        for text in ("Seven 7", "Eight 88", "Nine 9 99", "x" * 21, "End"):
            connection.send_json({"text": text})
            connection.receive_json()
        histories = [[segment.text for segment in request.history] for request in requests]
        assert histories == [[], ["Seven 7"], ["Seven 7", "Eight 88"], ["Eight 88", "Nine 9 99"], []]


def test_stream_watermarks_with_the_requested_key(open_client: OpenClient) -> None:
    def speak(connection: WebSocketTestSession, **parameters: Any) -> bytes:
        connection.send_json({"text": "x" * 20, **parameters})
        return base64.b64decode(connection.receive_json()["audio_base64"])

    own_key = [1, 2, 3, 4, 5]
    with open_client() as client, client.websocket_connect("/stream") as connection:
        plain = speak(connection)
        assert speak(connection, watermark=False) == plain
        samples = (np.frombuffer(plain[44:], "<i2") / 32767).astype(np.float32)
        for parameters, key in (({"watermark": True}, PUBLIC_KEY), ({"watermark_key": own_key}, bytes(own_key))):
            watermarker = Watermarker(key)
            expected = np.concatenate([watermarker.push(samples), watermarker.flush()]) * 32767
            marked = np.frombuffer(speak(connection, **parameters)[44:], "<i2")
            assert marked.size == samples.size
            assert np.abs(marked - expected).max() <= 2


def test_watermark_enabled_applies_to_websockets(open_client: OpenClient) -> None:
    def speak(client: TestClient) -> bytes:
        with client.websocket_connect("/api/speaker_0") as connection:
            connection.send_text("x" * 20)
            data = b""
            while len(data) < 20 * FRAME:
                data += connection.receive_bytes()
            assert connection.receive_json() == {"type": "completion"}
            return data

    with open_client() as client:
        plain = speak(client)
    with open_client(csm_watermark_enabled=True) as client:
        assert speak(client) != plain


# ---- access and idle connections


@pytest.mark.parametrize("path", ["/ws", "/stream", "/api/speaker_0"])
def test_connecting_needs_a_key(open_client: OpenClient, path: str) -> None:
    with open_client() as client:
        for headers, query in (
            ({"X-API-Key": "wrong"}, ""),
            ({"X-API-Key": "", "Authorization": "Bearer wrong"}, ""),
            ({"X-API-Key": ""}, "?api_key=wrong"),
        ):
            with (
                pytest.raises(WebSocketDisconnect) as rejected,
                client.websocket_connect(path + query, headers=headers),
            ):
                pass
            assert getattr(rejected.value, "status_code", None) == 401
        for headers, query in (
            ({"X-API-Key": "second-key"}, ""),
            ({"X-API-Key": "", "Authorization": "Bearer second-key"}, ""),
            ({"X-API-Key": ""}, "?api_key=second-key"),
        ):
            with client.websocket_connect(path + query, headers=headers):
                pass


def test_idle_connections_are_closed_but_not_while_speaking(open_client: OpenClient) -> None:
    with open_client(websocket_idle_seconds=0.5, model_path="fake:frame_seconds=0.02") as client:
        with client.websocket_connect("/ws") as connection:
            connection.send_json({"text": "x" * 40})
            assert receive_response(connection)[-1]["type"] == "completion"
            with pytest.raises(WebSocketDisconnect) as closed:
                connection.receive_json()
        assert (closed.value.code, closed.value.reason) == (1001, "idle for 0.5 seconds")


def test_a_text_that_is_still_being_written_is_normalised_in_whole_sentences(
    open_client: OpenClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_client(tts_normalize="on") as client, client.websocket_connect("/ws") as connection:
        requests = record_requests(client, monkeypatch)
        for piece in ("It costs $3.", "5 million. ", "\U0001f44d ", "Wow! "):
            connection.send_json({"text": piece, "continue": True})
        connection.send_json({"text": ""})
        while connection.receive_json()["type"] != "completion":
            pass
    assert [request.text for request in requests] == ["It costs $3.5 million.", "\U0001f44d Wow!"]
    spoken = [spoken_text(request.text, normalizes=request.normalize) for request in requests]
    assert spoken == ["It costs three point five million dollars.", "Wow!"]


def milliseconds_of_silence(samples: np.ndarray[Any, np.dtype[np.float32]]) -> list[int]:
    """The length of each run of zeros."""
    sounding = np.flatnonzero(samples)
    gaps = np.diff([-1, *sounding, samples.size]) - 1
    return [round(gap / 24) for gap in gaps if gap > 24]


def test_pauses_are_silence_also_in_a_text_that_is_still_being_written(open_client: OpenClient) -> None:
    with open_client(tts_normalize="on") as client, client.websocket_connect("/ws") as connection:
        pieces = (
            "[pause:100ms]One. [pau",
            "se:500ms] Two",
            ". ",
            "<speak>Three.",
            "<break time='1s'/>F",
            "our</speak> ",
        )
        for piece in pieces:
            connection.send_json({"text": piece, "continue": True})
        connection.send_json({"text": " [pause:2s]"})
        samples = join_audio(receive_response(connection))
    assert milliseconds_of_silence(samples) == [100, 500, 1000, 2000]
    frames = (samples.size - 24 * 3600) / 1920
    assert frames in (18, 19)  # a character each; sentences that arrive together have a space between them


@pytest.mark.parametrize("path", ["/ws", "/api/speaker_0"])
def test_a_text_may_bring_a_lexicon(open_client: OpenClient, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    with open_client() as client, client.websocket_connect(path) as connection:
        requests = record_requests(client, monkeypatch)
        connection.send_json({"text": "SQL", "lexicon": {"sql": "sequel"}})
        message = connection.receive()
        while "completion" not in message.get("text", ""):
            message = connection.receive()
    assert requests[0].lexicon == Lexicon({"sql": "sequel"})


def test_the_history_of_a_text_is_what_was_said(open_client: OpenClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_client(tts_normalize="on") as client, client.websocket_connect("/stream") as connection:
        requests = record_requests(client, monkeypatch)
        for text in ("It costs $5. [pause:100ms] Yes.", "[pause:1s]", "And more."):
            connection.send_json({"text": text})
            assert "audio_base64" in connection.receive_json()
    assert [segment.text for segment in requests[-1].history] == ["It costs five dollars. Yes."]


def test_a_long_piece_is_no_history(open_client: OpenClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_client() as client, client.websocket_connect("/stream") as connection:
        requests = record_requests(client, monkeypatch)
        for text in ("One.", "x" * 501, "Two."):
            connection.send_json({"text": text, "max_audio_length_ms": 0})
            assert "audio_base64" in connection.receive_json()
    assert [len(request.history) for request in requests] == [0, 1, 0]
