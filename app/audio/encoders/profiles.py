"""Encoder settings of the formats that FFmpeg muxes, chosen so that every 80 ms slice yields bytes."""

from __future__ import annotations

from .container import Profile
from .fmp4 import BIT_RATE as AAC_BIT_RATE
from .fmp4 import LEAD_IN_SAMPLES as AAC_LEAD_IN_SAMPLES
from .fmp4 import MAX_BITS as AAC_MAX_BITS

# Complexity 5 of 10 takes two thirds of the CPU time; above it, libopus classifies music and speech and switches modes.
_OPUS = {"frame_duration": "20", "compression_level": "5"}

PROFILES = {
    "mp3": Profile(
        container="mp3",
        codec="libmp3lame",
        sample_format="fltp",
        bit_rate=64_000,
        # A Xing header holds the length, which is unknown; ID3 tags would be empty.
        container_options={"write_xing": "0", "id3v2_version": "0"},
        # No bit reservoir: no packet needs a later one. Quality 7 of 9 halves the CPU time at no loss at this bit rate.
        codec_options={"reservoir": "0", "compression_level": "7"},
    ),
    "webm": Profile(
        container="webm",
        codec="libopus",
        sample_format="flt",
        bit_rate=48_000,
        # A cluster is written once it is full, so each holds one packet.
        container_options={"live": "1", "cluster_time_limit": "20"},
        codec_options=_OPUS,
    ),
    "opus": Profile(
        container="ogg",
        codec="libopus",
        sample_format="flt",
        bit_rate=48_000,
        container_options={"page_duration": "1"},  # in microseconds: a page for each packet
        codec_options=_OPUS,
    ),
    "flac": Profile(
        container="flac",
        codec="flac",
        sample_format="s16",
        container_options={"metadata_header_padding": "0"},  # the default is 8 KiB
        codec_options={"frame_size": "960"},  # 40 ms; default blocks are longer than a slice
    ),
    "aac": Profile(
        container="adts",
        codec="aac",
        sample_format="fltp",
        bit_rate=AAC_BIT_RATE,
        lead_in=AAC_LEAD_IN_SAMPLES,
        max_bits=AAC_MAX_BITS,
    ),
}
