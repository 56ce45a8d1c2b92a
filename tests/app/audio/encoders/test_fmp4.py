"""The boxes, read back as ISO/IEC 14496-12 says."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from app.audio.encoders.fmp4 import LEAD_IN_SAMPLES, PRIMING_SAMPLES, Fmp4Encoder


@dataclass(frozen=True)
class Fragment:
    sequence: int
    start: int  # baseMediaDecodeTime
    durations: list[int]
    sizes: list[int]
    data_offset: int  # from the start of the moof
    moof_bytes: int
    mdat_bytes: int


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, body) of the boxes that data consists of, to its last byte."""
    while data:
        size, kind = struct.unpack_from(">I4s", data)
        assert 8 <= size <= len(data)
        yield kind, data[8:size]
        data = data[size:]


def inside(data: bytes, *path: bytes) -> bytes:
    for kind in path:
        data = dict(boxes(data))[kind]
    return data


def fragments(data: bytes) -> Iterator[Fragment]:
    """What stands behind ftyp and moov."""
    top = list(boxes(data))
    assert [kind for kind, _ in top[:2]] == [b"ftyp", b"moov"]
    for (moof_kind, moof), (mdat_kind, mdat) in zip(top[2::2], top[3::2], strict=True):
        assert (moof_kind, mdat_kind) == (b"moof", b"mdat")
        count, data_offset = struct.unpack_from(">Ii", inside(moof, b"traf", b"trun"), 4)
        table = struct.unpack_from(f">{2 * count}I", inside(moof, b"traf", b"trun"), 12)
        yield Fragment(
            sequence=struct.unpack_from(">I", inside(moof, b"mfhd"), 4)[0],
            start=struct.unpack_from(">Q", inside(moof, b"traf", b"tfdt"), 4)[0],
            durations=list(table[::2]),
            sizes=list(table[1::2]),
            data_offset=data_offset,
            moof_bytes=8 + len(moof),
            mdat_bytes=len(mdat),
        )


def encode(samples: int, step: int) -> list[bytes]:
    said = np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)
    encoder = Fmp4Encoder()
    return [*(encoder.encode(said[start : start + step]) for start in range(0, samples, step)), encoder.flush()]


@pytest.mark.parametrize("samples", [0, 1, 896, 897, 1920, 10_000, 48_123])
def test_the_timeline_is_as_long_as_the_audio_to_the_sample(samples: int) -> None:
    data = b"".join(encode(samples, 1920))

    skipped = struct.unpack_from(">I", inside(data, b"moov", b"trak", b"edts", b"elst"), 12)[0]
    assert skipped == PRIMING_SAMPLES + LEAD_IN_SAMPLES
    assert sum(sum(fragment.durations) for fragment in fragments(data)) - skipped == samples
    assert all(0 < duration <= 1024 for fragment in fragments(data) for duration in fragment.durations)


def test_fragments_follow_one_another_without_a_gap() -> None:
    reached = 0
    for sequence, fragment in enumerate(fragments(b"".join(encode(48_123, 5 * 1920))), start=1):
        assert fragment.sequence == sequence
        assert fragment.start == reached
        reached += sum(fragment.durations)


def test_every_packet_lies_where_its_fragment_says() -> None:
    for fragment in fragments(b"".join(encode(48_123, 1777))):
        assert fragment.data_offset == fragment.moof_bytes + 8
        assert sum(fragment.sizes) == fragment.mdat_bytes


def test_every_slice_from_the_first_is_a_fragment() -> None:
    slices = encode(20 * 1920, 1920)

    assert [kind for kind, _ in boxes(slices[0])] == [b"ftyp", b"moov", b"moof", b"mdat"]
    for data in slices[1:]:
        assert [kind for kind, _ in boxes(data)] == [b"moof", b"mdat"]


def test_a_decoder_learns_what_it_needs() -> None:
    config = inside(encode(1920, 1920)[0], b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")

    object_type, frequency_index, channels = config_fields(config)
    assert (object_type, frequency_index, channels) == (2, 6, 1)  # AAC-LC (mp4a.40.2), 24 kHz, mono


def config_fields(stsd: bytes) -> tuple[int, int, int]:
    """The first 13 bits of the AudioSpecificConfig in the esds box (ISO/IEC 14496-3, 1.6.2.1)."""
    mp4a = inside(stsd[8:], b"mp4a")
    esds = inside(mp4a[28:], b"esds")
    at = 4 + 2 + 3 + 2 + 13  # version, ES_Descriptor, its fields, DecoderConfigDescriptor, its fields
    tag, length = esds[at], esds[at + 1]
    assert (tag, length >= 2) == (5, True)
    bits = int.from_bytes(esds[at + 2 : at + 4], "big")
    return bits >> 11, bits >> 7 & 0xF, bits >> 3 & 0xF
