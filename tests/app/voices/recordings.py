"""Test recordings: a tone with noise, in every supported format."""

from __future__ import annotations

import functools
import struct
from io import BytesIO

import av
import numpy as np

from engine.types import Samples

CONTAINERS = {  # container format: (muxer, encoder, sample rate)
    "wav": ("wav", "pcm_s16le", 44_100),
    "mp3": ("mp3", "libmp3lame", 44_100),
    "flac": ("flac", "flac", 44_100),
    "ogg": ("ogg", "libopus", 48_000),
    "mp4": ("mp4", "aac", 48_000),
    "webm": ("webm", "libopus", 48_000),
    "aiff": ("aiff", "pcm_s24be", 44_100),
    "caf": ("caf", "alac", 44_100),
}


def encode(samples: Samples, muxer: str, encoder: str, rate: int) -> bytes:
    """Encode float32 (channels, samples) at `rate`."""
    packed = BytesIO()
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[0]]
    with av.open(packed, "w", format=muxer) as container:
        stream = container.add_stream(encoder, rate=rate, layout=layout)
        for start in range(0, samples.shape[1], 4096):
            piece = np.ascontiguousarray(samples[:, start : start + 4096])
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return packed.getvalue()


def caf_with_aac(samples: Samples, rate: int) -> bytes:
    """Mono float32 (1, samples) as AAC in CAF, as an iPhone records it; FFmpeg's muxer does not write that."""
    codec = av.AudioCodecContext.create("aac", "w")
    assert isinstance(codec, av.AudioCodecContext)
    codec.sample_rate, codec.layout, codec.format = rate, "mono", "fltp"
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate, frame.pts = rate, 0
    packets = [bytes(packet) for packet in (*codec.encode(frame), *codec.encode(None))]

    def descriptor(tag: int, body: bytes) -> bytes:
        return bytes((tag, 0x80, 0x80, 0x80, len(body))) + body

    def length(size: int) -> bytes:
        return bytes((0x80 | size >> 7, size & 0x7F))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">4sq", kind, len(body)) + body

    config = descriptor(4, struct.pack(">BB3xII", 0x40, 0x15, 64_000, 64_000) + descriptor(5, bytes(codec.extradata)))
    cookie = bytes(4) + descriptor(3, bytes(3) + config + descriptor(6, b"\x02"))
    table = struct.pack(">qqii", len(packets), samples.shape[1], 1024, 0) + b"".join(map(length, map(len, packets)))
    return b"".join(
        (
            struct.pack(">4sHH", b"caff", 1, 0),
            chunk(b"desc", struct.pack(">d4sIIIII", rate, b"aac ", 2, 0, 1024, 1, 0)),
            chunk(b"kuki", cookie),
            chunk(b"pakt", table),
            chunk(b"data", bytes(4) + b"".join(packets)),
        )
    )


def tone(seconds: float, rate: int, pitch: float = 220.0, channels: int = 1) -> Samples:
    """float32 (channels, samples)"""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(int(pitch)).standard_normal(time.size) * 0.01
    return np.tile((0.4 * np.sin(2 * np.pi * pitch * time) + noise).astype(np.float32), (channels, 1))


@functools.cache
def recording(kind: str = "wav", seconds: float = 1.5, pitch: float = 220.0, channels: int = 1) -> bytes:
    muxer, encoder, rate = CONTAINERS[kind]
    return encode(tone(seconds, rate, pitch, channels), muxer, encoder, rate)


def pitch_of(samples: Samples) -> float:
    """The strongest frequency in Hz, of samples at 24 kHz."""
    return float(np.argmax(np.abs(np.fft.rfft(samples)))) * 24_000 / samples.size


# ---- tags

NOT_UTF_8 = b"\xff\xfe\xe9\x80 caf\xe9"
TAGGED = ("wav", "mp3", "flac")


def tagged(kind: str) -> bytes:
    """A recording whose title is not UTF-8. kind: one of TAGGED."""
    return {"wav": _tagged_wav, "mp3": _tagged_mp3, "flac": _tagged_flac}[kind](recording(kind))


def _tagged_wav(data: bytes) -> bytes:
    """Inserts a LIST INFO chunk before the samples."""
    at = data.index(b"data")
    info = b"INFOINAM" + struct.pack("<I", len(NOT_UTF_8)) + NOT_UTF_8 + bytes(len(NOT_UTF_8) % 2)
    tagged = data[:at] + b"LIST" + struct.pack("<I", len(info)) + info + data[at:]
    return tagged[:4] + struct.pack("<I", len(tagged) - 8) + tagged[8:]


def _tagged_mp3(data: bytes) -> bytes:
    """Prepends an ID3 2.4 tag whose one frame is declared as UTF-8."""
    frame = b"TIT2" + bytes([0, 0, 0, 1 + len(NOT_UTF_8)]) + bytes(2) + b"\3" + NOT_UTF_8
    size = 10 + sum((byte & 127) << 7 * (3 - at) for at, byte in enumerate(data[6:10]))
    return b"ID3\4\0\0" + bytes([0, 0, 0, len(frame)]) + frame + (data[size:] if data[:3] == b"ID3" else data)


def _tagged_flac(data: bytes) -> bytes:
    """Replaces the encoder's VORBIS_COMMENT block by one after STREAMINFO."""
    comment = b"TITLE=" + NOT_UTF_8
    body = struct.pack("<II", 0, 1) + struct.pack("<I", len(comment)) + comment
    at, blocks, last = 4, [], False
    while not last:
        last, kind, size = bool(data[at] & 128), data[at] & 127, int.from_bytes(data[at + 1 : at + 4], "big")
        if kind != 4:
            blocks.append((kind, data[at + 4 : at + 4 + size]))
        at += 4 + size
    blocks.insert(1, (4, body))
    heads = [bytes([kind | 128 * (n == len(blocks) - 1)]) for n, (kind, _) in enumerate(blocks)]
    return (
        b"fLaC"
        + b"".join(head + len(block).to_bytes(3, "big") + block for head, (_, block) in zip(heads, blocks, strict=True))
        + data[at:]
    )
