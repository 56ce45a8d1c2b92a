"""The queue between an engine and its reader, in threads and in event loops."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import AudioChunk, DialogueTurn, EngineClosed, EngineFailed, SpeechRequest, SpeechStream
from engine.stream import AudioQueue
from engine.types import FRAME_SAMPLES, SAMPLE_RATE


def chunk(number: int = 0, ends_speech: bool = False) -> AudioChunk:
    return AudioChunk(
        samples=np.full(4, number, np.float32),
        codes=np.full((1, 2), number),
        in_last_text_chunk=True,
        ends_text_chunk=ends_speech,
        ends_speech=ends_speech,
    )


def ignore() -> None: ...


class CallCounter:
    """Counts the calls of on_change."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def stream_of(queue: AudioQueue) -> SpeechStream:
    return SpeechStream(queue, SpeechRequest(text="hello"))


def put_all(queue: AudioQueue, numbers: range, error: BaseException | None = None) -> None:
    for number in numbers:
        queue.put(chunk(number, ends_speech=error is None and number == numbers[-1]))
    queue.end(error)


async def collected(stream: SpeechStream) -> list[float]:
    return [float(chunk.samples[0]) async for chunk in stream]


def run_in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=40))
def test_full_follows_capacity_and_on_change_fires_when_it_ends(capacity: int, puts: list[bool]) -> None:
    changes = CallCounter()
    queue = AudioQueue(capacity, changes)
    queued = expected = 0
    for is_put in puts:
        if is_put:
            queue.put(chunk())
            queued += 1
        elif queued:
            queue.get()
            queued -= 1
            expected += queued == capacity - 1
        assert queue.full == (queued >= capacity)
        assert changes.count == expected


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-400, 200)), min_size=1, max_size=5), st.integers(0, 300))
def test_audio_is_what_the_listener_was_given_and_what_is_queued(turns: list[tuple[int, int]], trim: int) -> None:
    """Not what turns share, nor what is held back until it is mixed. turns: frames, and the gap before it in ms."""
    request = SpeechRequest(
        turns=tuple(DialogueTurn("a", gap_milliseconds=gap) for _, gap in turns), trim_start_milliseconds=trim
    )
    queue = AudioQueue(100, ignore)
    stream = SpeechStream(queue, request)
    given = 0
    for part, (frames, _) in enumerate(turns):
        ends = part == len(turns) - 1
        samples, codes = np.ones(frames * FRAME_SAMPLES, np.float32), np.zeros((frames, 1), np.int64)
        queue.put(
            AudioChunk(samples, codes, text_part=part, ends_text_chunk=True, ends_text_part=True, ends_speech=ends)
        )
        assert queue.audio_seconds == pytest.approx((given + samples.size) / SAMPLE_RATE)
        joined = stream._joined(queue.get())
        given += 0 if joined is None else joined.samples.size
        assert queue.audio_seconds == pytest.approx(given / SAMPLE_RATE)


def test_a_thread_reads_chunks_in_order() -> None:
    queue = AudioQueue(2, ignore)
    engine = run_in_thread(lambda: put_all(queue, range(100)))
    assert [float(chunk.samples[0]) for chunk in stream_of(queue)] == list(range(100))
    engine.join(60)


def test_an_event_loop_reads_chunks_in_order() -> None:
    queue = AudioQueue(2, ignore)
    engine = run_in_thread(lambda: put_all(queue, range(100)))
    assert asyncio.run(collected(stream_of(queue))) == list(range(100))
    engine.join(60)


def test_many_streams_in_one_event_loop_get_their_own_chunks() -> None:
    queues = [AudioQueue(2, ignore) for _ in range(20)]

    def engine() -> None:
        for number in range(50):
            for queue in queues:
                queue.put(chunk(number, ends_speech=number == 49))
        for queue in queues:
            queue.end()

    async def read_all() -> list[list[float]]:
        return list(await asyncio.gather(*(collected(stream_of(queue)) for queue in queues)))

    thread = run_in_thread(engine)
    assert asyncio.run(read_all()) == [list(range(50))] * 20
    thread.join(60)


def test_an_error_comes_after_the_queued_chunks() -> None:
    queue = AudioQueue(9, ignore)
    put_all(queue, range(3), EngineFailed("broke"))
    stream = stream_of(queue)
    assert [float(next(stream).samples[0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(EngineFailed, match="broke"):
        next(stream)


def test_an_error_comes_after_the_queued_chunks_in_an_event_loop() -> None:
    queue = AudioQueue(9, ignore)
    put_all(queue, range(3), EngineFailed("broke"))
    received: list[float] = []

    async def read() -> None:
        async for piece in stream_of(queue):
            received.append(float(piece.samples[0]))  # noqa: PERF401  # a comprehension would lose them

    with pytest.raises(EngineFailed, match="broke"):
        asyncio.run(read())
    assert received == [0, 1, 2]


def test_only_the_first_end_counts() -> None:
    queue = AudioQueue(9, ignore)
    put_all(queue, range(1))
    queue.end(EngineClosed("too late"))
    assert len(list(stream_of(queue))) == 1


def close_by_method(stream: SpeechStream) -> None:
    stream.close()


def close_by_with(stream: SpeechStream) -> None:
    with stream:
        pass


def close_by_async_with(stream: SpeechStream) -> None:
    async def enter() -> None:
        async with stream:
            pass

    asyncio.run(enter())


@pytest.mark.parametrize("close", [close_by_method, close_by_with, close_by_async_with])
def test_closing_calls_on_change_once(close: Callable[[SpeechStream], None]) -> None:
    changes = CallCounter()
    queue = AudioQueue(1, changes)
    queue.put(chunk())
    stream = stream_of(queue)
    close(stream)
    assert queue.closed
    assert queue.done
    assert not queue.full
    assert changes.count == 1
    stream.close()
    assert changes.count == 1
    assert list(stream) == []


def test_dropping_a_stream_calls_on_change() -> None:
    changes = CallCounter()
    queue = AudioQueue(1, changes)
    stream_of(queue)
    gc.collect()
    assert queue.closed
    assert changes.count == 1


def test_closing_wakes_a_waiting_thread() -> None:
    queue = AudioQueue(1, ignore)
    stream = stream_of(queue)
    received: list[list[AudioChunk]] = []
    reader = run_in_thread(lambda: received.append(list(stream)))
    stream.close()
    reader.join(timeout=30)
    assert received == [[]]


def test_closing_wakes_a_waiting_task() -> None:
    async def read_and_close() -> list[float]:
        stream = stream_of(AudioQueue(1, ignore))
        reader = asyncio.create_task(collected(stream))
        await asyncio.sleep(0)  # the task runs until it waits
        stream.close()
        return await asyncio.wait_for(reader, timeout=30)

    assert asyncio.run(read_and_close()) == []


def test_cancelling_a_wait_loses_no_chunk() -> None:
    async def read_twice() -> float:
        queue = AudioQueue(1, ignore)
        stream = stream_of(queue)
        reader = asyncio.ensure_future(stream.__anext__())
        await asyncio.sleep(0)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        queue.put(chunk(7))
        return float((await asyncio.wait_for(stream.__anext__(), timeout=30)).samples[0])

    assert asyncio.run(read_twice()) == 7


def test_a_reader_with_a_closed_event_loop_counts_as_gone() -> None:
    queue = AudioQueue(1, ignore)
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(queue.get_async())
    loop.call_soon(loop.stop)
    loop.run_forever()
    waiting.cancel()
    loop.run_until_complete(asyncio.gather(waiting, return_exceptions=True))
    loop.close()
    queue.put(chunk())
    assert queue.closed


def test_collect_joins_all_chunks() -> None:
    queue = AudioQueue(9, ignore)
    put_all(queue, range(3))
    speech = stream_of(queue).collect()
    assert speech.samples.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert speech.codes.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert queue.closed
