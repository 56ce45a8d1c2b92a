"""Invariants of every format: streamed from the first slice, complete, aligned, saturated, one header."""

from __future__ import annotations

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from hypothesis import given, settings
from hypothesis import strategies as st

from app.audio.encoders import FORMATS
from engine import FRAME_SAMPLES, SAMPLE_RATE

Samples = npt.NDArray[np.float32]

ALL = pytest.mark.parametrize("name", FORMATS)

# Codec delay in samples, for formats that cannot declare it to players.
G711 = ("mulaw", "alaw", "wav_mulaw", "wav_alaw")  # at 8 kHz

UNDECLARED_DELAY = {"mp3": 1105, "aac": 1152}  # LAME's 576 and the decoder's 529; 1024 of AAC and our lead-in
PADDING = {
    "mp3": 2 * 576,
    "aac": 1024,
    "fmp4": 1024,
    **dict.fromkeys(G711, 2),
}  # maximum number of samples after the last one
# Maximum number of samples that are still buffered after any slice of whole frames.
MAX_BUFFERED = {
    "wav": 0,
    "mp3": 4 * 576,  # LAME's lookahead; a slice is not a multiple of its packets
    "fmp4": 3 * 1024,  # an incomplete packet, one of lookahead, one that overlaps the next
    "raw_pcm": 0,
    "webm": 640 + 480,  # as opus, plus a packet in the open cluster
    "opus": 640,  # an incomplete packet, and 6.5 ms of lookahead
    "flac": 960,
    "aac": 3 * 1024,
    **dict.fromkeys(G711, 240),  # the resampler's filter
}
MAGIC = {"wav": b"RIFF", "fmp4": b"\0\0\0\x1cftyp", "webm": b"\x1a\x45\xdf\xa3", "opus": b"OggS", "flac": b"fLaC"}
MAGIC |= {"wav_mulaw": b"RIFF", "wav_alaw": b"RIFF"}
HEADER_MARKERS = {
    "wav": [b"RIFF", b"WAVEfmt "],
    "fmp4": [b"ftyp", b"moov"],
    "webm": [b"\x1a\x45\xdf\xa3", b"OpusHead"],
    "opus": [b"OpusHead", b"OpusTags"],
    "flac": [b"fLaC"],
    "wav_mulaw": [b"RIFF", b"WAVEfmt ", b"fact"],
    "wav_alaw": [b"RIFF", b"WAVEfmt ", b"fact"],
}


def chirp(samples: int) -> Samples:
    """A sweep from 200 Hz to 3.4 kHz, whose autocorrelation has a single peak."""
    seconds = np.arange(samples) / SAMPLE_RATE
    slope = 3200 / (samples / SAMPLE_RATE)
    return np.asarray(0.5 * np.sin(2 * np.pi * (200 * seconds + slope / 2 * seconds**2)), dtype=np.float32)


def encode(name: str, samples: Samples, cuts: list[int]) -> list[bytes]:
    """The bytes of each slice, split at the cuts, and those of flush."""
    encoder = FORMATS[name].create_encoder()
    return [*(encoder.encode(piece) for piece in np.split(samples, cuts)), encoder.flush()]


def cuts_every(step: int, samples: Samples) -> list[int]:
    return list(range(step, samples.size, step))


def decode(name: str, data: bytes) -> Samples:
    """The decoded audio, as float32 (samples,) at 24 kHz."""
    if name == "raw_pcm":
        return (np.frombuffer(data, "<i2") / 32768).astype(np.float32)
    resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    decoded = [np.zeros(0, np.float32)]
    # ADTS and G.711 have no header that is recognised.
    hint = name if name in ("aac", "mulaw", "alaw") else None
    options = {"sample_rate": "8000"} if name in ("mulaw", "alaw") else {}
    with av.open(io.BytesIO(data), format=hint, options=options) as container:
        stream = container.streams[0]
        assert isinstance(stream, AudioStream)
        for frame in [*container.decode(stream), None]:
            decoded.extend(piece.to_ndarray()[0] for piece in resampler.resample(frame))
    return np.concatenate(decoded)


def lag(decoded: Samples, audio: Samples) -> int:
    """The delay of the decoded audio in samples, by cross-correlation."""
    size = decoded.size + audio.size
    correlation = np.fft.irfft(np.fft.rfft(decoded, size) * np.conj(np.fft.rfft(audio, size)), size)
    best = int(np.argmax(correlation))
    return best - size if best > size // 2 else best


@ALL
@pytest.mark.parametrize("frames", [1, 5])
def test_every_slice_yields_bytes(name: str, frames: int) -> None:
    audio = chirp(50 * FRAME_SAMPLES)

    slices = encode(name, audio, cuts_every(frames * FRAME_SAMPLES, audio))[:-1]

    assert all(slices), [len(data) for data in slices]


@ALL
def test_delay_is_bounded(name: str) -> None:
    audio = chirp(20 * FRAME_SAMPLES)
    slices = encode(name, audio, cuts_every(FRAME_SAMPLES, audio))

    for frames in range(2, 20):
        decoded = decode(name, b"".join(slices[:frames]))
        audible = decoded.size - UNDECLARED_DELAY.get(name, 0)
        assert audible >= frames * FRAME_SAMPLES - MAX_BUFFERED[name]


@ALL
@pytest.mark.parametrize("samples", [480, 1919, 1920, 1921, 2 * SAMPLE_RATE + 123])
def test_decoded_length_equals_the_audio(name: str, samples: int) -> None:
    audio = chirp(samples)

    decoded = decode(name, b"".join(encode(name, audio, cuts_every(FRAME_SAMPLES, audio))))

    extra = decoded.size - audio.size - UNDECLARED_DELAY.get(name, 0)
    shortest = -2 if name in G711 else 0  # a sample at 8 kHz is three at 24 kHz
    assert shortest <= extra <= PADDING.get(name, 0)


@ALL
@pytest.mark.parametrize("samples", [1, 7, 100])
def test_audio_shorter_than_a_packet_is_a_valid_file(name: str, samples: int) -> None:
    decoded = decode(name, b"".join(encode(name, chirp(samples), [])))

    assert decoded.size <= samples + UNDECLARED_DELAY.get(name, 0) + max(PADDING.get(name, 0), 480)


@ALL
@pytest.mark.parametrize("step", [FRAME_SAMPLES, 5 * FRAME_SAMPLES, 1777])
def test_the_signal_is_preserved_from_start_to_end(name: str, step: int) -> None:
    audio = chirp(2 * SAMPLE_RATE + 123)

    decoded = decode(name, b"".join(encode(name, audio, cuts_every(step, audio))))

    delay = lag(decoded, audio)
    assert abs(delay - UNDECLARED_DELAY.get(name, 0)) <= 2
    aligned = decoded[delay : delay + audio.size]
    for part in (slice(None), slice(0, 960), slice(-960, None)):
        assert np.corrcoef(aligned[part], audio[part])[0, 1] > 0.95


@ALL
def test_the_header_is_sent_once_and_first(name: str) -> None:
    audio = chirp(10 * FRAME_SAMPLES)

    slices = encode(name, audio, cuts_every(FRAME_SAMPLES, audio))

    assert slices[0].startswith(MAGIC.get(name, b""))
    for marker in HEADER_MARKERS.get(name, []):
        assert b"".join(slices).count(marker) == 1
    assert not any(tag in b"".join(slices) for tag in (b"ID3", b"Xing", b"Info"))


@ALL
def test_a_response_without_audio_is_a_valid_file(name: str) -> None:
    data = FORMATS[name].create_encoder().flush()

    assert data.startswith(MAGIC.get(name, b""))
    for marker in HEADER_MARKERS.get(name, []):
        assert data.count(marker) == 1


@ALL
def test_an_empty_slice_is_ignored(name: str) -> None:
    audio = chirp(5 * FRAME_SAMPLES)
    cuts = cuts_every(FRAME_SAMPLES, audio)

    assert encode(name, audio, [*cuts, audio.size])[-2] == b""
    assert b"".join(encode(name, audio, [*cuts, audio.size])) == b"".join(encode(name, audio, cuts))
    assert np.array_equal(
        decode(name, b"".join(encode(name, audio, [0, *cuts]))), decode(name, b"".join(encode(name, audio, cuts)))
    )


@ALL
def test_loud_samples_saturate(name: str) -> None:
    audio = chirp(5 * FRAME_SAMPLES)
    loud, saturated = 20 * audio, np.clip(20 * audio, -1, 1)

    assert encode(name, loud, [FRAME_SAMPLES]) == encode(name, saturated, [FRAME_SAMPLES])


@ALL
def test_infinities_saturate_and_nan_is_silent(name: str) -> None:
    audio = chirp(5 * FRAME_SAMPLES)
    broken, expected = audio.copy(), audio.copy()
    for position, (value, replacement) in enumerate([(np.nan, 0), (np.inf, 1), (-np.inf, -1)]):
        broken[1000 * position :: 3000], expected[1000 * position :: 3000] = value, replacement

    assert encode(name, broken, [FRAME_SAMPLES]) == encode(name, expected, [FRAME_SAMPLES])


@ALL
def test_the_input_array_is_not_modified(name: str) -> None:
    audio = 20 * chirp(FRAME_SAMPLES)
    before = audio.copy()
    audio.setflags(write=False)

    encode(name, audio, [])

    assert np.array_equal(audio, before)


@ALL
@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 12_345), max_size=30).map(sorted))
def test_the_audio_does_not_depend_on_slice_sizes(name: str, cuts: list[int]) -> None:
    audio = chirp(12_345)

    sliced = decode(name, b"".join(encode(name, audio, cuts)))

    assert np.array_equal(sliced, decode(name, b"".join(encode(name, audio, []))))


@ALL
def test_an_encoder_may_be_called_from_several_threads(name: str) -> None:
    audio = chirp(10 * FRAME_SAMPLES)
    pieces = np.split(audio, cuts_every(FRAME_SAMPLES, audio))

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        encoder = one.submit(FORMATS[name].create_encoder).result(60)
        moved = [
            thread.submit(encoder.encode, piece).result(60)
            for thread, piece in zip([one, other] * 5, pieces, strict=True)
        ]
        moved.append(other.submit(encoder.flush).result(60))

    assert moved == encode(name, audio, cuts_every(FRAME_SAMPLES, audio))


@ALL
def test_encoders_share_no_state(name: str) -> None:
    audio, other = chirp(6 * FRAME_SAMPLES), -0.3 * chirp(6 * FRAME_SAMPLES)
    first, second = FORMATS[name].create_encoder(), FORMATS[name].create_encoder()
    data = b""
    for piece, other_piece in zip(np.split(audio, 6), np.split(other, 6), strict=True):
        data += first.encode(piece)
        second.encode(other_piece)

    assert data + first.flush() == b"".join(encode(name, audio, cuts_every(FRAME_SAMPLES, audio)))


@ALL
def test_an_encoder_may_be_dropped_without_flush(name: str) -> None:
    encoder = FORMATS[name].create_encoder()
    encoder.encode(chirp(3000))
    del encoder  # an exception in its destructor is a warning, and fails the test


def test_only_compressed_formats_import_pyav() -> None:
    script = (
        "import sys, numpy as np\n"
        "from app.audio.encoders import FORMATS, choose_format, wav_file\n"
        "choose_format(None, 'audio/mpeg')\n"
        "for name in ('wav', 'raw_pcm'):\n"
        "    FORMATS[name].create_encoder().encode(np.zeros(10, np.float32))\n"
        "assert 'av' not in sys.modules\n"
        "FORMATS['mp3'].create_encoder()\n"
        "assert 'av' in sys.modules\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_names_and_media_types() -> None:
    assert {name: each.media_type for name, each in FORMATS.items()} == {
        "wav": "audio/wav",
        "mp3": "audio/mpeg",
        "fmp4": "audio/mp4",
        "raw_pcm": "audio/pcm;rate=24000;channels=1;format=s16le",
        "webm": "audio/webm",
        "opus": "audio/ogg",
        "flac": "audio/flac",
        "aac": "audio/aac",
        "mulaw": "audio/pcmu;rate=8000;channels=1",
        "alaw": "audio/pcma;rate=8000;channels=1",
        "wav_mulaw": "audio/wav",
        "wav_alaw": "audio/wav",
    }
    assert all(name == each.name for name, each in FORMATS.items())
    assert len({each.extension for name, each in FORMATS.items() if "wav_" not in name}) == len(FORMATS) - 2
    assert {name for name, each in FORMATS.items() if each.sample_rate != SAMPLE_RATE} == set(G711)
