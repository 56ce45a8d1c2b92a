"""Parses the boxes of fragmented MP4 as ISO/IEC 14496-12 defines them."""

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
    """(type, body) of each box in data."""
    while data:
        size, kind = struct.unpack_from(">I4s", data)
        assert 8 <= size <= len(data)
        yield kind, data[8:size]
        data = data[size:]


def find_box(data: bytes, *path: bytes) -> bytes:
    for kind in path:
        data = dict(boxes(data))[kind]
    return data


def fragments(data: bytes) -> Iterator[Fragment]:
    """The fragments after ftyp and moov."""
    top = list(boxes(data))
    assert [kind for kind, _ in top[:2]] == [b"ftyp", b"moov"]
    for (moof_kind, moof), (mdat_kind, mdat) in zip(top[2::2], top[3::2], strict=True):
        assert (moof_kind, mdat_kind) == (b"moof", b"mdat")
        count, data_offset = struct.unpack_from(">Ii", find_box(moof, b"traf", b"trun"), 4)
        table = struct.unpack_from(f">{2 * count}I", find_box(moof, b"traf", b"trun"), 12)
        yield Fragment(
            sequence=struct.unpack_from(">I", find_box(moof, b"mfhd"), 4)[0],
            start=struct.unpack_from(">Q", find_box(moof, b"traf", b"tfdt"), 4)[0],
            durations=list(table[::2]),
            sizes=list(table[1::2]),
            data_offset=data_offset,
            moof_bytes=8 + len(moof),
            mdat_bytes=len(mdat),
        )


def encode(samples: int, step: int) -> list[bytes]:
    audio = np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)
    encoder = Fmp4Encoder()
    return [*(encoder.encode(audio[start : start + step]) for start in range(0, samples, step)), encoder.flush()]


@pytest.mark.parametrize("samples", [0, 1, 896, 897, 1920, 10_000, 48_123])
def test_total_duration_equals_the_audio_to_the_sample(samples: int) -> None:
    data = b"".join(encode(samples, 1920))

    skipped = struct.unpack_from(">I", find_box(data, b"moov", b"trak", b"edts", b"elst"), 12)[0]
    assert skipped == PRIMING_SAMPLES + LEAD_IN_SAMPLES
    assert sum(sum(fragment.durations) for fragment in fragments(data)) - skipped == samples
    assert all(0 < duration <= 1024 for fragment in fragments(data) for duration in fragment.durations)


def test_fragments_are_contiguous() -> None:
    end = 0
    for sequence, fragment in enumerate(fragments(b"".join(encode(48_123, 5 * 1920))), start=1):
        assert fragment.sequence == sequence
        assert fragment.start == end
        end += sum(fragment.durations)


def test_packet_offsets_and_sizes_match_the_mdat() -> None:
    for fragment in fragments(b"".join(encode(48_123, 1777))):
        assert fragment.data_offset == fragment.moof_bytes + 8
        assert sum(fragment.sizes) == fragment.mdat_bytes


def test_every_slice_yields_a_fragment() -> None:
    slices = encode(20 * 1920, 1920)

    assert [kind for kind, _ in boxes(slices[0])] == [b"ftyp", b"moov", b"moof", b"mdat"]
    for data in slices[1:]:
        assert [kind for kind, _ in boxes(data)] == [b"moof", b"mdat"]


def test_the_audio_specific_config() -> None:
    config = find_box(encode(1920, 1920)[0], b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")

    object_type, frequency_index, channels = config_fields(config)
    assert (object_type, frequency_index, channels) == (2, 6, 1)  # AAC-LC (mp4a.40.2), 24 kHz, mono


def config_fields(stsd: bytes) -> tuple[int, int, int]:
    """The first 13 bits of the AudioSpecificConfig in the esds box (ISO/IEC 14496-3, 1.6.2.1)."""
    mp4a = find_box(stsd[8:], b"mp4a")
    esds = find_box(mp4a[28:], b"esds")
    offset = 4 + 2 + 3 + 2 + 13  # version, ES_Descriptor, its fields, DecoderConfigDescriptor, its fields
    tag, length = esds[offset], esds[offset + 1]
    assert (tag, length >= 2) == (5, True)
    bits = int.from_bytes(esds[offset + 2 : offset + 4], "big")
    return bits >> 11, bits >> 7 & 0xF, bits >> 3 & 0xF
