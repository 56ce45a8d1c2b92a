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

from app.errors import Busy, NotAudio, ServiceError, TooLarge, Unavailable, UndecodableAudio, Unprocessable
from app.voices import audio, wire
from app.voices.audio import VoiceDecoder, sniff
from engine.types import Samples
from tests.app.voices.recordings import CONTAINERS, TAGGED, encode, hum, pitch_of, recording, tagged

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")


def decode(data: bytes, *, max_bytes: int = 25 << 20, max_seconds: float = 30.0) -> Samples:
    with VoiceDecoder(max_bytes, max_seconds) as decoder:
        return decoder.decode(data)


def wav(samples: npt.NDArray[Any], rate: int = 24_000) -> bytes:
    """A float32 wav, whatever its samples are."""
    body = samples.astype("<f4").tobytes()
    header = struct.pack("<4sI4s4sIHH", b"RIFF", 36 + len(body), b"WAVE", b"fmt ", 16, 3, 1)
    header += struct.pack("<IIHH4sI", rate, rate * 4, 4, 32, b"data", len(body))
    return header + body


# ---- what is taken


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_kind_is_known_by_its_first_bytes_and_decoded(kind: str) -> None:
    data = recording(kind)
    assert sniff(data[:64]) == kind
    samples = decode(data)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert abs(samples.size - 36_000) < 24_000 * 0.1  # a lossy codec pads
    assert abs(pitch_of(samples) - 220) < 2
    assert 0.3 < np.abs(samples).max() <= 1


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_averaged(channels: int) -> None:
    assert np.allclose(decode(recording("flac", channels=channels)), decode(recording("flac")), atol=1e-3)


@pytest.mark.parametrize("rate", [8_000, 24_000, 96_000])
def test_any_rate_comes_out_at_24_khz(rate: int) -> None:
    samples = decode(encode(hum(1.5, rate), "wav", "pcm_s16le", rate))
    assert abs(samples.size - 36_000) <= 64
    assert abs(pitch_of(samples) - 220) < 2


def test_samples_at_24_khz_come_through_untouched() -> None:
    samples = hum(1.2, 24_000)[0]
    assert np.array_equal(decode(wav(samples)), samples)


def test_what_is_over_full_scale_is_scaled_and_keeps_its_shape() -> None:
    samples = hum(1.2, 24_000)[0]
    loud = decode(wav(samples * 7))
    assert np.abs(loud).max() == 1
    assert np.allclose(loud, samples / np.abs(samples).max(), atol=1e-6)


def test_only_the_first_audio_stream_is_heard() -> None:
    packed = BytesIO()
    with av.open(packed, "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p")
        streams = [container.add_stream("aac", rate=48_000, layout="mono") for _ in range(2)]
        picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        picture.pts = 0
        container.mux(video.encode(picture))
        container.mux(video.encode(None))
        for stream, pitch in zip(streams, (220, 880), strict=True):
            frame = av.AudioFrame.from_ndarray(hum(1.5, 48_000, pitch), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48_000, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    assert abs(pitch_of(decode(packed.getvalue())) - 220) < 2


@pytest.mark.parametrize("kind", TAGGED)
def test_tags_that_are_no_utf_8_harm_nothing(kind: str) -> None:
    assert np.array_equal(decode(tagged(kind)), decode(recording(kind)))


def test_one_process_decodes_many() -> None:
    with VoiceDecoder(25 << 20, 30.0) as decoder:
        first = decoder.decode(recording("mp3"))
        process = decoder._process
        with pytest.raises(UndecodableAudio):
            decoder.decode(b"fLaC" + bytes(100))
        assert np.array_equal(decoder.decode(recording("mp3")), first)
        assert decoder._process is process
    assert process is not None
    assert process.returncode is not None  # and it is gone in the end


# ---- what is refused


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
def test_what_is_no_audio(data: bytes, error: type[ServiceError]) -> None:
    with pytest.raises(error):
        decode(data)


def test_noise_behind_an_mp3_header_is_no_voice() -> None:
    noise = np.random.default_rng(1).bytes(60_000)
    with pytest.raises(UndecodableAudio):
        decode(b"ID3\4\0\0\0\0\0\0" + noise)


def test_a_film_without_sound_is_no_audio() -> None:
    packed = BytesIO()
    with av.open(packed, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(NotAudio, match="no audio"):
        decode(packed.getvalue())


def test_too_many_bytes() -> None:
    with pytest.raises(TooLarge, match="MAX_UPLOAD_MB"):
        decode(recording(), max_bytes=1000)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_too_long_and_just_long_enough(kind: str) -> None:
    assert decode(recording(kind), max_seconds=1.5).size <= 36_000
    with pytest.raises(TooLarge, match="MAX_VOICE_SECONDS"):
        decode(recording(kind), max_seconds=1.2)


def test_an_hour_in_a_small_file_is_refused_early() -> None:
    hour = encode(np.zeros((1, 3600 * 8_000), np.float32), "flac", "flac", 8_000)
    assert len(hour) < 1 << 20
    with pytest.raises(TooLarge, match="more than 30 s"):
        decode(hour)


def test_too_short() -> None:
    with pytest.raises(Unprocessable, match="too short"):
        decode(recording("wav", seconds=0.9))


@pytest.mark.parametrize("level", [0.0, 1e-6, 0.5])
def test_silence_is_no_voice_whatever_its_level(level: float) -> None:
    with pytest.raises(Unprocessable, match="silent"):
        decode(wav(np.full(48_000, level)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(value: float) -> None:
    samples = hum(1.5, 24_000)[0]
    samples[20_000] = value
    with pytest.raises(UndecodableAudio, match="finite"):
        decode(wav(samples))


@pytest.mark.parametrize("rate", [1, 3_999, 1_000_000])
def test_rates_that_would_blow_a_file_up(rate: int) -> None:
    with pytest.raises(UndecodableAudio, match=f"{rate} Hz"):
        decode(wav(hum(1.5, 24_000)[0], rate))


# ---- the process


@LINUX
def test_the_process_has_nothing_to_give_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "secret")
    with open(__file__, "rb") as file, VoiceDecoder(25 << 20, 30.0) as decoder:
        os.set_inheritable(file.fileno(), True)
        decoder.decode(recording())
        assert decoder._process is not None
        proc = Path("/proc") / str(decoder._process.pid)
        names = {entry.split(b"=")[0] for entry in (proc / "environ").read_bytes().split(b"\0") if entry}
        limits = {line[:26].strip(): line[26:].split()[0] for line in (proc / "limits").read_text().splitlines()}
        assert names == {b"PYTHONPATH"}
        assert sorted(os.listdir(proc / "fd")) == ["0", "1", "2"]
        assert limits["Max open files"] == "3"
        assert limits["Max processes"] == limits["Max file size"] == limits["Max core file size"] == "0"
        assert 0 < int(limits["Max address space"]) < 2 << 30
        assert 0 < int(limits["Max cpu time"]) < 60
        assert b"torch" not in (proc / "maps").read_bytes()


def test_once_it_has_given_up_its_rights_it_can_open_nothing() -> None:
    script = """
import socket, sys
from app.voices import decoder
decoder._give_up_rights()
for attempt in (lambda: open("/dev/null"), lambda: open("/tmp/canary", "w"), socket.socket):
    try:
        attempt()
    except OSError:
        continue
    sys.exit("it could")
print("nothing")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=110, check=False)
    assert done.stdout == "nothing\n", done.stderr


def test_a_process_that_hangs_is_ended_and_the_next_recording_gets_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with VoiceDecoder(25 << 20, 30.0) as decoder:
        decoder.decode(recording())
        hung = decoder._process
        assert hung is not None
        hung.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(audio, "WALL_SECONDS", 0.2)
        with pytest.raises(UndecodableAudio, match="more memory or time"):
            decoder.decode(recording())
        assert hung.returncode == -signal.SIGKILL
        monkeypatch.undo()
        assert decoder.decode(recording()).size


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"x",
        wire.ANSWER.pack(wire.DECODED, 1, 2**63),
        wire.ANSWER.pack(wire.DECODED, 0, 4) + bytes(4),
        wire.ANSWER.pack(wire.DECODED, 200, 800) + bytes(800),
        wire.ANSWER.pack(wire.DECODED, 1, 3) + bytes(3),
        wire.ANSWER.pack(wire.DECODED, 1, 4000) + bytes(10),
        wire.ANSWER.pack(wire.UNDECODABLE, 0, 2**40),
    ],
)
def test_the_process_is_not_trusted_either(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        f"import sys; sys.stdout.buffer.write({wire.READY + answer!r}); sys.stdout.flush(); sys.stdin.buffer.read(9)"
    )
    popen = subprocess.Popen

    def liar(_: object, **options: object) -> subprocess.Popen[bytes]:
        return popen([sys.executable, "-c", script], **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(subprocess, "Popen", liar)
    with pytest.raises(UndecodableAudio):
        decode(recording())


def test_a_process_that_does_not_start_is_not_the_recordings_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Unavailable, match="does not start"):
        decode(recording())
    monkeypatch.setattr(sys, "executable", "/does/not/exist")
    with pytest.raises(Unavailable, match="No such file"):
        decode(recording())


def test_a_third_decoder_waits_and_then_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "WALL_SECONDS", 0.05)
    with VoiceDecoder(1, 1.0), VoiceDecoder(1, 1.0):
        third = VoiceDecoder(1, 1.0)
        with pytest.raises(Busy):
            third.__enter__()
    with third:
        pass
