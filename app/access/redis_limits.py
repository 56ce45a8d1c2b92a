"""Counts in Redis, for limits that hold across machines: windows by the `limits` library, slots as leases."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from limits.aio.storage import RedisStorage
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

PREFIX = "csm-serve"
TIMEOUT_SECONDS = 0.25  # for each answer, and for a connection
AWAY_SECONDS = 5.0  # after a failure, before Redis is asked again
LEASE_SECONDS = 30.0  # a slot of a process that died is free again after that
RENEW_SECONDS = 10.0

# The leases of a key are a sorted set by the time of their end, by the clock of Redis.
# KEYS: the set. ARGV: milliseconds of a lease, limit, the leases' ids. Returns 1 if they were taken.
_TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) + #ARGV - 2 > tonumber(ARGV[2]) then return 0 end
for at = 3, #ARGV do redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[at]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
"""
# KEYS: the set. ARGV: milliseconds of a lease, the leases' ids. One that was lost is taken again.
_RENEW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for at = 2, #ARGV do redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[at]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
"""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Lease:
    """Slots that a request of this process holds."""

    def __init__(self, key_name: str, permits: int) -> None:
        self.set = f"{PREFIX}:slots:{key_name}"
        self.ids = [uuid.uuid4().hex for _ in range(permits)]


class RedisLimits:
    """Asks Redis, and says so where it is away: every method then returns None, at once for AWAY_SECONDS.

    on_failure: called for each failed attempt to ask.
    """

    def __init__(self, url: str, on_failure: Callable[[], None] = lambda: None) -> None:
        self._client = Redis.from_url(
            url.replace("redis+unix:", "unix:", 1),
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix=PREFIX,
            connection_pool=self._client.connection_pool,  # type: ignore[arg-type]  # its own signature forgets it
        )
        self._take, self._renew = self._client.register_script(_TAKE), self._client.register_script(_RENEW)
        self._on_failure = on_failure
        self._away_until = 0.0
        self.is_away = False
        self._held: set[Lease] = set()
        self._renewing: asyncio.Task[None] | None = None

    async def count(self, name: str, seconds: int, amount: int) -> int | None:
        """Add to a count that ends some seconds after it began. Returns the new count."""
        return await self._ask(lambda: self._storage.incr(name, seconds, amount))

    def lease(self, key_name: str, permits: int) -> Lease:
        """For `take_slots`. It holds nothing yet."""
        return Lease(key_name, permits)

    async def take_slots(self, lease: Lease, limit: int) -> bool | None:
        """Take the slots of a lease, unless the key would then have more than the limit."""
        arguments: list[str | int] = [round(1000 * LEASE_SECONDS), limit, *lease.ids]
        taken = await self._ask(lambda: self._take([lease.set], arguments))
        if taken is None:
            return None
        if taken:
            self._held.add(lease)
            if self._renewing is None or self._renewing.done():
                self._renewing = asyncio.create_task(self._renew_leases())
        return bool(taken)

    async def free_slots(self, lease: Lease) -> None:
        self._held.discard(lease)
        await self._ask(lambda: self._client.zrem(lease.set, *lease.ids))

    async def close(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        await self._client.aclose()

    async def _renew_leases(self) -> None:
        """While there are any."""
        while self._held:
            await asyncio.sleep(RENEW_SECONDS)
            for lease in list(self._held):
                arguments: list[str | int] = [round(1000 * LEASE_SECONDS), *lease.ids]
                await self._ask(partial(self._renew, [lease.set], arguments))
                if lease not in self._held:  # it was freed meanwhile
                    await self.free_slots(lease)

    async def _ask(self, question: Callable[[], Awaitable[_T]]) -> _T | None:
        if (now := time.monotonic()) < self._away_until:
            return None
        if self.is_away:
            self._away_until = now + AWAY_SECONDS  # only this one tries
        try:
            answer = await question()
        except (RedisError, OSError, TimeoutError) as error:
            self._on_failure()
            if not self.is_away:
                reason = str(error) or type(error).__name__
                _log.error("RATE_LIMIT_URL: Redis is away (%s): limits hold on this machine alone until then", reason)
            self.is_away, self._away_until = True, time.monotonic() + AWAY_SECONDS
            return None
        if self.is_away:
            self.is_away, self._away_until = False, 0.0
            _log.info("RATE_LIMIT_URL: Redis is back: limits hold across machines again")
        return answer
