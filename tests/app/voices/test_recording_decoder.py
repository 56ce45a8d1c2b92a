from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from app.errors import Busy, ComponentFailed, NotAudio, ServiceError, TooLarge, UndecodableAudio, Unprocessable
from app.voices import decoder_client, decoder_starts, recording_decoder
from app.voices import decoder_framing as framing
from app.voices.decoder_starts import DecoderStartPolicy
from app.voices.recording_decoder import VoiceDecoder
from app.voices.recording_format import sniff
from engine.types import Samples
from tests.app.voices.recordings import CONTAINERS, TAGGED, caf_with_aac, encode, pitch_of, recording, tagged, tone

FAKE_DECODER = """
import sys
from app.voices import decoder_framing as framing

def read(size):
    return sys.stdin.buffer.read(size)

def write(data):
    sys.stdout.buffer.write(data)
    sys.stdout.flush()

write(framing.READY)
_, _, length = framing.REQUEST.unpack(read(framing.REQUEST.size))
read(length)
write(framing.ANSWER.pack(framing.DECODED, 1, 0.0, framing.RATE // 10 * 4) + bytes(framing.RATE // 10 * 4))
read(framing.REQUEST.size)
"""


def fake_decoder(rest: str) -> list[str]:
    """Command of a decoder that passes the self-test and then executes `rest`."""
    return [sys.executable, "-c", FAKE_DECODER + rest]


class Clock:
    """Replaces the module `time`."""

    def __init__(self, now: list[float]) -> None:
        self._now = now

    def monotonic(self) -> float:
        return self._now[0]


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def decode(data: bytes, *, max_bytes: int = 25 << 20, max_seconds: float = 30.0) -> Samples:
    with VoiceDecoder(max_bytes, max_seconds) as decoder:
        return decoder.decode(data).samples


def wav(samples: npt.NDArray[Any], rate: int = 24_000) -> bytes:
    """A float32 wav of any samples."""
    body = samples.astype("<f4").tobytes()
    header = struct.pack("<4sI4s4sIHH", b"RIFF", 36 + len(body), b"WAVE", b"fmt ", 16, 3, 1)
    header += struct.pack("<IIHH4sI", rate, rate * 4, 4, 32, b"data", len(body))
    return header + body


# ---- accepted recordings


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_supported_format_is_detected_and_decoded(kind: str) -> None:
    data = recording(kind)
    assert sniff(data[:64]) == kind
    samples = decode(data)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert abs(samples.size - 36_000) < 24_000 * 0.1  # a lossy codec pads
    assert abs(pitch_of(samples) - 220) < 2
    assert 0.3 < np.abs(samples).max() <= 1


@pytest.mark.parametrize(("kind", "channels"), [*((kind, 1) for kind in CONTAINERS), ("wav", 2)])
def test_samples_at_full_scale_are_counted_before_they_are_resampled(kind: str, channels: int) -> None:
    muxer, encoder, rate = CONTAINERS[kind]
    clean = tone(1.5, rate, channels=channels)
    clean[0] *= 2 / 1.2  # one channel is enough
    with VoiceDecoder(25 << 20, 30.0) as decoder:
        assert decoder.decode(encode(clean, muxer, encoder, rate)).clipped < 1e-3
        clipped = decoder.decode(encode(np.clip(clean * 3, -1, 1), muxer, encoder, rate)).clipped
    assert 0.005 < clipped < 0.9  # lossy codecs smooth the peaks


def test_a_recording_of_an_iphone_is_decoded() -> None:
    data = caf_with_aac(tone(1.5, 44_100), 44_100)
    assert sniff(data[:64]) == "caf"
    samples = decode(data)
    assert abs(samples.size - 36_000) < 24_000 * 0.1
    assert abs(pitch_of(samples) - 220) < 2


@pytest.mark.parametrize(
    ("muxer", "encoder", "rate"),
    [
        ("aiff", "pcm_s8", 22_050),
        ("aiff", "pcm_s16le", 44_100),
        ("caf", "pcm_f32le", 48_000),
        ("caf", "adpcm_ima_qt", 44_100),
    ],
)
def test_other_codecs_of_aiff_and_caf_are_decoded(muxer: str, encoder: str, rate: int) -> None:
    assert abs(pitch_of(decode(encode(tone(1.5, rate), muxer, encoder, rate))) - 220) < 2


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_averaged(channels: int) -> None:
    assert np.allclose(decode(recording("flac", channels=channels)), decode(recording("flac")), atol=1e-3)


@pytest.mark.parametrize("rate", [8_000, 24_000, 96_000])
def test_any_sample_rate_is_resampled_to_24_khz(rate: int) -> None:
    samples = decode(encode(tone(1.5, rate), "wav", "pcm_s16le", rate))
    assert abs(samples.size - 36_000) <= 64
    assert abs(pitch_of(samples) - 220) < 2


def test_samples_at_24_khz_are_unchanged() -> None:
    samples = tone(1.2, 24_000)[0]
    assert np.array_equal(decode(wav(samples)), samples)


def test_samples_over_full_scale_are_scaled_not_clipped() -> None:
    samples = tone(1.2, 24_000)[0]
    loud = decode(wav(samples * 7))
    assert np.abs(loud).max() == 1
    assert np.allclose(loud, samples / np.abs(samples).max(), atol=1e-6)


def test_only_the_first_audio_stream_is_decoded() -> None:
    packed = BytesIO()
    with av.open(packed, "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p")
        streams = [container.add_stream("aac", rate=48_000, layout="mono") for _ in range(2)]
        picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        picture.pts = 0
        container.mux(video.encode(picture))
        container.mux(video.encode(None))
        for stream, pitch in zip(streams, (220, 880), strict=True):
            frame = av.AudioFrame.from_ndarray(tone(1.5, 48_000, pitch), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48_000, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    assert abs(pitch_of(decode(packed.getvalue())) - 220) < 2


@pytest.mark.parametrize("kind", TAGGED)
def test_tags_that_are_not_utf_8_are_ignored(kind: str) -> None:
    assert np.array_equal(decode(tagged(kind)), decode(recording(kind)))


def test_one_process_decodes_many_recordings() -> None:
    with VoiceDecoder(25 << 20, 30.0) as decoder:
        first = decoder.decode(recording("mp3")).samples
        process = decoder._client._process
        with pytest.raises(UndecodableAudio):
            decoder.decode(b"fLaC" + bytes(100))
        assert np.array_equal(decoder.decode(recording("mp3")).samples, first)
        assert decoder._client._process is process
    assert process is not None
    assert process.returncode is not None


# ---- rejected recordings


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", UndecodableAudio),
        (b"hello, I am a text", NotAudio),
        (b"PK\3\4" + bytes(100), NotAudio),
        (b"<!doctype html><audio src=x>", NotAudio),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", NotAudio),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", NotAudio),
        (b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n", NotAudio),
        (b"\xff\xd8\xff\xe0" + bytes(100), NotAudio),
        (b"\x1a\x45\xdf\xa3" + b"matroska" + bytes(100), NotAudio),
        (b"RIFF\0\0\0\0AVI LIST" + bytes(100), NotAudio),
        (b"RIFF\xff\xff\xff\xffWAVE", UndecodableAudio),
        (b"fLaC", UndecodableAudio),
        (b"OggS", UndecodableAudio),
        (b"ID3\4\0\0\x7f\x7f\x7f\x7f", UndecodableAudio),
        (b"\0\0\0\x18ftypM4A " + bytes(12), UndecodableAudio),
        (b"\x1a\x45\xdf\xa3" + b"webm" + bytes(100), UndecodableAudio),
    ],
)
def test_files_without_valid_audio_are_rejected(data: bytes, error: type[ServiceError]) -> None:
    with pytest.raises(error):
        decode(data)


def test_noise_after_an_mp3_header_is_rejected() -> None:
    noise = np.random.default_rng(1).bytes(60_000)
    with pytest.raises(UndecodableAudio):
        decode(b"ID3\4\0\0\0\0\0\0" + noise)


def test_a_video_without_audio_is_rejected() -> None:
    packed = BytesIO()
    with av.open(packed, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(NotAudio, match="no audio"):
        decode(packed.getvalue())


def test_a_recording_over_max_bytes_is_rejected() -> None:
    with pytest.raises(TooLarge, match="MAX_UPLOAD_MB"):
        decode(recording(), max_bytes=1000)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_max_seconds_is_the_longest_accepted_recording(kind: str) -> None:
    assert decode(recording(kind), max_seconds=1.5).size <= 36_000
    with pytest.raises(TooLarge, match="MAX_VOICE_SECONDS"):
        decode(recording(kind), max_seconds=1.2)


def test_an_hour_in_a_small_file_is_rejected_early() -> None:
    hour = encode(np.zeros((1, 3600 * 8_000), np.float32), "flac", "flac", 8_000)
    assert len(hour) < 1 << 20
    with pytest.raises(TooLarge, match="longer than 30 s"):
        decode(hour)


def test_a_short_recording_is_rejected() -> None:
    with pytest.raises(Unprocessable, match="too short"):
        decode(recording("wav", seconds=0.9))


@pytest.mark.parametrize("level", [0.0, 1e-6, 0.5])
def test_a_constant_signal_is_rejected_as_silent(level: float) -> None:
    with pytest.raises(Unprocessable, match="silent"):
        decode(wav(np.full(48_000, level)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_samples_are_rejected(value: float) -> None:
    samples = tone(1.5, 24_000)[0]
    samples[20_000] = value
    with pytest.raises(UndecodableAudio, match="finite"):
        decode(wav(samples))


@pytest.mark.parametrize("rate", [1, 3_999, 1_000_000])
def test_extreme_sample_rates_are_rejected(rate: int) -> None:
    with pytest.raises(UndecodableAudio, match=f"{rate} Hz"):
        decode(wav(tone(1.5, 24_000)[0], rate))


# ---- the process


@linux_only
def test_the_process_has_no_files_secrets_or_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "secret")
    with open(__file__, "rb") as file, VoiceDecoder(25 << 20, 30.0) as decoder:
        os.set_inheritable(file.fileno(), True)
        decoder.decode(recording())
        assert decoder._client._process is not None
        proc = Path("/proc") / str(decoder._client._process.pid)
        names = {entry.split(b"=")[0] for entry in (proc / "environ").read_bytes().split(b"\0") if entry}
        limits = {line[:26].strip(): line[26:].split()[0] for line in (proc / "limits").read_text().splitlines()}
        assert names == {b"PYTHONPATH"}
        assert sorted(os.listdir(proc / "fd")) == ["0", "1", "2"]
        assert limits["Max open files"] == "3"
        assert limits["Max processes"] == limits["Max file size"] == limits["Max core file size"] == "0"
        assert 0 < int(limits["Max address space"]) < 2 << 30
        assert 0 < int(limits["Max cpu time"]) < 60
        assert b"torch" not in (proc / "maps").read_bytes()


def test_nothing_can_be_opened_after_dropping_privileges() -> None:
    script = """
import socket, sys
from app.voices import decoder_process
decoder_process._drop_privileges()
for attempt in (lambda: open("/dev/null"), lambda: open("/tmp/canary", "w"), socket.socket):
    try:
        attempt()
    except OSError:
        continue
    sys.exit("succeeded")
print("all failed")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=110, check=False)
    assert done.stdout == "all failed\n", done.stderr


def test_a_hung_process_is_killed_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with VoiceDecoder(25 << 20, 30.0) as decoder:
        decoder.decode(recording())
        hung = decoder._client._process
        assert hung is not None
        hung.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(decoder_client, "WALL_SECONDS", 0.2)
        with pytest.raises(UndecodableAudio, match="more memory or time"):
            decoder.decode(recording())
        assert hung.returncode == -signal.SIGKILL
        monkeypatch.undo()
        assert decoder.decode(recording()).samples.size


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"x",
        framing.ANSWER.pack(framing.DECODED, 1, 0.0, 2**63),
        framing.ANSWER.pack(framing.DECODED, 0, 0.0, 4) + bytes(4),
        framing.ANSWER.pack(framing.DECODED, 200, 0.0, 800) + bytes(800),
        framing.ANSWER.pack(framing.DECODED, 1, 0.0, 3) + bytes(3),
        framing.ANSWER.pack(framing.DECODED, 1, 0.0, 4000) + bytes(10),
        framing.ANSWER.pack(framing.UNDECODABLE, 0, 0.0, 2**40),
    ],
)
def test_invalid_answers_of_the_process_are_rejected(answer: bytes) -> None:
    with (
        VoiceDecoder(25 << 20, 30.0, command=fake_decoder(f"write({answer!r}); read(9)")) as decoder,
        pytest.raises(UndecodableAudio),
    ):
        decoder.decode(recording())


def test_a_process_that_does_not_start_is_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    for executable, reason in (("/bin/false", "exit code 1"), ("/does/not/exist", "No such file")):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(ComponentFailed, match="does not start") as refused:
            decode(recording())
        assert reason in str(refused.value.__cause__)
        assert (refused.value.status, refused.value.code, refused.value.headers) == (503, "decoder_failed", {})


Reports = list[tuple[str | None, str]]


def attempt(command: list[str] | None, starts: DecoderStartPolicy) -> str:
    """The error code of decoding a recording; "" if it succeeds."""
    with VoiceDecoder(25 << 20, 30.0, starts, command) as decoder:
        try:
            decoder.decode(recording())
        except ComponentFailed as error:
            return error.code
    return ""


# Broken decoders: the command, and a part of the reported error. All of them run with the installed PyAV.
BROKEN = {
    "an argument that PyAV does not know": (
        [sys.executable, "-c", "import av; av.open('', metadata_error='replace')"],
        "TypeError: open() got an unexpected keyword argument 'metadata_error'",
    ),
    "an import that fails": ([sys.executable, "-c", "import av.no_such_name"], "ModuleNotFoundError"),
    "many lines that end in control characters": (
        [sys.executable, "-c", "import sys; sys.exit('x' * 200_000 + chr(10) + 'the reason' + chr(27) + chr(10))"],
        "the reason",
    ),
    "no output": ([sys.executable, "-c", "raise SystemExit(3)"], "exit code 3"),
    "killed": ([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], "SIGKILL"),
    "a wrong ready message": (
        [sys.executable, "-c", "import sys; print('hello, world', flush=True); sys.stdin.read()"],
        "did not send its ready message",
    ),
    "an exit after the ready message": (
        [sys.executable, "-c", f"import sys; sys.stdout.buffer.write({framing.READY!r}); sys.exit('out of ideas')"],
        "out of ideas",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_decoder_is_reported_with_its_stderr_and_again_once_it_works(fault: str) -> None:
    command, reason = BROKEN[fault]
    reports: Reports = []
    starts = DecoderStartPolicy(lambda error, detail: reports.append((error, detail)))
    assert attempt(command, starts) == "decoder_failed"
    (error, detail) = reports[0]
    assert error is not None
    assert reason in error
    assert detail
    assert (error + detail).isprintable()
    assert len(error) <= 400
    assert attempt(None, starts) == ""
    assert reports[1:] == [(None, "")]


def test_a_decoder_that_breaks_during_a_recording_is_reported_not_the_recording(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It passes the first self-test and fails when it is restarted."""
    reports: Reports = []
    starts = DecoderStartPolicy(lambda error, detail: reports.append((error, detail)))
    with VoiceDecoder(25 << 20, 30.0, starts, fake_decoder("sys.exit('the library is gone')")) as decoder:
        decoder.start()
        decoder._client._command = BROKEN["an import that fails"][0]
        with pytest.raises(ComponentFailed):
            decoder.decode(recording())
        with pytest.raises(ComponentFailed):  # without another start
            decoder.decode(recording())
    assert [error is None for error, _ in reports] == [True, False]
    assert "the library is gone" in caplog.text
    assert "exit code 1" in caplog.text


def test_a_hung_start_is_killed_and_not_retried_immediately(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_starts, "_SLOW_START_SECONDS", 0.1)
    now = [1000.0]
    monkeypatch.setattr(decoder_starts, "time", Clock(now))
    monkeypatch.setattr(decoder_client, "time", Clock(now))
    reports: Reports = []
    starts = DecoderStartPolicy(lambda error, detail: reports.append((error, detail)))
    hanging = [sys.executable, "-c", "import time\nwhile True: time.sleep(9)"]
    with monkeypatch.context() as patch, VoiceDecoder(25 << 20, 30.0, starts, hanging) as decoder:
        patch.setattr(decoder_client, "START_SECONDS", 0.2)
        with pytest.raises(ComponentFailed):
            decoder.decode(recording())
        assert reports == [("it was not ready within 0.2 seconds", "")]
    starts.record(reports[0][0], "", 20.0)
    assert attempt(None, starts) == "decoder_failed"  # without a start
    assert len(reports) == 2
    now[0] += 20.0
    assert attempt(None, starts) == ""
    assert reports[2:] == [(None, "")]


def test_a_third_concurrent_decoder_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording_decoder, "WALL_SECONDS", 0.05)
    with VoiceDecoder(1, 1.0), VoiceDecoder(1, 1.0):
        third = VoiceDecoder(1, 1.0)
        with pytest.raises(Busy):
            third.__enter__()
    with third:
        pass
