"""The process in which recordings from strangers are decoded: `python -m app.voices.decoder_process`.

Decoders are where a crafted file does its harm, so nothing here is worth taking: before it reads the
first byte the process gives up files, sockets, children and all but a bounded amount of memory and CPU
time. It is told what kind of file it gets, reads it from memory, and has no name to open anything by.
Nothing but PyAV is imported, which keeps a start near a tenth of a second. See app/voices/recording_decoder.py for
the other side, and app/voices/framing.py for what is said between them.
"""

from __future__ import annotations

import math
import os
import resource
import struct
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from typing import Any, NoReturn

import av
import av.subtitles.codeccontext  # PyAV imports these two when it first needs them: that would be too late here
import av.subtitles.stream
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import InputContainer

from app.voices import decoder_framing as framing

# The kinds that are taken, and the demuxer that each is given to. None is ever guessed from the content:
# playlists, session descriptions and the like are demuxers too, and those open other files.
DEMUXERS = {"wav": "wav", "mp3": "mp3", "flac": "flac", "ogg": "ogg", "mp4": "mov", "webm": "webm"}

DECODERS = (
    "aac", "alac", "flac", "mp3", "mp3float", "opus", "libopus", "vorbis",
    "adpcm_ima_wav", "adpcm_ms", "pcm_alaw", "pcm_mulaw", "pcm_u8",
    "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be",
    "pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_f64be",
)  # fmt: skip

MIN_RATE, MAX_RATE = 4_000, 384_000  # Hz; a "1 Hz" file would be blown up 24,000 times over
TOLERANCE_SECONDS = 0.1  # the padding of a lossy codec does not make a recording too long
MEMORY_BYTES = 384 << 20  # beyond what the process holds once it is ready
CPU_SECONDS = 10  # for one recording; 30 s of any kind take a small part of one

# PyAV before 19 refuses a file whose tags are not UTF-8 unless told to replace what it cannot decode. Later releases
# never refuse one, and have no such argument.
_TAG_OPTIONS: dict[str, Any] = {"metadata_errors": "replace"} if hasattr(InputContainer, "metadata_errors") else {}


class DecodeError(Exception):
    """This recording is not to be used: an outcome of `wire`, and why."""

    def __init__(self, outcome: bytes, why: str) -> None:
        super().__init__(why)
        self.outcome = outcome


def decode(recording: bytes, kind: str, max_seconds: float) -> tuple[int, bytes]:
    """The first audio stream as (channels, interleaved float32 at 24 kHz). Raises DecodeError."""
    try:
        # A demuxer that is led to a second file asks io_open for it, and gets nothing.
        with av.open(
            BytesIO(recording),
            mode="r",
            format=DEMUXERS[kind],
            container_options={"codec_whitelist": ",".join(DECODERS), "protocol_whitelist": "none"},
            io_open=_refuse_to_open,
            **_TAG_OPTIONS,
        ) as container:
            return _decode_first_stream(container, max_seconds)
    except (av.FFmpegError, ValueError, ArithmeticError, MemoryError, LookupError, OSError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise DecodeError(framing.UNDECODABLE, f"the file is damaged, or not {kind} at all ({reason})") from error


def _refuse_to_open(url: str, flags: int, options: dict[str, Any]) -> NoReturn:
    raise PermissionError("a recording may not open other files")


def _decode_first_stream(container: InputContainer, max_seconds: float) -> tuple[int, bytes]:
    pieces: list[bytes] = []
    seconds = 0.0
    max_bytes = 0
    channels = 0
    resampler: AudioResampler | None = None
    source: tuple[object, ...] = ()
    for frame in _frames(container):
        if not MIN_RATE <= frame.sample_rate <= MAX_RATE:
            what = f"{frame.sample_rate} Hz; a recording has from {MIN_RATE} to {MAX_RATE} Hz"
            raise DecodeError(framing.UNDECODABLE, f"its sample rate is {what}")
        seconds += frame.samples / frame.sample_rate
        if seconds > max_seconds + TOLERANCE_SECONDS:
            raise DecodeError(framing.TOO_LONG, f"it plays for more than {max_seconds:g} s")
        if resampler is None:
            channels = frame.layout.nb_channels
            if not 1 <= channels <= framing.MAX_CHANNELS:
                what = f"{channels} channels; a recording has from 1 to {framing.MAX_CHANNELS}"
                raise DecodeError(framing.UNDECODABLE, f"it has {what}")
            max_bytes = math.ceil(max_seconds * framing.RATE) * channels * 4
            layout = frame.layout
        now = (frame.sample_rate, frame.format.name, frame.layout.name)
        if resampler is None or now != source:  # files may change their mind half-way, resamplers not
            pieces += _interleaved(resampler.resample(None)) if resampler else []
            resampler = AudioResampler(format="flt", layout=layout, rate=framing.RATE)
            source = now
        pieces += _interleaved(resampler.resample(frame))
    if resampler is not None and source:
        pieces += _interleaved(resampler.resample(None))
    return channels, b"".join(pieces)[:max_bytes]


def _frames(container: InputContainer) -> Iterator[AudioFrame]:
    if not container.streams.audio:
        raise DecodeError(framing.NO_AUDIO, "there is no audio in it")
    stream = container.streams.audio[0]
    if stream.codec_context.name not in DECODERS:
        raise DecodeError(framing.UNDECODABLE, f"its codec, {stream.codec_context.name}, is not one that is taken")
    stream.codec_context.thread_count = 1
    good = bad = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            bad += 1  # a cut in the last packet is common; noise that passes for audio is mostly this
            continue
        for frame in frames:
            good += 1
            if isinstance(frame, AudioFrame):
                yield frame
    if good == bad == 0:
        raise DecodeError(framing.UNDECODABLE, "there is nothing in it to play")
    if bad * 10 > good:
        raise DecodeError(framing.UNDECODABLE, f"{bad} of its {good + bad} packets make no sense")


def _interleaved(frames: list[AudioFrame]) -> list[bytes]:
    """Interleaved float32, without the padding that a plane may end with."""
    return [bytes(memoryview(frame.planes[0])[: frame.samples * frame.layout.nb_channels * 4]) for frame in frames]


def _drop_privileges() -> None:
    """From here on: no file or socket can be opened, no byte written to one, no process made, no core dumped."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))  # stdin, stdout, stderr: there is no fourth
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _warm_up() -> None:
    """Decode a hundredth of a second, so that whatever is loaded at first use is loaded while files can be opened."""
    data = bytes(2 * 441)
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        36 + len(data),
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        44_100,
        88_200,
        2,
        16,
        b"data",
        len(data),
    )
    decode(head + data, "wav", 1.0)


def _limit_memory(beyond: int) -> None:
    try:
        with open("/proc/self/statm") as statm:
            pages = int(statm.read().split()[0])
    except FileNotFoundError:  # only Linux tells, and only there does the limit hold
        return
    most = pages * resource.getpagesize() + beyond
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _limit_cpu_time() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + CPU_SECONDS, hard))


def main(max_bytes: int) -> None:
    """Answer requests from stdin on stdout until stdin ends. max_bytes: of one recording."""
    av.logging.set_level(av.logging.PANIC)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    _warm_up()
    os.nice(5)  # speech goes first
    _limit_memory(MEMORY_BYTES + 3 * max_bytes)
    _drop_privileges()
    answers.write(framing.READY)
    answers.flush()
    while header := requests.read(framing.REQUEST.size):
        max_seconds, kind, length = framing.REQUEST.unpack(header)
        _limit_cpu_time()
        recording = framing.read_exactly(requests, length)
        try:
            channels, body = decode(recording, kind.rstrip(b"\0").decode(), max_seconds)
            outcome = framing.DECODED
        except DecodeError as refused:
            outcome, channels, body = refused.outcome, 0, str(refused).encode()
        answers.write(framing.ANSWER.pack(outcome, channels, len(body)) + body)
        answers.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
