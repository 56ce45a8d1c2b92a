from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.access.api_keys import ApiKey
from app.access.limiter import LIMITS
from app.errors import Busy, EngineBroke, ServiceError, Unavailable, UnknownVoice, Unprocessable
from app.observability.request_log import RequestRecord
from app.pool import worker_registry
from app.pool.dispatcher import DispatchedSpeech, Dispatcher
from app.pool.engine_host import ResolvedVoice, StartedSpeech
from app.pool.framing import ConnectionBroken
from app.pool.local import LocalSpeech
from app.pool.pool import Pool
from app.pool.remote import encode_remotely
from app.pool.speech_server import socket_path
from app.schemas.speech import SpeechJob
from engine import FRAME_SAMPLES, AudioChunk, EngineFailed, SpeechRequest, TextFeed, VoicePrompt

pytestmark = pytest.mark.anyio


def loads(pools: list[Pool]) -> list[int]:
    return [each.load for each in pools[0].registry.records()]


def idle(pools: list[Pool]) -> bool:
    idle_hosts = all(each.host.admission.active == each.host.admission.queued == 0 for each in pools)
    return idle_hosts and not any(loads(pools)) and not any(each.busy for each in pools)


async def collect(pool: Pool, job: SpeechJob) -> tuple[str, np.ndarray[Any, Any]]:
    """The worker and all samples."""
    async with pool.dispatcher.dispatch(job, None) as speech:
        chunks = [chunk.samples async for chunk in speech]
        assert speech.engine_name == "fake"
        return speech.worker_id, np.concatenate(chunks)


async def test_speech_is_the_same_from_every_worker(workers: Any, job: Any, wait: Any) -> None:
    async with workers(3) as pools:
        speeches = [await collect(pools[0], job("Hello there.", "speaker_7")) for _ in range(3)]
        assert [worker for worker, _ in speeches] == ["0", "1", "2"]
        assert speeches[0][1].size == 12 * FRAME_SAMPLES
        assert all(np.array_equal(speeches[0][1], samples) for _, samples in speeches)
        await wait(lambda: idle(pools))


async def test_a_text_that_is_written_while_it_is_spoken_has_one_slot_of_any_worker(
    workers: Any, job: Any, wait: Any
) -> None:
    async with workers(2) as pools:
        for _ in range(2):
            more = TextFeed()
            async with pools[0].dispatcher.dispatch(job("One,", more=more), None) as speech:
                parts = []
                async for chunk in speech:
                    if chunk.ends_text_part:
                        parts.append(chunk.text_part)
                        assert sum(loads(pools)) == 1
                        if len(parts) < 3:
                            more.append(f"part {len(parts)}")  # comes only while the slot waits for it
                        else:
                            more.end()
                assert parts == [0, 1, 2]
            assert [*pools[int(speech.worker_id)].host.engine.histories][-1] == ()
        assert [len(each.host.engine.histories) for each in pools] == [1, 1]
        await wait(lambda: idle(pools))


async def test_leaving_frees_a_slot_that_waits_for_text(workers: Any, job: Any, wait: Any) -> None:
    async with workers(2) as pools:
        for _ in range(2):
            more = TextFeed()
            async with pools[0].dispatcher.dispatch(job("One,", more=more), None) as speech:
                async for chunk in speech:
                    if chunk.ends_text_part:
                        break
            more.append("Nobody reads this.")
        await wait(lambda: idle(pools) and not any(each.host.engine.status().active for each in pools))


async def test_a_recording_is_encoded_the_same_by_another_worker(workers: Any) -> None:
    recording = VoicePrompt(np.linspace(-0.5, 0.5, 48_000, dtype=np.float32))
    async with workers(1) as [pool]:
        assert pool._sockets is not None
        here = await pool.encode(recording)
        there = await encode_remotely(socket_path(pool._sockets, 0), recording)
        assert here is not None
        assert here.shape == (25, 1)
        assert np.array_equal(here, there)
        with pytest.raises(ConnectionBroken):
            await encode_remotely(socket_path(pool._sockets, 5), recording)


async def test_leaving_frees_the_slot_of_any_worker(workers: Any, job: Any, wait: Any) -> None:
    async with workers(2) as pools:
        async with AsyncExitStack() as stack:
            for _ in range(4):
                speech = await stack.enter_async_context(pools[0].dispatcher.dispatch(job(), None))
                await anext(speech)
            assert loads(pools) == [2, 2]
            assert [each.active for each in pools[0].registry.records()] == [2, 2]
        assert loads(pools) == [0, 0]
        await wait(lambda: idle(pools))


async def test_a_client_that_does_not_read_pauses_the_remote_slot(workers: Any, job: Any, wait: Any) -> None:
    async with (
        workers(2) as pools,
        pools[1].dispatcher.dispatch(job(), None),
        pools[1].dispatcher.dispatch(job(), None) as speech,
    ):

        def rows() -> list[Any]:
            return [row for each in pools for row in each.host.engine._running]

        await wait(lambda: len(rows()) == 2 and all(row.queue.full for row in rows()))
        assert all(row.made < 200 for row in rows())
        samples = sum([chunk.samples.size async for chunk in speech])
        assert samples == 4000 * FRAME_SAMPLES


@pytest.mark.parametrize(
    ("text", "voice", "error", "code"),
    [
        ("[raise]", None, EngineBroke, "engine_failed"),
        ("[memory]", None, EngineBroke, "out_of_memory"),
        ("Hi", "nobody", UnknownVoice, "unknown_voice"),
    ],
)
async def test_errors_are_the_same_from_every_worker(
    workers: Any, job: Any, wait: Any, text: str, voice: str | None, error: type[ServiceError], code: str
) -> None:
    async with workers(2) as pools:
        for _ in range(2):
            with pytest.raises(error) as caught:
                await collect(pools[0], job(text, voice))
            assert caught.value.code == code
        await wait(lambda: idle(pools))


async def test_a_request_too_large_for_any_worker_is_refused(workers: Any, job: Any) -> None:
    async with workers(2, concurrent_requests_per_worker=1) as pools:
        for pool in pools:
            with pytest.raises(Unprocessable, match="takes 2 slots"):
                await collect(pool, job("Hi", guidance=1.0))


async def test_a_full_pool_is_busy_and_frees_all_permits(workers: Any, job: Any, wait: Any) -> None:
    async with workers(2, max_queued_requests=0) as pools:
        async with AsyncExitStack() as stack:
            for _ in range(4):
                await stack.enter_async_context(pools[0].dispatcher.dispatch(job(), None))
            for pool in pools:
                with pytest.raises(Busy):
                    await collect(pool, job("Hi"))
            assert loads(pools) == [2, 2]
        await wait(lambda: idle(pools))


async def test_the_wait_limit_covers_all_workers_together(workers: Any, job: Any, wait: Any) -> None:
    async with workers(2, queue_seconds=0.05, concurrent_requests_per_worker=1) as pools:
        async with pools[0].dispatcher.dispatch(job(), None), pools[0].dispatcher.dispatch(job(), None):
            with pytest.raises(Busy, match="became free"):
                await collect(pools[0], job("Hi"))
        await wait(lambda: idle(pools))


async def test_a_cancelled_wait_frees_all_permits(workers: Any, job: Any, wait: Any) -> None:
    async with workers(2, concurrent_requests_per_worker=1) as pools:
        async with pools[0].dispatcher.dispatch(job(), None), pools[0].dispatcher.dispatch(job(), None):
            waiting = [asyncio.create_task(collect(pools[0], job("Hi"))) for _ in range(4)]
            await wait(lambda: sum(each.host.admission.queued for each in pools) == 4)
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await wait(lambda: sum(each.host.admission.queued for each in pools) == 0)
            assert loads(pools) == [1, 1]
        await wait(lambda: idle(pools))


async def test_waiting_requests_move_to_a_worker_with_a_free_slot(workers: Any, job: Any, wait: Any) -> None:
    async with workers(2, concurrent_requests_per_worker=1) as pools:
        async with pools[0].dispatcher.dispatch(job(), None) as first:
            async with pools[0].dispatcher.dispatch(job(), None) as second:
                waiting = [asyncio.create_task(collect(pools[0], job("Hi"))) for _ in range(3)]
                await wait(lambda: sum(each.host.admission.queued for each in pools) == 3)
                free = second.worker_id
            assert {worker for worker, _ in await asyncio.gather(*waiting)} == {free}
            assert first.worker_id != free
        await wait(lambda: idle(pools))


async def test_a_worker_without_a_socket_is_skipped(workers: Any, job: Any, wait: Any) -> None:
    async with workers(2) as pools:
        assert pools[0].dispatcher._sockets is not None
        socket_path(pools[0].dispatcher._sockets, 1).unlink()
        assert [(await collect(pools[0], job("Hi")))[0] for _ in range(3)] == ["0", "0", "0"]
        await wait(lambda: idle(pools))


async def test_the_wait_limit_holds_for_a_hung_worker_too(workers: Any, job: Any, wait: Any) -> None:
    async with workers(2, queue_seconds=0.2, concurrent_requests_per_worker=1) as pools:
        assert pools[0].dispatcher._sockets is not None
        path = socket_path(pools[0].dispatcher._sockets, 1)
        path.unlink()
        with socket.socket(socket.AF_UNIX) as hung:
            hung.bind(str(path))
            hung.listen()
            assert [(await collect(pools[0], job("Hi")))[0] for _ in range(2)] == ["0", "0"]
            async with pools[0].dispatcher.dispatch(job(), None):
                with pytest.raises(Busy):
                    await collect(pools[0], job("Hi"))
        await wait(lambda: idle(pools))


async def test_a_death_before_the_first_chunk_is_retried_once(workers: Any, job: Any, wait: Any) -> None:
    async with workers(3) as pools:
        await collect(pools[0], job("Hi"))  # next are workers 1 and 2
        async with pools[0].dispatcher.dispatch(job("[hang]"), None) as speech:
            assert speech.worker_id == "1"
            first = asyncio.create_task(anext(speech))
            for dead in (1, 2):
                await wait(lambda dead=dead: len(pools[dead].host.engine._running) == 1)
                assert pools[dead]._server is not None
                await pools[dead]._server.close()
            with pytest.raises(Unavailable) as caught:
                await first
            assert caught.value.code == "worker_died"
        await wait(lambda: idle(pools))


@pytest.fixture
def resumes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What the dispatchers reported: whether each stream whose worker died goes on."""
    reported: list[bool] = []
    create = Dispatcher.__init__

    def init(self: Dispatcher, *args: Any, **options: Any) -> None:
        create(self, *args, **options)
        self.on_resume = reported.append

    monkeypatch.setattr(Dispatcher, "__init__", init)
    return reported


async def drop(pool: Pool) -> None:
    """Have a worker vanish, as if it had died: its streams break off, and it takes no more."""
    assert pool._server is not None
    await pool._server.close()


async def read(speech: DispatchedSpeech, frames: int) -> list[AudioChunk]:
    """At least so many frames."""
    chunks: list[AudioChunk] = []
    while sum(each.samples.size for each in chunks) < frames * FRAME_SAMPLES:
        chunks.append(await anext(speech))
    return chunks


def assert_same_speech(chunks: list[AudioChunk], undisturbed: list[AudioChunk]) -> None:
    for part in ("samples", "codes"):
        parts = [np.concatenate([getattr(chunk, part) for chunk in each]) for each in (chunks, undisturbed)]
        assert np.array_equal(*parts)
    for each in (chunks, undisturbed):
        assert [chunk.ends_speech for chunk in each] == [*[False] * (len(each) - 1), True]
    ends = [[chunk.text_chunk for chunk in each if chunk.ends_text_chunk] for each in (chunks, undisturbed)]
    assert ends[0] == ends[1]


TWO_CHUNKS = "x" * 70 + ". " + "y" * 90 + "."  # 163 frames


@pytest.mark.parametrize(
    "effects",
    [{}, {"crossfade_milliseconds": 200, "trim_start_milliseconds": 130, "trim_end_milliseconds": 1130}],
)
async def test_a_stream_goes_on_at_other_workers_as_if_none_had_died(
    workers: Any, job: Any, wait: Any, resumes: list[bool], effects: dict[str, int]
) -> None:
    request = job(TWO_CHUNKS, "speaker_3", chunk_characters=100, **effects)
    async with workers(3) as pools:
        async with pools[0].dispatcher.dispatch(request, None) as speech:
            undisturbed = await read(speech, 1) + [chunk async for chunk in speech]
        async with pools[0].dispatcher.dispatch(request, None) as speech:
            chunks: list[AudioChunk] = []
            for dead, frames in ((1, 1), (2, 20)):
                while speech.worker_id != str(dead):  # what the last one had sent comes first
                    chunks.append(await anext(speech))
                chunks += await read(speech, frames)
                await drop(pools[dead])
            chunks += [chunk async for chunk in speech]
            assert speech.worker_id == "0"
        assert_same_speech(chunks, undisturbed)
        assert resumes == [True, True]
        await wait(lambda: idle(pools))


async def test_a_worker_that_dies_after_the_last_chunk_is_not_missed(
    workers: Any, job: Any, wait: Any, resumes: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with workers(2) as pools:
        await collect(pools[0], job("Hi"))
        async with pools[0].dispatcher.dispatch(job("Hello."), None) as speech:
            read_chunk = type(speech._opened).__anext__

            async def die_at_the_end(self: Any) -> AudioChunk:
                try:
                    return await read_chunk(self)
                except StopAsyncIteration:
                    raise ConnectionBroken("as scripted") from None

            monkeypatch.setattr(type(speech._opened), "__anext__", die_at_the_end)
            chunks = [chunk async for chunk in speech]
        assert sum(chunk.samples.size for chunk in chunks) == 6 * FRAME_SAMPLES
        assert resumes == []
        await wait(lambda: idle(pools))


async def test_a_request_that_kills_two_workers_at_the_same_place_kills_no_third(
    workers: Any, job: Any, wait: Any, resumes: list[bool]
) -> None:
    async with workers(4) as pools:
        await collect(pools[0], job("Hi"))
        async with pools[0].dispatcher.dispatch(job("[hang@40]" + "x" * 50), None) as speech:
            reading = asyncio.ensure_future(_collect(speech))
            for dead in (1, 2):
                await wait(lambda dead=dead: any(row.made == 40 for row in pools[dead].host.engine._running))
                await wait(lambda: spoken(speech) >= 30 * FRAME_SAMPLES)  # the rest is less than a second
                await drop(pools[dead])
            with pytest.raises(EngineBroke) as caught:
                await reading
            assert caught.value.code == "worker_died"
            assert speech.worker_id == "2"
        assert resumes in ([False], [True, False])  # the second worker may have delivered what the first one held back
        await wait(lambda: idle(pools))


def spoken(speech: DispatchedSpeech) -> int:
    """Samples of the worker that speaks now."""
    return speech._delivered.samples if speech._replay is None else speech._replay.samples_skipped


@pytest.mark.parametrize("state", ["starting", "catching up"])
async def test_the_worker_that_takes_over_may_die_before_it_has_caught_up(
    workers: Any, job: Any, wait: Any, resumes: list[bool], state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, starts, goes_on = tmp_path / "hold", threading.Event(), threading.Event()
    async with workers(3, model_path=f"fake:frame_seconds=0.001,hold={hold}") as pools:
        dispatcher = Dispatcher(pools[0].registry, 0, None, pools[0].dispatcher._sockets, max_wait=30.0)
        await drop(pools[0])  # there are two others
        async with dispatcher.dispatch(job("x" * 100), None) as speech:
            undisturbed = [chunk async for chunk in speech]
        async with dispatcher.dispatch(job("x" * 100), None) as speech:
            first = int(speech.worker_id)
            chunks = await read(speech, 40)
            hold.write_text("20")
            host = pools[3 - first].host
            if state == "starting":
                start_speech = host.start_speech

                def hang(job: SpeechJob) -> StartedSpeech:
                    starts.set()
                    assert goes_on.wait(60)
                    return start_speech(job)

                monkeypatch.setattr(host, "start_speech", hang)
            await drop(pools[first])
            rest = asyncio.create_task(_collect(speech))
            if state == "starting":
                await wait(starts.is_set)
            else:
                await wait(lambda: any(row.made == 20 for row in host.engine._running))
            server = pools[first]._server
            assert server is not None
            await server.start()  # it is back
            await drop(pools[3 - first])
            hold.unlink()
            try:
                chunks += await rest
            finally:
                goes_on.set()
            assert speech.worker_id == str(first)
        assert_same_speech(chunks, undisturbed)
        assert resumes == [True]
        await wait(lambda: idle(pools))


async def _collect(speech: DispatchedSpeech) -> list[AudioChunk]:
    return [chunk async for chunk in speech]


@pytest.mark.parametrize("trouble", ["off", "voice", "full"])
async def test_a_stream_that_cannot_be_resumed_is_cut(
    workers: Any, job: Any, wait: Any, resumes: list[bool], trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with workers(2, queue_seconds=0.5, concurrent_requests_per_worker=1) as pools, AsyncExitStack() as stack:
        pools[0].dispatcher.resumes = trouble != "off"
        if trouble == "full":
            await stack.enter_async_context(pools[0].dispatcher.dispatch(job(), None))
        else:
            await collect(pools[0], job("Hi"))
        async with pools[0].dispatcher.dispatch(job("x" * 100), None) as speech:
            assert speech.worker_id == "1"
            await read(speech, 10)
            if trouble == "voice":  # replaced meanwhile
                voice = VoicePrompt(np.ones(48_000, np.float32))
                monkeypatch.setattr(pools[0].host, "resolve_voice", lambda voice_id: ResolvedVoice(voice, 0))
            await drop(pools[1])
            with pytest.raises(EngineBroke) as caught:
                await _collect(speech)
            assert caught.value.code == "worker_died"
        assert resumes == [False]
        await stack.aclose()
        await wait(lambda: idle(pools))


async def test_a_resumed_stream_goes_before_requests_that_wait(
    workers: Any, job: Any, wait: Any, resumes: list[bool]
) -> None:
    async with workers(2, concurrent_requests_per_worker=1, max_queued_requests=1) as pools:
        async with pools[0].dispatcher.dispatch(job(), None) as first:
            async with pools[0].dispatcher.dispatch(job("x" * 100), None) as speech:
                assert (first.worker_id, speech.worker_id) == ("0", "1")
                await read(speech, 10)
                new = asyncio.create_task(collect(pools[0], job("Hi")))
                await wait(lambda: sum(each.host.admission.queued for each in pools) == 1)
                await drop(pools[1])
                rest = asyncio.create_task(_collect(speech))
                await wait(lambda: pools[0].host.admission.queued == 2)
                await first.aclose()
                await rest
                assert not new.done()
            await new
        assert resumes == [True]
        await wait(lambda: idle(pools))


async def parts_ended(speech: DispatchedSpeech, count: int) -> list[AudioChunk]:
    """The chunks up to the end of so many more parts of a text that is still being written."""
    chunks: list[AudioChunk] = []
    while sum(each.ends_text_part for each in chunks) < count:
        chunks.append(await anext(speech))
    return chunks


@pytest.mark.parametrize("state", ["speaking", "waiting", "ended"])
async def test_a_text_that_is_still_being_written_goes_on_with_all_that_was_given(
    workers: Any, job: Any, wait: Any, resumes: list[bool], state: str
) -> None:
    """The worker dies while it speaks the second part, while it waits for the third, or when the text has ended."""
    parts = ["x" * 150, "y" * 150, "z" * 150]
    async with workers(3) as pools:
        whole = TextFeed()
        whole.append(parts[1])
        whole.append(parts[2])
        whole.end()
        async with pools[0].dispatcher.dispatch(job(parts[0], more=whole), None) as speech:
            undisturbed = [chunk async for chunk in speech]
        more = TextFeed()
        async with pools[0].dispatcher.dispatch(job(parts[0], more=more), None) as speech:
            assert speech.worker_id == "1"
            chunks = await parts_ended(speech, 1)
            more.append(parts[1])
            if state == "speaking":
                chunks += await read(speech, 20)
                await drop(pools[1])
                chunks += await parts_ended(speech, 1)
                more.append(parts[2])
            else:
                chunks += await parts_ended(speech, 1)
                if state == "waiting":
                    await drop(pools[1])
                more.append(parts[2])
                if state == "ended":
                    more.end()
                    chunks += await read(speech, 20)
                    await drop(pools[1])
            more.end()
            chunks += [chunk async for chunk in speech]
            assert speech.worker_id == "2"
        assert_same_speech(chunks, undisturbed)
        told = [[(c.text_part, c.text_chunk) for c in each if c.ends_text_part] for each in (chunks, undisturbed)]
        assert told[0] == told[1]
        assert [part for part, _ in told[0]] == [0, 1, 2]
        assert resumes == [True]
        await wait(lambda: idle(pools) and not any(each.host.engine.status().active for each in pools))


async def test_a_text_that_is_still_being_written_is_cut_where_streams_are_not_resumed(
    workers: Any, job: Any, wait: Any, resumes: list[bool]
) -> None:
    async with workers(2) as pools:
        pools[0].dispatcher.resumes = False
        await collect(pools[0], job("Hi"))
        more = TextFeed()
        async with pools[0].dispatcher.dispatch(job("One,", more=more), None) as speech:
            await parts_ended(speech, 1)
            await drop(pools[1])  # while it waits
            with pytest.raises(EngineBroke) as caught:
                await anext(speech)
            assert caught.value.code == "worker_died"
        more.append("Nobody speaks this.")
        assert resumes == [False]
        await wait(lambda: idle(pools))


async def test_a_key_is_charged_once_for_what_a_resumed_stream_delivers(
    workers: Any, job: Any, resumes: list[bool]
) -> None:
    key = ApiKey(name="acme", sha256="0" * 64, audio_seconds_per_day=3600, concurrent_slots=1)
    record = RequestRecord("1", "POST", "/tts/generate", key=key)
    async with workers(2) as pools:
        await collect(pools[0], job("Hi"))
        limiter = pools[0].dispatcher.limiter
        async with pools[0].dispatcher.dispatch(job("x" * 100), record) as speech:
            assert speech.worker_id == "1"
            await read(speech, 40)
            await drop(pools[1])
            await _collect(speech)
            assert limiter.active(key) == 1
        await limiter.close()
        assert resumes == [True]
        assert limiter.totals(key) == (1, 8.0, dict.fromkeys(LIMITS, 0))
        assert limiter.active(key) == 0


async def test_an_engine_that_breaks_for_good_is_a_death(
    workers: Any, job: Any, wait: Any, resumes: list[bool]
) -> None:
    async with workers(2) as pools:
        await collect(pools[0], job("Hi"))
        async with pools[0].dispatcher.dispatch(job("x" * 1000), None) as speech:
            assert speech.worker_id == "1"
            chunks = await read(speech, 10)
            with pytest.raises(EngineFailed):
                pools[1].host.engine.generate(SpeechRequest("[break]"))
            chunks += await _collect(speech)
        assert sum(chunk.samples.size for chunk in chunks) == 1000 * FRAME_SAMPLES
        assert resumes == [True]
        await wait(lambda: not any(loads(pools)))


async def test_a_draining_worker_finishes_streams_and_passes_on_waiting_requests(
    workers: Any, job: Any, wait: Any
) -> None:
    async with workers(2, concurrent_requests_per_worker=1) as pools:
        async with (
            pools[0].dispatcher.dispatch(job(), None) as first,
            pools[0].dispatcher.dispatch(job("x" * 500), None) as second,
        ):
            waiting = asyncio.create_task(collect(pools[0], job("Hi")))
            await wait(lambda: sum(each.host.admission.queued for each in pools) == 1)
            pools[int(first.worker_id)].drain()
            assert sum([chunk.samples.size async for chunk in second]) == 500 * FRAME_SAMPLES
            assert await anext(first)
        worker, _ = await waiting
        assert worker == second.worker_id
        pools[int(second.worker_id)].drain()
        with pytest.raises(Unavailable) as caught:
            await collect(pools[0], job("Hi"))
        assert caught.value.code == "draining"
        await wait(lambda: idle(pools))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_registry, "STALE_SECONDS", 1.5)  # three heartbeats


async def test_requests_that_wait_at_a_stopped_worker_move_to_the_queue_of_another(
    workers: Any, job: Any, wait: Any, impatient: None
) -> None:
    async with workers(2, concurrent_requests_per_worker=1) as pools:
        async with pools[0].dispatcher.dispatch(job(), None), pools[0].dispatcher.dispatch(job(), None):
            waiting = [asyncio.create_task(collect(pools[0], job("Hi"))) for _ in range(4)]
            await wait(lambda: [each.host.admission.queued for each in pools] == [2, 2])
            pools[1]._heartbeats.cancel()
            pools[1].host.admission._on_change = lambda: None  # nor does it say what has changed
            await wait(lambda: [each.host.admission.queued for each in pools] == [4, 0])
        assert {worker for worker, _ in await asyncio.gather(*waiting)} == {"0"}
        await wait(lambda: idle(pools))


async def test_a_request_whose_worker_stops_before_the_first_chunk_starts_over_at_another(
    workers: Any, job: Any, wait: Any, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung_once, read = asyncio.Event(), LocalSpeech.__anext__

    async def hang_once(self: LocalSpeech) -> AudioChunk:
        if not hung_once.is_set():
            hung_once.set()
            await asyncio.Event().wait()
        return await read(self)

    async with workers(2) as pools:
        async with pools[0].dispatcher.dispatch(job(), None) as first:  # so that the next one goes to worker 1
            await anext(first)
            monkeypatch.setattr(LocalSpeech, "__anext__", hang_once)
            more = TextFeed()
            more.append("Again.")
            more.end()
            async with pools[0].dispatcher.dispatch(job("Hello.", more=more), None) as speech:
                assert speech.worker_id == "1"
                reading = asyncio.create_task(anext_of(speech))
                await asyncio.wait_for(hung_once.wait(), 60)
                pools[1]._heartbeats.cancel()
                pools[1].host.on_change = lambda: None
                chunks = [await reading, *[chunk async for chunk in speech]]
                assert speech.worker_id == "0"
                assert sum(each.samples.size for each in chunks) == 12 * FRAME_SAMPLES
        await wait(lambda: idle(pools))


async def anext_of(speech: DispatchedSpeech) -> AudioChunk:
    return await anext(speech)
