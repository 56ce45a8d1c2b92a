"""What holds for every format: streamed from the first slice, whole, aligned, saturated, one header."""

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

# Samples in front of the first one, where the format has no way to tell a player of them.
UNDECLARED_DELAY = {"mp3": 1105, "aac": 1152}  # LAME's 576 and the decoder's 529; 1024 of AAC and our lead-in
PADDING = {"mp3": 2 * 576, "aac": 1024, "fmp4": 1024}  # at most, behind the last sample
# Samples that may not have left yet after any slice of whole frames.
HELD_BACK = {
    "wav": 0,
    "mp3": 4 * 576,  # LAME looks ahead, and its packets are no divisor of a slice
    "fmp4": 3 * 1024,  # a packet not full, one looked ahead to, one that overlaps with the next
    "raw_pcm": 0,
    "webm": 640 + 480,  # as opus, and a packet in the open cluster
    "opus": 640,  # a packet not full, and 6.5 ms of lookahead
    "flac": 960,
    "aac": 3 * 1024,
}
MAGIC = {"wav": b"RIFF", "fmp4": b"\0\0\0\x1cftyp", "webm": b"\x1a\x45\xdf\xa3", "opus": b"OggS", "flac": b"fLaC"}
HEADER_MARKS = {
    "wav": [b"RIFF", b"WAVEfmt "],
    "fmp4": [b"ftyp", b"moov"],
    "webm": [b"\x1a\x45\xdf\xa3", b"OpusHead"],
    "opus": [b"OpusHead", b"OpusTags"],
    "flac": [b"fLaC"],
}


def chirp(samples: int) -> Samples:
    """From 200 Hz to 4 kHz: like itself at one lag only."""
    seconds = np.arange(samples) / SAMPLE_RATE
    slope = 3800 / (samples / SAMPLE_RATE)
    return np.asarray(0.5 * np.sin(2 * np.pi * (200 * seconds + slope / 2 * seconds**2)), dtype=np.float32)


def encode(name: str, samples: Samples, cuts: list[int]) -> list[bytes]:
    """The bytes of each slice between the cuts, and those of the flush."""
    encoder = FORMATS[name].create_encoder()
    return [*(encoder.encode(piece) for piece in np.split(samples, cuts)), encoder.flush()]


def every(step: int, samples: Samples) -> list[int]:
    return list(range(step, samples.size, step))


def decode(name: str, data: bytes) -> Samples:
    """What a player hears, as float32 (samples,) at 24 kHz."""
    if name == "raw_pcm":
        return (np.frombuffer(data, "<i2") / 32768).astype(np.float32)
    resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    heard = [np.zeros(0, np.float32)]
    hint = "aac" if name == "aac" else None  # ADTS has no header: a few packets alone are not recognised
    with av.open(io.BytesIO(data), format=hint) as container:
        stream = container.streams[0]
        assert isinstance(stream, AudioStream)
        for frame in [*container.decode(stream), None]:
            heard.extend(piece.to_ndarray()[0] for piece in resampler.resample(frame))
    return np.concatenate(heard)


def lag(heard: Samples, said: Samples) -> int:
    """How many samples later it is heard than said, by cross-correlation."""
    size = heard.size + said.size
    correlation = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(said, size)), size)
    best = int(np.argmax(correlation))
    return best - size if best > size // 2 else best


@ALL
@pytest.mark.parametrize("frames", [1, 5])
def test_bytes_leave_with_every_slice(name: str, frames: int) -> None:
    said = chirp(50 * FRAME_SAMPLES)

    slices = encode(name, said, every(frames * FRAME_SAMPLES, said))[:-1]

    assert all(slices), [len(data) for data in slices]


@ALL
def test_little_is_held_back(name: str) -> None:
    said = chirp(20 * FRAME_SAMPLES)
    slices = encode(name, said, every(FRAME_SAMPLES, said))

    for given_frames in range(2, 20):
        heard = decode(name, b"".join(slices[:given_frames]))
        audible = heard.size - UNDECLARED_DELAY.get(name, 0)
        assert audible >= given_frames * FRAME_SAMPLES - HELD_BACK[name]


@ALL
@pytest.mark.parametrize("samples", [480, 1919, 1920, 1921, 2 * SAMPLE_RATE + 123])
def test_the_whole_is_as_long_as_the_audio(name: str, samples: int) -> None:
    said = chirp(samples)

    heard = decode(name, b"".join(encode(name, said, every(FRAME_SAMPLES, said))))

    extra = heard.size - said.size - UNDECLARED_DELAY.get(name, 0)
    assert 0 <= extra <= PADDING.get(name, 0)


@ALL
@pytest.mark.parametrize("samples", [1, 7, 100])
def test_less_than_a_packet_is_still_a_file(name: str, samples: int) -> None:
    heard = decode(name, b"".join(encode(name, chirp(samples), [])))

    assert heard.size <= samples + UNDECLARED_DELAY.get(name, 0) + max(PADDING.get(name, 0), 480)


@ALL
@pytest.mark.parametrize("step", [FRAME_SAMPLES, 5 * FRAME_SAMPLES, 1777])
def test_the_signal_is_kept_from_head_to_tail(name: str, step: int) -> None:
    said = chirp(2 * SAMPLE_RATE + 123)

    heard = decode(name, b"".join(encode(name, said, every(step, said))))

    delay = lag(heard, said)
    assert abs(delay - UNDECLARED_DELAY.get(name, 0)) <= 2
    aligned = heard[delay : delay + said.size]
    for part in (slice(None), slice(0, 960), slice(-960, None)):
        assert np.corrcoef(aligned[part], said[part])[0, 1] > 0.95


@ALL
def test_only_the_first_bytes_hold_a_header(name: str) -> None:
    said = chirp(10 * FRAME_SAMPLES)

    slices = encode(name, said, every(FRAME_SAMPLES, said))

    assert slices[0].startswith(MAGIC.get(name, b""))
    for mark in HEADER_MARKS.get(name, []):
        assert b"".join(slices).count(mark) == 1
    assert not any(tag in b"".join(slices) for tag in (b"ID3", b"Xing", b"Info"))


@ALL
def test_an_answer_without_audio_is_still_one_file(name: str) -> None:
    data = FORMATS[name].create_encoder().flush()

    assert data.startswith(MAGIC.get(name, b""))
    for mark in HEADER_MARKS.get(name, []):
        assert data.count(mark) == 1


@ALL
def test_an_empty_slice_changes_nothing(name: str) -> None:
    said = chirp(5 * FRAME_SAMPLES)
    cuts = every(FRAME_SAMPLES, said)

    assert encode(name, said, [*cuts, said.size])[-2] == b""
    assert b"".join(encode(name, said, [*cuts, said.size])) == b"".join(encode(name, said, cuts))
    assert np.array_equal(
        decode(name, b"".join(encode(name, said, [0, *cuts]))), decode(name, b"".join(encode(name, said, cuts)))
    )


@ALL
def test_too_loud_is_saturated(name: str) -> None:
    said = chirp(5 * FRAME_SAMPLES)
    loud, saturated = 20 * said, np.clip(20 * said, -1, 1)

    assert encode(name, loud, [FRAME_SAMPLES]) == encode(name, saturated, [FRAME_SAMPLES])


@ALL
def test_values_that_are_no_numbers_are_saturated_or_silent(name: str) -> None:
    said = chirp(5 * FRAME_SAMPLES)
    broken, mended = said.copy(), said.copy()
    for place, (value, replacement) in enumerate([(np.nan, 0), (np.inf, 1), (-np.inf, -1)]):
        broken[1000 * place :: 3000], mended[1000 * place :: 3000] = value, replacement

    assert encode(name, broken, [FRAME_SAMPLES]) == encode(name, mended, [FRAME_SAMPLES])


@ALL
def test_the_callers_samples_are_left_alone(name: str) -> None:
    said = 20 * chirp(FRAME_SAMPLES)
    before = said.copy()
    said.setflags(write=False)

    encode(name, said, [])

    assert np.array_equal(said, before)


@ALL
@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 12_345), max_size=30).map(sorted))
def test_slices_of_any_size_make_the_same_audio(name: str, cuts: list[int]) -> None:
    said = chirp(12_345)

    sliced = decode(name, b"".join(encode(name, said, cuts)))

    assert np.array_equal(sliced, decode(name, b"".join(encode(name, said, []))))


@ALL
def test_an_encoder_may_move_from_thread_to_thread(name: str) -> None:
    said = chirp(10 * FRAME_SAMPLES)
    pieces = np.split(said, every(FRAME_SAMPLES, said))

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        encoder = one.submit(FORMATS[name].create_encoder).result(60)
        moved = [
            thread.submit(encoder.encode, piece).result(60)
            for thread, piece in zip([one, other] * 5, pieces, strict=True)
        ]
        moved.append(other.submit(encoder.flush).result(60))

    assert moved == encode(name, said, every(FRAME_SAMPLES, said))


@ALL
def test_encoders_share_nothing(name: str) -> None:
    said, other = chirp(6 * FRAME_SAMPLES), -0.3 * chirp(6 * FRAME_SAMPLES)
    first, second = FORMATS[name].create_encoder(), FORMATS[name].create_encoder()
    data = b""
    for piece, other_piece in zip(np.split(said, 6), np.split(other, 6), strict=True):
        data += first.encode(piece)
        second.encode(other_piece)

    assert data + first.flush() == b"".join(encode(name, said, every(FRAME_SAMPLES, said)))


@ALL
def test_an_encoder_may_be_dropped_midway(name: str) -> None:
    encoder = FORMATS[name].create_encoder()
    encoder.encode(chirp(3000))
    del encoder  # whatever its destructor raised would fail this test as a warning


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


def test_names_and_media_types_are_the_contracts() -> None:
    assert {name: each.media_type for name, each in FORMATS.items()} == {
        "wav": "audio/wav",
        "mp3": "audio/mpeg",
        "fmp4": "audio/mp4",
        "raw_pcm": "audio/pcm;rate=24000;channels=1;format=s16le",
        "webm": "audio/webm",
        "opus": "audio/ogg",
        "flac": "audio/flac",
        "aac": "audio/aac",
    }
    assert all(name == each.name for name, each in FORMATS.items())
    assert len({each.extension for each in FORMATS.values()}) == len(FORMATS)
