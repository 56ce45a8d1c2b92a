from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.pool.delivered_audio import DeliveredAudio, SpeechDiffers
from engine import FRAME_SAMPLES, AudioChunk
from engine.timing import TextTiming

FRAMES, CODEBOOKS = 12, 4
SAMPLES = np.random.default_rng(0).standard_normal(FRAMES * FRAME_SAMPLES).astype(np.float32)
CODES = np.random.default_rng(1).integers(0, 2048, (FRAMES, CODEBOOKS))


def speech(*ends: int, codebooks: int = CODEBOOKS) -> list[AudioChunk]:
    """The same twelve frames in chunks that end after these frames; the first eight are a text chunk of their own.

    Each text chunk is timed on the chunk that ends it.
    """
    begins = {8: 0, FRAMES: 8}
    return [
        AudioChunk(
            SAMPLES[start * FRAME_SAMPLES : end * FRAME_SAMPLES],
            CODES[start:end, :codebooks],
            text_chunk=int(end > 8),
            ends_text_chunk=end in (8, FRAMES),
            ends_speech=end == FRAMES,
            timings=tuple(
                TextTiming((), (begin - start) * FRAME_SAMPLES, (end - start) * FRAME_SAMPLES)
                for last, begin in begins.items()
                if end == last
            ),
        )
        for start, end in zip((0, *ends[:-1]), ends, strict=True)
    ]


@pytest.mark.parametrize("codebooks", [CODEBOOKS, 0])
@pytest.mark.parametrize("again", [(8, 12), (1, 2, 4, 8, 12), (5, 8, 10, 12)])
@pytest.mark.parametrize("delivered", [1, 2, 3, 4])
def test_a_speech_goes_on_at_the_sample_whatever_its_chunks(
    delivered: int, again: tuple[int, ...], codebooks: int
) -> None:
    chunks = speech(1, 3, 8, 9, 12, codebooks=codebooks)[:delivered]
    audio = DeliveredAudio()
    for chunk in chunks:
        audio.add(chunk)
    replay = audio.replay()
    rest = [new for chunk in speech(*again, codebooks=codebooks) if (new := replay.skip(chunk)) is not None]
    assert replay.done()
    assert np.array_equal(np.concatenate([each.samples for each in (*chunks, *rest)]), SAMPLES)
    assert np.array_equal(np.concatenate([each.codes for each in (*chunks, *rest)]), CODES[:, :codebooks])
    assert [each.text_chunk for each in (*chunks, *rest) if each.ends_text_chunk] == [0, 1]
    told = []
    at = 0
    for each in (*chunks, *rest):
        told += [(timing.moved(at).begin, timing.moved(at).end) for timing in each.timings]
        at += each.samples.size
    assert told == [(0, 8 * FRAME_SAMPLES), (8 * FRAME_SAMPLES, FRAMES * FRAME_SAMPLES)]


@pytest.mark.parametrize("codebooks", [CODEBOOKS, 0])
def test_another_speech_is_noticed(codebooks: int) -> None:
    audio = DeliveredAudio()
    for chunk in speech(1, 3, codebooks=codebooks):
        audio.add(chunk)
    other = speech(1, 3, 12, codebooks=codebooks)
    other[1] = replace(other[1], codes=other[1].codes + 1, samples=-other[1].samples)
    replay = audio.replay()
    assert replay.skip(other[0]) is None
    with pytest.raises(SpeechDiffers):
        replay.skip(other[1])


def test_an_end_without_audio_is_delivered_once() -> None:
    end = replace(speech(12)[0], samples=SAMPLES[:0], codes=CODES[:0])
    audio = DeliveredAudio()
    audio.add(replace(speech(12)[0], ends_text_chunk=False, ends_speech=False))
    assert not audio.complete
    replay = audio.replay()
    assert replay.skip(replace(speech(12)[0], ends_text_chunk=False, ends_speech=False)) is None
    assert replay.skip(end) is not None
    audio.add(end)
    assert audio.complete
