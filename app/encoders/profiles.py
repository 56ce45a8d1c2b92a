"""How each compressed format is made, so that bytes leave with every 80 ms slice from the first."""

from __future__ import annotations

from .container import ContainerEncoder, Profile

# AAC's first packet leaves with the second frame of 1024 samples, of which the first slice is 128 short.
_AAC_LEAD_IN = 2 * 1024 - 1920

PROFILES = {
    "mp3": Profile(
        container="mp3",
        codec="libmp3lame",
        sample_format="fltp",
        bit_rate=64_000,
        # A Xing header tells a length, and tags come before the sound: neither can be known or is wanted here.
        container_options={"write_xing": "0", "id3v2_version": "0"},
        codec_options={"reservoir": "0"},
    ),
    "fmp4": Profile(
        container="mp4",
        codec="aac",
        sample_format="fltp",
        bit_rate=64_000,
        container_options={"movflags": "empty_moov+default_base_moof+frag_every_frame+skip_trailer"},
        lead_in=_AAC_LEAD_IN,
    ),
    "webm": Profile(
        container="webm",
        codec="libopus",
        sample_format="flt",
        bit_rate=48_000,
        # A cluster leaves when it is closed, so each holds one packet.
        container_options={"live": "1", "cluster_time_limit": "20"},
        codec_options={"frame_duration": "20"},
    ),
    "opus": Profile(
        container="ogg",
        codec="libopus",
        sample_format="flt",
        bit_rate=48_000,
        container_options={"page_duration": "1"},  # microseconds: a page for each packet
        codec_options={"frame_duration": "20"},
    ),
    "flac": Profile(
        container="flac",
        codec="flac",
        sample_format="s16",
        container_options={"metadata_header_padding": "0"},
        codec_options={"frame_size": "960"},  # 40 ms; by default blocks are longer than a slice
    ),
    "aac": Profile(
        container="adts",
        codec="aac",
        sample_format="fltp",
        bit_rate=64_000,
        lead_in=_AAC_LEAD_IN,
    ),
}


def make(name: str) -> ContainerEncoder:
    """An encoder for one of PROFILES."""
    return ContainerEncoder(PROFILES[name])
