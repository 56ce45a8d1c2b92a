"""Boxes of a fragmented MP4 file with one AAC track (ISO/IEC 14496-12 and -14).

FFmpeg's muxer writes a fragment only after the packet that follows it, to learn its duration. All AAC packets have the
same duration, so that delay of half a slice is unnecessary: these boxes are written here instead.
All sizes and fields are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

_TRACK = 1
_IDENTITY = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)  # the identity matrix
_UNDETERMINED = 0x55C4  # the language "und", five bits a letter
_SYNC_SAMPLE = 0x02000000  # depends on no other sample


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _full_box(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags), *parts)


def _descriptor(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">BB", tag, len(body)) + body  # the length takes one byte: all are below 128


def _elementary_stream(audio_config: bytes, bit_rate: int) -> bytes:
    """The esds box: MPEG-4 audio (0x40) as an audio stream (0x15), and the decoder's configuration."""
    config = _descriptor(4, struct.pack(">BB3xII", 0x40, 0x15, bit_rate, bit_rate), _descriptor(5, audio_config))
    return _full_box(b"esds", 0, 0, _descriptor(3, struct.pack(">HB", _TRACK, 0), config, _descriptor(6, b"\x02")))


def _sample_table(audio_config: bytes, sample_rate: int, bit_rate: int) -> bytes:
    """The stbl box: codec parameters, and empty sample tables, since the samples are in fragments."""
    mono, bits = 1, 16
    entry = struct.pack(">6xH8xHH4xI", 1, mono, bits, sample_rate << 16) + _elementary_stream(audio_config, bit_rate)
    return _box(
        b"stbl",
        _full_box(b"stsd", 0, 0, struct.pack(">I", 1), _box(b"mp4a", entry)),
        _full_box(b"stts", 0, 0, bytes(4)),
        _full_box(b"stsc", 0, 0, bytes(4)),
        _full_box(b"stsz", 0, 0, bytes(8)),
        _full_box(b"stco", 0, 0, bytes(4)),
    )


def header(audio_config: bytes, *, sample_rate: int, packet_samples: int, skip: int, bit_rate: int) -> bytes:
    """The ftyp and moov boxes in front of the first fragment; the duration is unknown.

    audio_config: the codec's AudioSpecificConfig.
    skip: number of decoded samples that the edit list removes from the start.
    """
    movie = struct.pack(">4I", 0, 0, sample_rate, 0) + struct.pack(">IH10x", 0x10000, 0x100) + _IDENTITY
    track = struct.pack(">5I", 0, 0, _TRACK, 0, 0) + struct.pack(">8xHHH2x", 0, 0, 0x100) + _IDENTITY + bytes(8)
    media = _box(
        b"mdia",
        _full_box(b"mdhd", 0, 0, struct.pack(">4IH2x", 0, 0, sample_rate, 0, _UNDETERMINED)),
        _full_box(b"hdlr", 0, 0, struct.pack(">4x4s12x", b"soun"), b"sound\0"),
        _box(
            b"minf",
            _full_box(b"smhd", 0, 0, bytes(4)),
            _box(b"dinf", _full_box(b"dref", 0, 0, struct.pack(">I", 1), _full_box(b"url ", 0, 1))),
            _sample_table(audio_config, sample_rate, bit_rate),
        ),
    )
    edit = struct.pack(">3IHH", 1, 0, skip, 1, 0)  # one edit, of the whole track (0), at normal speed
    return _box(b"ftyp", b"iso5", struct.pack(">I", 512), b"iso5iso6mp41") + _box(
        b"moov",
        _full_box(b"mvhd", 0, 0, movie, bytes(24), struct.pack(">I", _TRACK + 1)),
        _box(b"trak", _full_box(b"tkhd", 0, 3, track), _box(b"edts", _full_box(b"elst", 0, 0, edit)), media),
        _box(b"mvex", _full_box(b"trex", 0, 0, struct.pack(">5I", _TRACK, 1, packet_samples, 0, _SYNC_SAMPLE))),
    )


def fragment(sequence: int, start: int, packets: Sequence[bytes], durations: Sequence[int]) -> bytes:
    """A moof box and its mdat box.

    sequence: number of the fragment, from 1.
    start: samples in all previous packets.
    durations: of each packet, in samples.
    """
    base_is_moof, offset_duration_size = 0x020000, 0x000301
    table = b"".join(struct.pack(">II", n, len(packet)) for n, packet in zip(durations, packets, strict=True))

    def moof(data_offset: int) -> bytes:
        run = struct.pack(">Ii", len(packets), data_offset) + table
        return _box(
            b"moof",
            _full_box(b"mfhd", 0, 0, struct.pack(">I", sequence)),
            _box(
                b"traf",
                _full_box(b"tfhd", 0, base_is_moof, struct.pack(">I", _TRACK)),
                _full_box(b"tfdt", 1, 0, struct.pack(">Q", start)),
                _full_box(b"trun", 0, offset_duration_size, run),
            ),
        )

    return moof(data_offset=len(moof(0)) + 8) + _box(b"mdat", *packets)
