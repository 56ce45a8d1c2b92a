from __future__ import annotations

import inspect
import io
import json
import time
import wave
from pathlib import Path

import httpx
import pytest
from csm_serve_client import (
    ApiError,
    AsyncCsmClient,
    CsmClient,
    DialogueTurn,
    Health,
    NotFound,
    StreamCut,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
    Voice,
)

from app.audio.encoders import FORMATS
from app.audio.encoders.wav import wav_header
from tests.client.service import KEY, Answer, StreamBody, client, refused, streamed

PCM = b"\1\2" * 100


def fail_on_sleep(seconds: float) -> None:
    raise AssertionError(f"waited {seconds} s")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def answering(*answers: httpx.Response) -> Answer:
    queue = list(answers)
    return lambda request: queue.pop(0)


def test_options_are_sent_as_parameters() -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return streamed(PCM)

    with client(answer) as service:
        assert service.speak("Hi.", voice_id="amy.wav", format="raw_pcm", seed=7, top_k=3) == PCM
    (request,) = sent
    assert (request.method, request.url.path, request.headers["X-API-Key"]) == ("POST", "/tts/generate", KEY)
    assert json.loads(request.content) == {
        "text": "Hi.",
        "voice_id": "amy.wav",
        "format": "raw_pcm",
        "seed": 7,
        "top_k": 3,
    }


def test_omitted_options_are_not_sent() -> None:
    with client(lambda request: streamed(request.content)) as service:
        assert json.loads(service.speak("Hi.", format="mp3")) == {"text": "Hi.", "format": "mp3"}


def test_a_dialogue_sends_its_turns() -> None:
    turns: list[tuple[str, str] | DialogueTurn] = [
        ("amy.wav", "Hi."),
        DialogueTurn(voice_id="speaker_1", text="Yes?", gap_ms=-100),
    ]
    sent = [{"voice_id": "amy.wav", "text": "Hi."}, {"voice_id": "speaker_1", "text": "Yes?", "gap_ms": -100}]
    with client(lambda request: streamed(request.url.path.encode(), request.content)) as service:
        body = service.dialogue(turns, format="mp3", seed=7)
        assert (
            body
            == b"/tts/dialogue"
            + json.dumps({"turns": sent, "format": "mp3", "seed": 7}, separators=(",", ":")).encode()
        )
        with service.stream_dialogue(turns, gap_ms=0, format="mp3") as speech:
            assert json.loads(b"".join(speech)[13:]) == {"turns": sent, "gap_ms": 0, "format": "mp3"}


def test_a_path_prefix_in_the_address_is_kept() -> None:
    with CsmClient(
        "https://example.org/speech/",
        "k",
        transport=httpx.MockTransport(lambda request: httpx.Response(200, json=[request.url.path])),
    ) as service:
        assert service.voices() == ["/speech/voices"]


def test_a_complete_wav_has_its_size() -> None:
    with client(lambda request: streamed(FORMATS["wav"].create_encoder().flush() + PCM[:30], PCM[30:])) as service:
        whole = service.speak("Hi.")
    assert whole == wav_header(len(PCM)) + PCM
    with wave.open(io.BytesIO(whole)) as file:
        assert file.getnframes() == 100


def test_bytes_are_yielded_as_they_arrive() -> None:
    body = StreamBody(b"one", b"two", b"three")
    with client(lambda request: httpx.Response(200, headers=streamed().headers, stream=body)) as service:
        with service.stream("Hi.", format="raw_pcm") as speech:
            assert (speech.head.engine, speech.head.sample_rate, speech.head.request_id) == ("csm", 24_000, "r1")
            assert speech.first_audio_seconds is None
            assert next(speech) == b"one"
            assert (body.yielded, speech.received, speech.complete) == (1, 3, False)
            first = speech.first_audio_seconds
            assert list(speech) == [b"two", b"three"]
            assert (speech.received, speech.complete, speech.first_audio_seconds) == (11, True, first)
        assert body.closed


def test_leaving_early_closes_the_stream() -> None:
    body = StreamBody(*[b"x"] * 1000)
    with client(lambda request: httpx.Response(200, headers=streamed().headers, stream=body)) as service:
        with service.stream("Hi.") as speech:
            next(speech)
        assert (body.closed, body.yielded) == (True, 1)


@pytest.mark.parametrize(
    "broken",
    [
        httpx.RemoteProtocolError("peer closed connection without sending complete message body"),
        httpx.ReadError("reset"),
        httpx.ReadTimeout("timed out"),
    ],
)
def test_an_aborted_stream_raises(broken: Exception) -> None:
    with client(lambda request: streamed(PCM, broken)) as service:
        with pytest.raises(StreamCut, match="incomplete"):
            service.speak("Hi.", format="raw_pcm")
        with service.stream("Hi.", format="raw_pcm") as speech:
            assert next(speech) == PCM
            with pytest.raises(StreamCut):
                next(speech)
            assert not speech.complete


def test_an_empty_stream_raises() -> None:
    with client(lambda request: streamed()) as service, pytest.raises(StreamCut):
        service.speak("Hi.")


def test_a_stream_without_framing_raises() -> None:
    unframed = httpx.Response(200, headers={"Content-Type": "audio/wav"}, stream=StreamBody(PCM))
    with client(lambda request: unframed) as service, pytest.raises(StreamCut, match=r"HTTP/1\.1"):
        service.speak("Hi.")


def test_a_response_that_is_not_audio_raises() -> None:
    with client(lambda request: httpx.Response(200, html="<p>Hello")) as service:
        with pytest.raises(UnexpectedAnswer, match="text/html"):
            service.speak("Hi.")
        with pytest.raises(UnexpectedAnswer):
            service.voices()
        with pytest.raises(UnexpectedAnswer):
            service.voice("amy.wav")


def test_no_redirect_is_followed_with_the_key() -> None:
    moved = httpx.Response(301, headers={"Location": "https://elsewhere.test/"})
    with client(answering(moved)) as service, pytest.raises(UnexpectedAnswer, match=r"elsewhere\.test"):
        service.voices()


def test_a_refused_connection_is_reported() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with client(refuse) as service, pytest.raises(Unreachable, match=r"http://service\.test .*refused"):
        service.voices()


def test_busy_is_retried_after_its_retry_after(waits: list[float]) -> None:
    answers = answering(refused(429, **{"Retry-After": "3"}), refused(503, **{"Retry-After": "5"}), streamed(PCM))
    with client(answers, retries=2) as service:
        assert service.speak("Hi.", format="raw_pcm") == PCM
    assert waits == [3, 5]


def test_without_retry_after_delays_double(waits: list[float]) -> None:
    with client(lambda request: refused(503), retries=3) as service, pytest.raises(Unavailable):
        service.voices()
    assert waits == [0.5, 1, 2]


@pytest.mark.parametrize(
    ("retries", "answer"),
    [(0, refused(429)), (9, refused(404)), (9, refused(500)), (9, refused(429, **{"Retry-After": "3600"}))],
)
def test_other_errors_are_not_retried(retries: int, answer: httpx.Response, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", fail_on_sleep)
    with client(answering(answer), retries=retries) as service, pytest.raises(ApiError) as caught:
        service.voices()
    assert caught.value.status == answer.status_code


def test_an_aborted_stream_is_not_retried(waits: list[float]) -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return streamed(PCM, httpx.ReadError("reset"))

    with client(answer, retries=5) as service, pytest.raises(StreamCut):
        service.speak("Hi.")
    assert (len(requests), waits) == (1, [])


def test_voices_are_listed_described_and_deleted() -> None:
    details = {"seconds": 3.5, "has_transcript": True, "preloaded": False, "created": "2025-01-01", "sha256": "ab"}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/voices":
            return httpx.Response(200, json=["amy.wav"])
        if request.method == "DELETE":
            return httpx.Response(200, json={"message": "gone"})
        return httpx.Response(200, json={"id": "amy.wav", **details, "newer": "fields are ignored"})

    with client(answer) as service:
        assert service.voices() == ["amy.wav"]
        assert service.voice("amy.wav") == Voice("amy.wav", 3.5, True, False, "2025-01-01", "ab")
        service.delete_voice("amy.wav")


@pytest.mark.parametrize("voice_id", ["..", "../x", "a b", "a?b#c", "ä"])
def test_voice_ids_are_quoted_in_the_path(voice_id: str) -> None:
    paths: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.raw_path)
        return refused(404)

    with client(answer) as service, pytest.raises(NotFound):
        service.delete_voice(voice_id)
    ((_, voices, one),) = (path.split(b"/") for path in paths)
    assert voices == b"voices"
    assert httpx.URL("http://x/?" + one.decode()).query == one


def test_a_recording_is_sent_with_its_transcript(tmp_path: Path) -> None:
    recording = tmp_path / "amy.wav"
    recording.write_bytes(b"R" * 200_000)
    bodies: list[tuple[str, bytes]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append((request.method, request.read()))
        return httpx.Response(201, json={"voice_id": "amy.wav", "message": ""})

    progress: list[tuple[int, int]] = []
    with client(answer) as service:
        assert service.add_voice(recording, transcript="Words.", progress=lambda *sent: progress.append(sent)) == (
            "amy.wav"
        )
        service.replace_voice("amy.wav", b"short", transcript="Other.")
        with pytest.raises(ValueError, match="voice_id"):
            service.add_voice(b"nameless")
    (posted, first), (put, second) = bodies
    assert (posted, put) == ("POST", "PUT")
    assert b'filename="amy.wav"' in first
    assert b"R" * 200_000 in first
    assert b"Words." in first
    assert b"Other." in second
    assert progress[-1] == (200_000, 200_000)
    assert [sent for sent, _ in progress] == sorted(sent for sent, _ in progress)


def test_a_retry_sends_the_complete_recording(waits: list[float]) -> None:
    answers = [refused(429), httpx.Response(201, json={"voice_id": "a"})]
    bodies: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(len(request.read()))
        return answers.pop(0)

    with client(answer, retries=1) as service:
        service.add_voice(b"R" * 1000, voice_id="a")
    assert bodies[0] == bodies[1] > 1000


@pytest.mark.parametrize(("status", "word"), [(200, "ok"), (202, "loading"), (500, "failed"), (503, "draining")])
def test_health_of_any_status_is_returned(status: int, word: str) -> None:
    answer = httpx.Response(status, json={"status": word, "tts_engines": {"gpu_0": {"state": word}}})
    with client(answering(answer)) as service:
        health = service.health()
    assert health == Health(word, {"gpu_0": {"state": word}})
    assert health.ready is (word == "ok")


def test_the_system_status_is_returned_unchanged() -> None:
    with client(lambda request: httpx.Response(200, json={"gpus": []})) as service:
        assert service.system_status() == {"gpus": []}


def test_both_clients_have_the_same_methods() -> None:
    def calls(kind: type) -> dict[str, list[str]]:
        public = {name: value for name, value in vars(kind).items() if not name.startswith("_")}
        return {name: list(inspect.signature(value).parameters) for name, value in public.items()}

    assert calls(CsmClient) == calls(AsyncCsmClient)
    assert list(inspect.signature(CsmClient).parameters) == list(inspect.signature(AsyncCsmClient).parameters)
