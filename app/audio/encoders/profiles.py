"""How each format that FFmpeg muxes is made, so that bytes leave with every 80 ms slice from the first."""

from __future__ import annotations

from .container import Profile
from .fmp4 import BIT_RATE as AAC_BIT_RATE
from .fmp4 import LEAD_IN_SAMPLES as AAC_LEAD_IN_SAMPLES

# Complexity 5 of 10 costs two thirds of the CPU, and above it libopus guesses at music and speech and switches modes.
_OPUS = {"frame_duration": "20", "compression_level": "5"}

PROFILES = {
    "mp3": Profile(
        container="mp3",
        codec="libmp3lame",
        sample_format="fltp",
        bit_rate=64_000,
        # A Xing header tells a length that is not known yet. ID3 tags have nothing to say.
        container_options={"write_xing": "0", "id3v2_version": "0"},
        # No reservoir: a packet needs no later one. Quality 7 of 9 halves the CPU and loses nothing at this bit rate.
        codec_options={"reservoir": "0", "compression_level": "7"},
    ),
    "webm": Profile(
        container="webm",
        codec="libopus",
        sample_format="flt",
        bit_rate=48_000,
        # A cluster leaves once it is full, so each holds one packet.
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
        container_options={"metadata_header_padding": "0"},  # else 8 KiB of nothing
        codec_options={"frame_size": "960"},  # 40 ms; by default blocks are longer than a slice
    ),
    "aac": Profile(
        container="adts",
        codec="aac",
        sample_format="fltp",
        bit_rate=AAC_BIT_RATE,
        lead_in=AAC_LEAD_IN_SAMPLES,
    ),
}
