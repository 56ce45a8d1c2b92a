from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import pytest

from app.access.api_keys import ApiKey, hash_key
from app.access.limiter import KeyLimiter, KeyUse
from app.access.redis_limits import RedisLimits
from app.access.shared_counts import SharedCounts
from app.errors import LimitReached

pytestmark = pytest.mark.anyio

NOW = 1_000_000_060  # 40 s into a minute


def key(**limits: Any) -> ApiKey:
    return ApiKey(name="acme", sha256=hash_key("acme"), **limits)


def ask(limiter: KeyLimiter, owner: ApiKey, seconds: float = 1.0, **more: Any) -> AbstractAsyncContextManager[KeyUse]:
    """A request whose audio is estimated at some seconds."""
    options = {"permits": 1, "characters": round(15 * seconds), "max_seconds": None, "continues": False, **more}
    return limiter.use(owner, **options)


async def speak(limiter: KeyLimiter, owner: ApiKey, seconds: float, made: float | None = None) -> None:
    """A request that is spoken to its end and settled."""
    async with ask(limiter, owner, seconds) as use:
        use.samples += round(24_000 * (seconds if made is None else made))
    await settled(limiter)


async def settled(limiter: KeyLimiter) -> None:
    if limiter._tasks:
        await asyncio.wait(limiter._tasks, timeout=30)


async def refused(limiter: KeyLimiter, owner: ApiKey, **more: Any) -> LimitReached:
    with pytest.raises(LimitReached) as caught:
        async with ask(limiter, owner, **more):
            pass
    return caught.value


async def fail_within(limiter: KeyLimiter, owner: ApiKey) -> None:
    async with ask(limiter, owner, permits=2):
        await refused(limiter, owner)
        raise ZeroDivisionError


@pytest.fixture(params=["memory", "redis"])
async def limiter(request: pytest.FixtureRequest) -> AsyncIterator[KeyLimiter]:
    redis = None
    if request.param == "redis":
        redis = RedisLimits(request.getfixturevalue("redis_server").url)
    made = KeyLimiter(SharedCounts(1 << 10), redis=redis)
    made.clock = lambda: NOW
    yield made
    await made.close()
    assert redis is None or not redis.is_away


async def test_requests_of_a_minute(limiter: KeyLimiter) -> None:
    owner = key(requests_per_minute=2)
    for _ in range(2):
        await speak(limiter, owner, 1)
    error = await refused(limiter, owner)
    assert (error.status, error.code, error.retry_after) == (429, "request_rate_limit", 20)
    assert "2 requests a minute (requests_per_minute): try again in 20 s" in error.detail
    async with ask(limiter, owner, continues=True):
        pass  # a further piece of a text is no further request
    limiter.clock = lambda: NOW + 20
    await speak(limiter, owner, 1)
    assert limiter.totals(owner)[0] == 3
    assert limiter.totals(owner)[2]["requests_per_minute"] == 1


async def test_audio_is_charged_as_estimated_and_settled_as_made(limiter: KeyLimiter) -> None:
    owner = key(audio_seconds_per_minute=10)
    await speak(limiter, owner, 8, made=1)
    async with ask(limiter, owner, 9):  # 1 + 9: the limit is used up while it is spoken
        error = await refused(limiter, owner)
        assert (error.code, error.retry_after) == ("audio_rate_limit", 20)
    await settled(limiter)
    await speak(limiter, owner, 1, made=20)  # more than estimated
    await refused(limiter, owner)
    assert limiter.totals(owner)[1] == 21


async def test_what_is_refused_is_charged_to_no_window(limiter: KeyLimiter) -> None:
    owner = key(requests_per_minute=100, audio_seconds_per_minute=50, audio_seconds_per_day=2)
    await speak(limiter, owner, 2)
    for _ in range(60):
        error = await refused(limiter, owner)
        assert (error.code, error.retry_after) == ("daily_audio_limit", 86_400 - NOW % 86_400)
    limiter.clock = lambda: NOW + 86_400 - NOW % 86_400
    await speak(limiter, owner, 1)


async def test_an_estimate_is_no_longer_than_the_audio_may_be(limiter: KeyLimiter) -> None:
    owner = key(audio_seconds_per_minute=3)
    async with ask(limiter, owner, 100, max_seconds=2.0), ask(limiter, owner, 100, max_seconds=2.0):
        await refused(limiter, owner)


async def test_slots_are_free_again_however_a_request_ends(limiter: KeyLimiter) -> None:
    owner = key(concurrent_slots=2)
    async with ask(limiter, owner), ask(limiter, owner):
        error = await refused(limiter, owner)
        assert (error.code, error.retry_after) == ("concurrency_limit", 1)
        assert "2 slots at once (concurrent_slots)" in error.detail
        assert limiter.active(owner) == 2
    await settled(limiter)
    failing = asyncio.create_task(fail_within(limiter, owner))
    await asyncio.wait({failing}, timeout=30)
    assert isinstance(failing.exception(), ZeroDivisionError)
    await settled(limiter)
    assert limiter.active(owner) == 0
    async with ask(limiter, owner, permits=2):
        pass


async def test_limits_hold_exactly_for_many_at_once(limiter: KeyLimiter) -> None:
    owner = key(requests_per_minute=7)
    async with AsyncExitStack() as stack:
        tries = [stack.enter_async_context(ask(limiter, owner)) for _ in range(30)]
        results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(each, KeyUse) for each in results) == 7
    assert sum(isinstance(each, LimitReached) for each in results) == 23


async def test_workers_share_the_limits_and_a_dead_one_holds_no_slots() -> None:
    counts, alive = SharedCounts(1 << 10), ["0.10", "1.11"]
    first, second = (KeyLimiter(counts, holder, lambda: alive) for holder in ("0.10", "1.11"))
    owner = key(concurrent_slots=2)
    async with ask(first, owner), ask(second, owner):
        await refused(first, owner)
        await refused(second, owner)
        alive[1] = "1.12"  # another process in its place
        async with ask(first, owner):
            await refused(first, owner)


async def test_machines_share_the_limits_and_a_dead_one_loses_its_slots(redis_server: Any) -> None:
    redis = [RedisLimits(redis_server.url) for _ in range(2)]
    first, second = (KeyLimiter(SharedCounts(1 << 10), redis=each) for each in redis)
    first.clock = second.clock = lambda: NOW
    owner = key(concurrent_slots=2, requests_per_minute=4)
    async with ask(first, owner), ask(second, owner):
        await refused(first, owner)
        await refused(second, owner)
        await redis[0]._client.zadd("csm-serve:slots:acme", dict.fromkeys(redis_ids(redis[1]), 1.0))  # long ended
        async with ask(first, owner):
            pass
        redis[1]._held.clear()
    await settled(first)
    await settled(second)
    async with ask(first, owner):
        pass
    assert (await refused(second, owner)).code == "request_rate_limit"
    for each in (first, second):
        await each.close()


def redis_ids(redis: RedisLimits) -> list[str]:
    return [name for lease in redis._held for name in lease.ids]


async def test_a_held_slot_is_renewed(redis_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.access.redis_limits.RENEW_SECONDS", 0.01)
    redis = RedisLimits(redis_server.url)
    limiter = KeyLimiter(SharedCounts(1 << 10), redis=redis)
    owner = key(concurrent_slots=1)
    async with ask(limiter, owner):
        await redis._client.delete("csm-serve:slots:acme")  # as if Redis had lost it
        while not await redis._client.exists("csm-serve:slots:acme"):
            await asyncio.sleep(0.01)
        await refused(limiter, owner)
    await limiter.close()


async def test_speech_goes_on_while_redis_is_away_and_limits_hold_on_this_machine(
    redis_server: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[None] = []
    redis = RedisLimits(redis_server.url, lambda: failures.append(None))
    limiter = KeyLimiter(SharedCounts(1 << 10), redis=redis)
    limiter.clock = lambda: NOW
    owner = key(concurrent_slots=2, requests_per_minute=3)
    await speak(limiter, owner, 1)
    redis_server.stop()
    for _ in range(3):
        await speak(limiter, owner, 1)
    assert redis.is_away
    assert len(failures) == 1  # it is not asked again at once
    assert (await refused(limiter, owner)).code == "request_rate_limit"
    async with ask(limiter, owner, continues=True), ask(limiter, owner, continues=True):
        assert (await refused(limiter, owner, continues=True)).code == "concurrency_limit"
    redis_server.start()
    redis._away_until = 0.0
    await speak(limiter, owner, 1)  # the server that came back has forgotten
    assert not redis.is_away
    assert [each.levelname for each in caplog.records] == ["ERROR"]
    await limiter.close()


def test_without_its_setting_redis_is_not_imported() -> None:
    program = "import sys, app.main; print('redis' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=110, check=True)
    assert ran.stdout.strip() == "False"
