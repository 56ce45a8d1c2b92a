from __future__ import annotations

from io import BytesIO

import av
import numpy as np
import pytest

from app.audio.encoders import wav_file
from app.errors import NotAudio, Unprocessable
from app.voices.joined_recording import JoinedRecording, RecordingFile, join_recordings
from app.voices.recording_decoder import DecodedRecording
from engine.types import Samples

RATE = 24_000


def tone(seconds: float, hertz: float = 440, level: float = 0.3) -> Samples:
    times = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def decode(recording: bytes) -> DecodedRecording:
    if not recording:
        raise NotAudio("it is not audio")
    with av.open(BytesIO(recording)) as file:
        samples = np.concatenate([frame.to_ndarray().reshape(-1) for frame in file.decode(audio=0)])
    return DecodedRecording(samples.astype(np.float32) / 32768, 0.0)


def file(name: str, samples: Samples) -> RecordingFile:
    return RecordingFile(name, lambda: wav_file(samples))


def join(*files: RecordingFile, transcripts: tuple[str, ...] = (), max_seconds: float = 30.0) -> JoinedRecording:
    return join_recordings(files, transcripts, decode, max_seconds)


def test_files_are_joined_in_order_at_one_loudness_with_a_pause() -> None:
    joined = join(file("a", tone(2.0, 440, 0.5)), file("b", tone(3.0, 880, 0.05)))
    samples = decode(joined.recording).samples
    assert joined.names == ("a", "b")
    assert samples.size == round((2.0 + 0.3 + 3.0) * RATE)
    assert not samples[2 * RATE : round(2.3 * RATE)].any()
    first, second = (np.sqrt(np.mean(part**2)) for part in (samples[: 2 * RATE], samples[round(2.3 * RATE) :]))
    assert first == pytest.approx(second, rel=0.2)
    for part, hertz in ((samples[:RATE], 440), (samples[-RATE:], 880)):
        assert np.argmax(np.abs(np.fft.rfft(part))) == hertz


def test_a_file_that_does_not_fit_is_left_out_and_a_later_one_that_does_is_not() -> None:
    joined = join(file("a", tone(4)), file("long", tone(8)), file("b", tone(4)), file("c", tone(3)), max_seconds=10)
    assert joined.names == ("a", "b")
    assert decode(joined.recording).samples.size == round(8.3 * RATE)
    left_out = "was left out: with it the voice would be longer than MAX_VOICE_SECONDS, 10 s"
    assert joined.warnings == (f"long {left_out}", f"c {left_out}")


def test_files_are_not_even_decoded_once_it_is_full() -> None:
    def read() -> bytes:
        raise AssertionError("was read")

    joined = join(file("a", tone(5)), file("b", tone(4.5)), RecordingFile("c", read), max_seconds=10)
    assert joined.names == ("a", "b")


@pytest.mark.parametrize(
    ("transcripts", "max_seconds", "transcript", "warning"),
    [
        ((), 30, "", None),
        (("One two\n three.",), 30, "One two three.", None),
        (("One two.", "Three."), 30, "One two. Three.", None),
        (("One two.", "Three."), 4, "One two.", "b was left out"),
        (("One two. Three.",), 4, "", "the transcript was left out, since it is of all files together"),
        (("One two.", " "), 30, "", "the transcripts were left out, since those of some files are empty"),
        (("One two.", ""), 4, "One two.", "b was left out"),
        (("", ""), 30, "", None),
    ],
)
def test_the_transcript_is_of_what_was_joined(
    transcripts: tuple[str, ...], max_seconds: float, transcript: str, warning: str | None
) -> None:
    joined = join(file("a", tone(2)), file("b", tone(2)), transcripts=transcripts, max_seconds=max_seconds)
    assert joined.transcript == transcript
    if warning is None:
        assert joined.warnings == ()
    else:
        assert joined.warnings[-1].startswith(warning)


def test_another_number_of_transcripts_is_refused() -> None:
    with pytest.raises(Unprocessable, match="2 transcripts of 3 files"):
        join(*(file(name, tone(1)) for name in "abc"), transcripts=("One.", "Two."))


def test_an_error_and_a_warning_name_their_file() -> None:
    with pytest.raises(NotAudio, match=r"^b: it is not audio"):
        join(file("a", tone(1)), RecordingFile("b", lambda: b""))
    quiet_end = np.concatenate([tone(2), np.zeros(2 * RATE, np.float32)])
    assert join(file("a", quiet_end), file("b", tone(2))).warnings == (
        "a: it ends with 2.0 s of silence, which is left out",
    )
