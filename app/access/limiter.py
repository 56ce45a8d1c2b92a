"""The limits of API keys: charges each request for speech to its key, and refuses what goes beyond a limit."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import LimitReached
from .api_keys import LIMITS, ApiKey
from .shared_counts import SharedCounts

if TYPE_CHECKING:  # an extra
    from .redis_limits import RedisLimits

CHARACTERS_PER_SECOND = 15.0  # of English speech; only an estimate, settled at the end
_SAMPLES_PER_MILLISECOND = 24
_KEPT_SECONDS = 30 * 86_400.0  # that the counts of a key for /metrics outlive its last request
_HELD_SECONDS = 86_400.0  # that the slots of a worker count without a change
_UNLIMITED = 1 << 40


@dataclass(frozen=True)
class _Window:
    """seconds: its length; it begins at a multiple of it, in UTC. milliseconds: what it counts, in place of requests.

    code: of the error. unit: what the limit counts, in words.
    """

    seconds: int
    milliseconds: bool
    code: str
    unit: str


_WINDOWS = {
    "requests_per_minute": _Window(60, False, "request_rate_limit", "requests a minute"),
    "audio_seconds_per_minute": _Window(60, True, "audio_rate_limit", "seconds of audio a minute"),
    "audio_seconds_per_day": _Window(86_400, True, "daily_audio_limit", "seconds of audio a day"),
}


@dataclass
class KeyUse:
    """What one request for speech has used. samples: of the audio that was delivered, at 24 kHz."""

    samples: int = 0

    @property
    def milliseconds(self) -> int:
        return self.samples // _SAMPLES_PER_MILLISECOND


@dataclass(frozen=True)
class _Charge:
    """What was added to the count of a window."""

    name: str
    window: _Window
    amount: int


class KeyLimiter:
    """Counts for all workers of a machine together, or of several machines where they share Redis.

    holder: this worker. holders: all workers that are alive: the slots of one that died count no more.
    """

    def __init__(
        self,
        counts: SharedCounts,
        holder: str = "0",
        holders: Callable[[], Sequence[str]] = tuple,
        redis: RedisLimits | None = None,
    ) -> None:
        self.counts = counts
        self.current: Callable[[ApiKey], ApiKey] = lambda key: key  # as it stands now; raises Unauthorized
        self.clock = time.time  # all machines must agree on it, to a second or so
        self._holder, self._holders, self._redis = holder, holders, redis
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def use(
        self, key: ApiKey, *, permits: int, characters: int, max_seconds: float | None, continues: bool
    ) -> AsyncIterator[KeyUse]:
        """Charge a request for speech while the context lasts. Raises LimitReached.

        Audio is charged by an estimate at first, to the minute and the day in which the request begins, and at the
        end what was delivered takes its place: a request is refused once a limit is used up, and the one that crosses
        it is spoken to its end. permits: slots that it takes. characters: of its text. max_seconds: of its audio.
        continues: it is a further part of a request that was counted.
        """
        use = KeyUse()
        seconds = max(characters / CHARACTERS_PER_SECOND, 1.0)
        estimate = round(1000 * min(seconds, max_seconds or seconds))
        async with AsyncExitStack() as held:
            try:
                await self._take_slots(key, permits, held)
                charges = await self._charge(key, estimate, continues)
            except LimitReached as error:
                self.counts.add(f"refused/{error.limit}/{key.name}", 1, _KEPT_SECONDS)
                raise
            if not continues:
                self.counts.add(f"requests/{key.name}", 1, _KEPT_SECONDS)
            try:
                yield use
            finally:
                self.counts.add(f"audio/{key.name}", use.milliseconds, _KEPT_SECONDS)
                if audio := [each for each in charges if each.window.milliseconds]:
                    self._run(self._add(audio, [use.milliseconds - estimate] * len(audio)))

    async def close(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._redis is not None:
            await self._redis.close()

    def active(self, key: ApiKey) -> int:
        """The slots of this machine that requests of a key wait for or hold."""
        return sum(self.counts.get_all(self._slot_names(key)))

    def totals(self, key: ApiKey) -> tuple[int, float, dict[str, int]]:
        """Of this machine since its start: requests, seconds of audio, and what was refused, by limit."""
        names = [f"requests/{key.name}", f"audio/{key.name}", *(f"refused/{limit}/{key.name}" for limit in LIMITS)]
        requests, milliseconds, *refused = self.counts.get_all(names)
        return requests, milliseconds / 1000, dict(zip(LIMITS, refused, strict=True))

    # ---- slots

    async def _take_slots(self, key: ApiKey, permits: int, held: AsyncExitStack) -> None:
        limit, own = key.concurrent_slots, self._slot_name(key, self._holder)
        taken, limit_here = True, _UNLIMITED if limit is None else limit
        if self._redis is not None and limit is not None:
            redis, lease = self._redis, self._redis.lease(key.name, permits)
            held.callback(lambda: self._run(redis.free_slots(lease)))
            if (answer := await redis.take_slots(lease, limit)) is not None:
                taken, limit_here = answer, _UNLIMITED
        if not taken or not self.counts.take(own, self._slot_names(key), permits, limit_here, _HELD_SECONDS):
            raise LimitReached(
                f"key {key.name!r} has {limit} slots at once (concurrent_slots), and all are taken: try again when one "
                "of its requests has ended",
                code="concurrency_limit",
                retry_after=1,
                limit="concurrent_slots",
            )
        held.callback(self.counts.add, own, -permits, _HELD_SECONDS)

    def _slot_names(self, key: ApiKey) -> list[str]:
        return [self._slot_name(key, each) for each in {self._holder, *self._holders()}]

    def _slot_name(self, key: ApiKey, holder: str) -> str:
        return f"slots/{holder}/{key.name}"

    # ---- windows

    async def _charge(self, key: ApiKey, estimate: int, continues: bool) -> list[_Charge]:
        """Charge a request to all windows, or to none. Raises LimitReached."""
        now = self.clock()
        charges: list[_Charge] = []
        try:
            for limit, window in _WINDOWS.items():
                allowed: int | None = getattr(key, limit)
                if allowed is None or (continues and not window.milliseconds):
                    continue
                name = f"{limit}/{key.name}/{int(now // window.seconds)}"
                charges.append(charge := _Charge(name, window, estimate if window.milliseconds else 1))
                total = await self._count(name, window, charge.amount)
                if total - charge.amount >= allowed * (1000 if window.milliseconds else 1):
                    again = max(math.ceil(window.seconds - now % window.seconds), 1)
                    raise LimitReached(
                        f"key {key.name!r} has used its {allowed} {window.unit} ({limit}): try again in {again} s",
                        code=window.code,
                        retry_after=again,
                        limit=limit,
                    )
        except BaseException as error:
            given_back = self._run(self._add(charges, [-each.amount for each in charges]))
            if isinstance(error, LimitReached):  # else its client has left
                await asyncio.shield(given_back)
            raise
        return charges

    async def _add(self, charges: Sequence[_Charge], amounts: Sequence[int]) -> None:
        for each, amount in zip(charges, amounts, strict=True):
            await self._count(each.name, each.window, amount)

    async def _count(self, name: str, window: _Window, amount: int) -> int:
        """Add to a count and return it. Where Redis is away, limits hold on this machine alone."""
        kept = 2 * window.seconds  # the name is of one window, so its count may outlive it
        if self._redis is not None and (count := await self._redis.count(name, kept, amount)) is not None:
            return count
        return self.counts.add(name, amount, kept)

    def _run(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """In the background: a stream does not wait for Redis."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
