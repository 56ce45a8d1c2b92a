"""The mailbox between an engine and its reader, in threads and in event loops."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import AudioChunk, EngineClosed, EngineFailed, SpeechRequest, SpeechStream
from engine.stream import AudioQueue


def chunk(number: int = 0, ends_speech: bool = False) -> AudioChunk:
    return AudioChunk(
        samples=np.full(4, number, np.float32),
        codes=np.full((1, 2), number),
        in_last_text_chunk=True,
        ends_text_chunk=ends_speech,
        ends_speech=ends_speech,
    )


def nothing() -> None: ...


class Changes:
    """Counts what the engine's side is told."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def stream_of(queue: AudioQueue) -> SpeechStream:
    return SpeechStream(queue, SpeechRequest(text="hello"))


def speak(queue: AudioQueue, numbers: range, error: BaseException | None = None) -> None:
    for number in numbers:
        queue.put(chunk(number, ends_speech=error is None and number == numbers[-1]))
    queue.end(error)


async def collected(stream: SpeechStream) -> list[float]:
    return [float(chunk.samples[0]) async for chunk in stream]


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=40))
def test_full_is_what_capacity_says_and_room_is_announced(capacity: int, puts: list[bool]) -> None:
    changes = Changes()
    queue = AudioQueue(capacity, changes)
    waiting = announced = 0
    for is_put in puts:
        if is_put:
            queue.put(chunk())
            waiting += 1
        elif waiting:
            queue.get()
            waiting -= 1
            announced += waiting == capacity - 1
        assert queue.full == (waiting >= capacity)
        assert changes.count == announced


def test_chunks_come_out_in_order_to_a_thread() -> None:
    queue = AudioQueue(2, nothing)
    engine = in_thread(lambda: speak(queue, range(100)))
    assert [float(chunk.samples[0]) for chunk in stream_of(queue)] == list(range(100))
    engine.join()


def test_chunks_come_out_in_order_to_an_event_loop() -> None:
    queue = AudioQueue(2, nothing)
    engine = in_thread(lambda: speak(queue, range(100)))
    assert asyncio.run(collected(stream_of(queue))) == list(range(100))
    engine.join()


def test_many_streams_in_one_event_loop_get_their_own_chunks() -> None:
    queues = [AudioQueue(2, nothing) for _ in range(20)]

    def engine() -> None:
        for number in range(50):
            for queue in queues:
                queue.put(chunk(number, ends_speech=number == 49))
        for queue in queues:
            queue.end()

    async def read_all() -> list[list[float]]:
        return list(await asyncio.gather(*(collected(stream_of(queue)) for queue in queues)))

    thread = in_thread(engine)
    assert asyncio.run(read_all()) == [list(range(50))] * 20
    thread.join()


def test_an_error_comes_behind_what_was_spoken() -> None:
    queue = AudioQueue(9, nothing)
    speak(queue, range(3), EngineFailed("broke"))
    stream = stream_of(queue)
    assert [float(next(stream).samples[0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(EngineFailed, match="broke"):
        next(stream)


def test_an_error_comes_behind_what_was_spoken_in_an_event_loop() -> None:
    queue = AudioQueue(9, nothing)
    speak(queue, range(3), EngineFailed("broke"))
    heard: list[float] = []

    async def read() -> None:
        async for piece in stream_of(queue):
            heard.append(float(piece.samples[0]))  # noqa: PERF401  # a comprehension would lose them

    with pytest.raises(EngineFailed, match="broke"):
        asyncio.run(read())
    assert heard == [0, 1, 2]


def test_the_first_end_counts() -> None:
    queue = AudioQueue(9, nothing)
    speak(queue, range(1))
    queue.end(EngineClosed("too late"))
    assert len(list(stream_of(queue))) == 1


def leave_by_close(stream: SpeechStream) -> None:
    stream.close()


def leave_by_with(stream: SpeechStream) -> None:
    with stream:
        pass


def leave_by_async_with(stream: SpeechStream) -> None:
    async def enter() -> None:
        async with stream:
            pass

    asyncio.run(enter())


@pytest.mark.parametrize("leave", [leave_by_close, leave_by_with, leave_by_async_with])
def test_leaving_tells_the_engine_once(leave: Callable[[SpeechStream], None]) -> None:
    changes = Changes()
    queue = AudioQueue(1, changes)
    queue.put(chunk())
    stream = stream_of(queue)
    leave(stream)
    assert queue.closed
    assert queue.done
    assert not queue.full
    assert changes.count == 1
    stream.close()
    assert changes.count == 1
    assert list(stream) == []


def test_dropping_a_stream_tells_the_engine() -> None:
    changes = Changes()
    queue = AudioQueue(1, changes)
    stream_of(queue)
    gc.collect()
    assert queue.closed
    assert changes.count == 1


def test_closing_wakes_a_waiting_thread() -> None:
    queue = AudioQueue(1, nothing)
    stream = stream_of(queue)
    heard: list[list[AudioChunk]] = []
    reader = in_thread(lambda: heard.append(list(stream)))
    stream.close()
    reader.join(timeout=30)
    assert heard == [[]]


def test_closing_wakes_a_waiting_task() -> None:
    async def read_and_close() -> list[float]:
        stream = stream_of(AudioQueue(1, nothing))
        reader = asyncio.create_task(collected(stream))
        await asyncio.sleep(0)  # the task runs to where it waits
        stream.close()
        return await asyncio.wait_for(reader, timeout=30)

    assert asyncio.run(read_and_close()) == []


def test_a_cancelled_wait_loses_nothing() -> None:
    async def read_twice() -> float:
        queue = AudioQueue(1, nothing)
        stream = stream_of(queue)
        reader = asyncio.ensure_future(stream.__anext__())
        await asyncio.sleep(0)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        queue.put(chunk(7))
        return float((await asyncio.wait_for(stream.__anext__(), timeout=30)).samples[0])

    assert asyncio.run(read_twice()) == 7


def test_a_reader_whose_event_loop_is_gone_has_left() -> None:
    queue = AudioQueue(1, nothing)
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(queue.get_async())
    loop.call_soon(loop.stop)
    loop.run_forever()
    waiting.cancel()
    loop.run_until_complete(asyncio.gather(waiting, return_exceptions=True))
    loop.close()
    queue.put(chunk())
    assert queue.closed


def test_collect_is_the_whole() -> None:
    queue = AudioQueue(9, nothing)
    speak(queue, range(3))
    speech = stream_of(queue).collect()
    assert speech.samples.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert speech.codes.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert queue.closed
