"""Request router of the Serve proxies: the least busy replica, preferably one that has the voice."""

from __future__ import annotations

import json
import pickle
import random
import re
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from ray.serve.exceptions import BackPressureError
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from .options import RETRY_SECONDS
from .placement import Load, order

# What takes a slot as soon as it is routed. A WebSocket takes one for each of its texts: counted too, since those come.
_SPEAKING = re.compile(
    r"/tts/.+|/v1/(audio/speech|realtime|text-to-speech/.+|text-to-dialogue.*)|/twilio|/ws|/stream.*|/generate.*|/api/.+"
)
_VOICE_IN_PATH = re.compile(r"/v1/text-to-speech/([^/]+)(?:/.*)?")
_VOICE_PARAMETERS = ("voice_id", "voice")
_MAX_VOICES = 10_000  # of which a router remembers where it sent them
_SILENT_SECONDS = 5.0  # without a report, as for a worker of one machine
_ARRIVAL_SECONDS = 0.1  # from the choice of a replica until it counts the request itself, clocks apart included


class NoReplica(BackPressureError):
    """503 with Retry-After: no replica takes requests. Serve would let the client wait without a limit."""

    def __init__(self) -> None:
        super().__init__(0, 0, status_code=503, retry_after_s=RETRY_SECONDS)
        detail = "no replica is ready: the service is starting or shutting down, try again soon"
        self._message = json.dumps({"detail": detail, "code": "starting"})


def scope_of(request: PendingRequest) -> dict[str, Any]:
    """The ASGI scope of a request that came through a proxy; empty for a call by a handle."""
    first = request.args[0] if request.args else None
    if not isinstance(first, bytes):
        return {}
    return dict(pickle.loads(first).asgi_scope)  # pickled by this proxy itself, for the replica


def voice_of(scope: dict[str, Any]) -> str | None:
    """The voice that a request names in its path or its query string. A body is not read before it is routed."""
    if (found := _VOICE_IN_PATH.fullmatch(scope.get("path", ""))) is not None:
        return found[1]
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    return next((query[name][0] for name in _VOICE_PARAMETERS if name in query), None)


@dataclass(frozen=True)
class _Sent:
    """A request on its way to a replica, or there. at: `time.time()` of the choice."""

    at: float
    is_socket: bool


@dataclass
class _Traffic:
    """What this router has sent to one replica.

    open: by request, those that have not ended. ended: when each was sent and when it ended, as long as the newest
    report may still count it. reported_at: when the replica made its newest report, by its clock; heard_at: when that
    came, by `time.monotonic()`.
    """

    open: dict[str, _Sent] = field(default_factory=dict)
    ended: deque[tuple[float, float]] = field(default_factory=deque)
    reported_at: float = 0.0
    heard_at: float = field(default_factory=time.monotonic)

    def hear(self, report: Mapping[str, Any]) -> None:
        """Serve passes on the last report of a replica that hangs with each one of the others."""
        if (at := report.get("at", 0.0)) != self.reported_at:
            self.reported_at, self.heard_at = at, time.monotonic()

    @property
    def is_silent(self) -> bool:
        return time.monotonic() - self.heard_at > _SILENT_SECONDS

    def end(self, number: str) -> None:
        """The request has ended, or went elsewhere."""
        if (sent := self.open.pop(number, None)) is not None and not sent.is_socket:
            self.ended.append((sent.at, time.time()))

    def busy(self, report: Mapping[str, Any]) -> int:
        """Busy slots: as reported, with what was sent and what has ended since, but at least the open requests.

        A WebSocket counts until the next report: what it speaks from then on is in the reports.
        """
        reported_at: float = report.get("at", 0.0)
        counted_before = reported_at - _ARRIVAL_SECONDS
        while self.ended and self.ended[0][1] <= reported_at:
            self.ended.popleft()
        since = sum(each.at >= counted_before for each in self.open.values())
        ended = sum(sent < counted_before for sent, _ in self.ended)
        reported: int = report.get("busy", 0)
        return max(reported + since - ended, sum(not each.is_socket for each in self.open.values()))


class SlotRouter(RequestRouter):
    """Chooses by busy slots and voices, which replicas report every STATS_SECONDS, and by what it has sent itself.

    It is no FIFOMixin, as Serve's own router is: that gives the replica which was chosen for one request to whichever
    has waited longest. Of requests that come at once, some would then go to a full replica while another is free, and
    none to the replica that has its voice.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._random = random.Random()
        self._traffic: dict[ReplicaID, _Traffic] = {}
        self._place: dict[str, ReplicaID] = {}  # by request, where it counts
        self._spoke: dict[str, ReplicaID] = {}  # by voice, where it was sent last; in the order of use

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        scope = {}
        if pending_request is not None:
            scope = scope_of(pending_request)
            pending_request.routing_context.should_backoff = True  # no further replicas come after these
        voice = voice_of(scope)
        last = None if voice is None else self._spoke.get(voice)
        places = enumerate(candidate_replicas)
        familiar = None if last is None else next((at for at, each in places if each.replica_id == last), None)
        best = order(
            len(candidate_replicas),
            lambda index: self._load(candidate_replicas[index], voice),
            self._random,
            familiar=familiar,
        )
        if pending_request is not None and best and _SPEAKING.fullmatch(scope.get("path", "")):
            # Counted now: the next request is chosen for before this one arrives.
            chosen = candidate_replicas[best[0]].replica_id
            sent = _Sent(time.time(), scope.get("type") == "websocket")
            self._put(pending_request.metadata.internal_request_id, chosen, sent)
            if voice is not None:
                self._remember(voice, chosen)
        return [[candidate_replicas[index]] for index in best]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """It may be another replica than the best one, if that did not answer."""
        number = pending_request.metadata.internal_request_id
        place = self._place.get(number)
        if place is not None and place != replica_id:
            self._put(number, replica_id, self._traffic[place].open[number])

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        place = self._place.pop(internal_request_id, None)
        if place in self._traffic:
            self._traffic[place].end(internal_request_id)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._traffic = {each.replica_id: self._traffic.get(each.replica_id, _Traffic()) for each in replicas}
        for each in replicas:
            self._traffic[each.replica_id].hear(each.routing_stats)
        self._place = {number: each for number, each in self._place.items() if each in self._traffic}

    async def _choose_replica_for_request(
        self, pending_request: PendingRequest, *, is_retry: bool = False
    ) -> RunningReplica:
        if not self.curr_replicas:
            raise NoReplica
        try:
            return await super()._choose_replica_for_request(pending_request, is_retry=is_retry)
        except BaseException:  # the client left first: nothing more is heard of the request
            self._leave(pending_request.metadata.internal_request_id)
            raise

    def _put(self, number: str, replica_id: ReplicaID, sent: _Sent) -> None:
        self._leave(number)
        self._place[number] = replica_id
        self._traffic.setdefault(replica_id, _Traffic()).open[number] = sent

    def _leave(self, number: str) -> None:
        place = self._place.pop(number, None)
        if place in self._traffic:
            self._traffic[place].open.pop(number, None)

    def _remember(self, voice: str, replica_id: ReplicaID) -> None:
        self._spoke.pop(voice, None)
        self._spoke[voice] = replica_id
        if len(self._spoke) > _MAX_VOICES:
            del self._spoke[next(iter(self._spoke))]

    def _load(self, replica: RunningReplica, voice: str | None) -> Load:
        report, replica_id = replica.routing_stats, replica.replica_id
        traffic = self._traffic.setdefault(replica_id, _Traffic())
        has_voice = voice is not None and (voice in report.get("voices", ()) or self._spoke.get(voice) == replica_id)
        return Load(traffic.busy(report), report.get("capacity", 0), has_voice, traffic.is_silent)
