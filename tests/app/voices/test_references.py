from __future__ import annotations

import base64
import threading

import numpy as np
import pytest

from app.errors import ServiceError, TooLarge, UndecodableAudio, Unprocessable
from app.voices.recording_decoder import DecodedRecording
from app.voices.references import ReferenceVoices

RECORDING = bytes(range(256))
SAMPLES = np.sin(np.arange(24_000, dtype=np.float32) / 20)
PLAIN = base64.b64encode(RECORDING).decode()


class Decoder:
    """Counts its calls; the length of the recording decides the pitch."""

    def __init__(self) -> None:
        self.calls = 0
        self.entered, self.may_finish = threading.Event(), threading.Event()
        self.may_finish.set()

    def __call__(self, recording: bytes) -> DecodedRecording:
        self.calls += 1
        self.entered.set()
        assert self.may_finish.wait(10)
        return DecodedRecording(np.sin(np.arange(24_000, dtype=np.float32) / (10 + len(recording) % 7)), 0.0)


@pytest.mark.parametrize(
    "audio",
    [
        PLAIN,
        PLAIN.rstrip("="),
        base64.urlsafe_b64encode(RECORDING).decode(),
        base64.encodebytes(RECORDING).decode(),
        f"data:audio/wav;base64,{PLAIN}",
        f"DATA:audio/ogg;codecs=opus;BASE64,{PLAIN}",
        f"data:;base64,{PLAIN}",
    ],
)
def test_base64_in_every_form_is_one_recording(audio: str) -> None:
    voices = ReferenceVoices(Decoder(), 256)
    assert voices.read(audio, "") == voices.read(PLAIN, "")
    assert voices.read(audio, " a\n b ").transcript == "a b"
    assert voices.read(audio, "").recording == RECORDING


@pytest.mark.parametrize(
    ("audio", "transcript", "error", "expected"),
    [
        ("not base64!", "", UndecodableAudio, "not base64"),
        ("AAAAA", "", UndecodableAudio, "not base64"),
        ("Gr\N{LATIN SMALL LETTER U WITH DIAERESIS}ße", "", UndecodableAudio, "not base64"),
        ("data:audio/wav,RIFF", "", UndecodableAudio, "data URI"),
        (base64.b64encode(bytes(257)).decode(), "", TooLarge, "MAX_UPLOAD_MB"),
        (PLAIN, "a" * 2001, Unprocessable, "2001 characters"),
        (PLAIN, "\0", Unprocessable, "U+0000"),
    ],
)
def test_what_is_no_recording_is_explained(
    audio: str, transcript: str, error: type[ServiceError], expected: str
) -> None:
    with pytest.raises(error, match=expected.replace("+", r"\+")):
        ReferenceVoices(Decoder(), 256).read(audio, transcript)


def test_the_cache_goes_by_content_and_has_a_limit() -> None:
    decoder = Decoder()
    voices = ReferenceVoices(decoder, 256, cache_bytes=2 * SAMPLES.nbytes)
    first, again, other, third = (
        voices.read(base64.b64encode(bytes(size)).decode(), text)
        for size, text in ((1, ""), (1, ""), (1, "Words."), (2, ""))
    )
    assert voices.cached(first) is None
    prompt = voices.load(first)
    assert voices.load(again) is voices.cached(again) is prompt
    assert voices.load(other).transcript == "Words."
    assert decoder.calls == 2
    assert voices.cached(first) is prompt  # the latest in use
    voices.load(third)
    assert voices.cached(other) is None
    assert voices.cached(first) is prompt
    assert voices.cached(third) is not None


def test_concurrent_requests_with_one_recording_decode_it_once() -> None:
    decoder = Decoder()
    decoder.may_finish.clear()
    voices = ReferenceVoices(decoder, 256)
    found = []
    threads = [threading.Thread(target=lambda: found.append(voices.load(voices.read(PLAIN, "")))) for _ in range(3)]
    for each in threads:
        each.start()
    assert decoder.entered.wait(10)
    decoder.may_finish.set()
    for each in threads:
        each.join(10)
    assert decoder.calls == 1
    assert len(found) == 3
    assert all(each is found[0] for each in found)


def test_an_error_is_not_remembered() -> None:
    failing = True

    def decode(recording: bytes) -> DecodedRecording:
        if failing:
            raise Unprocessable("silent")
        return DecodedRecording(SAMPLES, 0.0)

    voices = ReferenceVoices(decode, 256)
    reference = voices.read(PLAIN, "")
    with pytest.raises(Unprocessable):
        voices.load(reference)
    failing = False
    assert voices.load(reference) is voices.cached(reference)
