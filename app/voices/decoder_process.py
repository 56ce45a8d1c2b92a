"""Sandboxed process that decodes untrusted recordings: `python -m app.voices.decoder_process`.

Crafted files exploit decoders, so before the process reads the first byte it drops the ability to open files and
sockets and to create processes, and limits its memory and CPU time. The caller names the container format, and the
recording is read from memory, never by a file name. Only PyAV is imported, which keeps the start near a tenth of a
second. The parent's side is app/voices/decoder_client.py, the protocol app/voices/decoder_framing.py.
"""

from __future__ import annotations

import math
import os
import resource
import struct
import sys
import time
from array import array
from collections.abc import Iterator
from io import BytesIO
from typing import Any, NoReturn

import av
import av.subtitles.codeccontext  # PyAV imports these two lazily, when files can no longer be opened
import av.subtitles.stream
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import InputContainer

from app.voices import decoder_framing as framing

# Accepted container formats and FFmpeg's demuxer for each. The demuxer is never probed from the content: playlists,
# session descriptions and the like have demuxers too, and those open other files.
DEMUXERS = {
    "wav": "wav",
    "mp3": "mp3",
    "flac": "flac",
    "ogg": "ogg",
    "mp4": "mov",
    "webm": "webm",
    "aiff": "aiff",
    "caf": "caf",
}

DECODERS = (
    "aac", "alac", "flac", "mp3", "mp3float", "opus", "libopus", "vorbis",
    "adpcm_ima_wav", "adpcm_ms", "adpcm_ima_qt", "pcm_alaw", "pcm_mulaw", "pcm_u8", "pcm_s8",
    "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be",
    "pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_f64be",
)  # fmt: skip

MIN_RATE, MAX_RATE = 4_000, 384_000  # Hz; resampling a "1 Hz" file would expand it 24,000 times
TOLERANCE_SECONDS = 0.1  # a lossy codec's padding does not make a recording too long
MEMORY_BYTES = 384 << 20  # in addition to what the process uses once it is ready
CPU_SECONDS = 10  # per recording; 30 s of any format take a small part of one

# PyAV before 19 rejects a file whose tags are not UTF-8 unless metadata_errors replaces the undecodable bytes. Later
# releases accept such files and have no such argument.
_TAG_OPTIONS: dict[str, Any] = {"metadata_errors": "replace"} if hasattr(InputContainer, "metadata_errors") else {}


class DecodeError(Exception):
    """The recording is rejected; `outcome` is one of `decoder_framing`, the message the reason."""

    def __init__(self, outcome: bytes, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


def decode(recording: bytes, kind: str, max_seconds: float) -> tuple[int, float, bytes]:
    """Decode the first audio stream to (channels, share of clipped samples, interleaved float32 at 24 kHz).

    Raises DecodeError.
    """
    try:
        # A demuxer that follows a reference to a second file calls io_open, which refuses.
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
        raise DecodeError(framing.UNDECODABLE, f"the file is damaged, or is not {kind} ({reason})") from error


def _refuse_to_open(url: str, flags: int, options: dict[str, Any]) -> NoReturn:
    raise PermissionError("a recording may not open other files")


class _ClippingMeter:
    """Counts the samples at full scale, which resampling would move to either side of it."""

    def __init__(self) -> None:
        self._samples = self._clipped = 0
        self.restart()

    def restart(self) -> None:
        """The format of the next frames differs."""
        self._to_int16 = AudioResampler(format="s16")

    @property
    def share(self) -> float:
        return self._clipped / max(self._samples, 1)

    def add(self, frame: AudioFrame) -> None:
        for piece in _interleaved(self._to_int16.resample(frame), 2):
            values = array("h", piece)
            self._samples += len(values)
            self._clipped += sum(map(values.count, (-32768, -32767, 32767)))


def _decode_first_stream(container: InputContainer, max_seconds: float) -> tuple[int, float, bytes]:
    chunks: list[bytes] = []
    seconds = 0.0
    max_bytes = 0
    channels = 0
    clipping = _ClippingMeter()
    resampler: AudioResampler | None = None
    source_format: tuple[object, ...] = ()
    for frame in _frames(container):
        if not MIN_RATE <= frame.sample_rate <= MAX_RATE:
            limits = f"from {MIN_RATE} to {MAX_RATE} Hz are supported"
            raise DecodeError(framing.UNDECODABLE, f"its sample rate is {frame.sample_rate} Hz; {limits}")
        seconds += frame.samples / frame.sample_rate
        if seconds > max_seconds + TOLERANCE_SECONDS:
            raise DecodeError(framing.TOO_LONG, f"it is longer than {max_seconds:g} s")
        if resampler is None:
            channels = frame.layout.nb_channels
            if not 1 <= channels <= framing.MAX_CHANNELS:
                limits = f"from 1 to {framing.MAX_CHANNELS} are supported"
                raise DecodeError(framing.UNDECODABLE, f"it has {channels} channels; {limits}")
            max_bytes = math.ceil(max_seconds * framing.RATE) * channels * 4
            layout = frame.layout
        frame_format = (frame.sample_rate, frame.format.name, frame.layout.name)
        if resampler is None or frame_format != source_format:  # may change within a file, not within a resampler
            chunks += _interleaved(resampler.resample(None)) if resampler else []
            resampler = AudioResampler(format="flt", layout=layout, rate=framing.RATE)
            source_format = frame_format
            clipping.restart()
        clipping.add(frame)
        chunks += _interleaved(resampler.resample(frame))
    if resampler is not None and source_format:
        chunks += _interleaved(resampler.resample(None))
    return channels, clipping.share, b"".join(chunks)[:max_bytes]


def _frames(container: InputContainer) -> Iterator[AudioFrame]:
    if not container.streams.audio:
        raise DecodeError(framing.NO_AUDIO, "it contains no audio")
    stream = container.streams.audio[0]
    if stream.codec_context.name not in DECODERS:
        raise DecodeError(framing.UNDECODABLE, f"its codec, {stream.codec_context.name}, is not supported")
    stream.codec_context.thread_count = 1
    good = bad = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            bad += 1  # a truncated last packet is common; noise with an audio header is mostly bad packets
            continue
        for frame in frames:
            good += 1
            if isinstance(frame, AudioFrame):
                yield frame
    if good == bad == 0:
        raise DecodeError(framing.UNDECODABLE, "its audio is empty")
    if bad * 10 > good:
        raise DecodeError(framing.UNDECODABLE, f"{bad} of its {good + bad} packets are invalid")


def _interleaved(frames: list[AudioFrame], size: int = 4) -> list[bytes]:
    """Interleaved samples of `size` bytes each, without the padding at the end of a plane."""
    return [bytes(memoryview(frame.planes[0])[: frame.samples * frame.layout.nb_channels * size]) for frame in frames]


def _drop_privileges() -> None:
    """Forbid opening files and sockets, writing to files, creating processes and dumping core, irrevocably."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))  # stdin, stdout and stderr only
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _warm_up() -> None:
    """Decode a hundredth of a second, so that lazily loaded libraries load while files can still be opened."""
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


def _limit_memory(additional: int) -> None:
    """Limit the address space to the current size and `additional` bytes."""
    try:
        with open("/proc/self/statm") as statm:
            pages = int(statm.read().split()[0])
    except FileNotFoundError:  # /proc and an enforced limit exist on Linux only
        return
    limit = pages * resource.getpagesize() + additional
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_cpu_time() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + CPU_SECONDS, hard))


def main(max_bytes: int) -> None:
    """Answer requests from stdin on stdout until stdin ends. max_bytes: maximum size of a recording."""
    av.logging.set_level(av.logging.PANIC)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    _warm_up()
    os.nice(5)  # speech generation has priority
    _limit_memory(MEMORY_BYTES + 3 * max_bytes)
    _drop_privileges()
    answers.write(framing.READY)
    answers.flush()
    while header := requests.read(framing.REQUEST.size):
        max_seconds, kind, length = framing.REQUEST.unpack(header)
        _limit_cpu_time()
        recording = framing.read_exactly(requests, length)
        try:
            channels, clipped, body = decode(recording, kind.rstrip(b"\0").decode(), max_seconds)
            outcome = framing.DECODED
        except DecodeError as error:
            outcome, channels, clipped, body = error.outcome, 0, 0.0, str(error).encode()
        answers.write(framing.ANSWER.pack(outcome, channels, clipped, len(body)) + body)
        answers.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
