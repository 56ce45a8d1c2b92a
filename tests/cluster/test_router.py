"""The router's own decisions, on replicas that Serve would describe so."""

from __future__ import annotations

import asyncio
import pickle
import time
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cluster.ray_modules import ray_module

common = ray_module("ray.serve._private.common")
requests = ray_module("ray.serve.request_router")
routing = ray_module("cluster.router")

DEPLOYMENT = common.DeploymentID(name="Speech", app_name="csm-serve")


pytestmark = pytest.mark.anyio


async def queue_length_after(turns: int) -> int:
    for _ in range(turns):
        await asyncio.sleep(0)
    return 0


def replica(name: str, busy: int, capacity: int = 8, voices: tuple[str, ...] = (), turns: int = 0) -> Any:
    """turns: of the event loop, until it says how many requests it has."""
    return SimpleNamespace(
        replica_id=common.ReplicaID(name, deployment_id=DEPLOYMENT),
        routing_stats={"at": time.time() - 1, "busy": busy, "capacity": capacity, "voices": voices},
        max_ongoing_requests=4096,
        multiplexed_model_ids=set(),
        node_id="node",
        availability_zone=None,
        actor_id=name,
        get_queue_len=lambda deadline_s: queue_length_after(turns),
    )


def request(number: int, path: str = "/tts/generate", query: str = "", kind: str = "http") -> Any:
    """As a proxy sends it to a replica."""
    scope = {"type": kind, "path": path, "query_string": query.encode()}
    return requests.PendingRequest(
        args=[pickle.dumps(common.StreamingHTTPRequest(scope, proxy_actor_name="proxy"))],
        kwargs={},
        metadata=SimpleNamespace(internal_request_id=str(number), multiplexed_model_id=""),
    )


@pytest.fixture
def router() -> Any:
    source = common.DeploymentHandleSource.REPLICA
    return routing.SlotRouter(deployment_id=DEPLOYMENT, handle_source=source, use_replica_queue_len_cache=True)


async def chosen(router: Any, replicas: list[Any], wanted: Any) -> str:
    ranks = await router.choose_replicas(replicas, wanted)
    assert all(len(rank) == 1 for rank in ranks)
    assert wanted.routing_context.should_backoff
    return str(ranks[0][0].replica_id.unique_id)


@pytest.mark.parametrize(
    ("path", "query", "voice"),
    [
        ("/v1/text-to-speech/anna/stream", "", "anna"),
        ("/tts/generate", "text=Hi&voice_id=anna%20b", "anna b"),
        ("/v1/audio/speech", "", None),
    ],
)
def test_the_voice_is_known_from_path_and_query(path: str, query: str, voice: str | None) -> None:
    assert routing.voice_of({"path": path, "query_string": query.encode()}) == voice


async def send(router: Any, replicas: list[Any], wanted: Any) -> Any:
    """Choose a replica and let it take the request."""
    ranks = await router.choose_replicas(replicas, wanted)
    router.on_request_routed(wanted, ranks[0][0].replica_id, None)
    return ranks[0][0].replica_id


async def test_requests_count_from_their_choice_to_their_end(router: Any) -> None:
    one, two = replica("one", 1), replica("two", 5, 16)
    router.update_replicas([one, two])
    assert [await chosen(router, [one, two], request(number)) for number in range(2)] == ["one", "one"]
    assert await chosen(router, [one, two], request(2)) == "two"
    for number in range(2):
        router.on_request_routed(request(number), one.replica_id, None)
        router.on_request_completed(one.replica_id, str(number))
    assert await chosen(router, [one, two], request(3)) == "one"


async def test_a_request_that_another_replica_took_counts_there(router: Any) -> None:
    one, two = replica("one", 0), replica("two", 1)
    router.update_replicas([one, two])
    await router.choose_replicas([one], request(0))
    assert (router._load(one, None).busy, router._load(two, None).busy) == (1, 1)
    router.on_request_routed(request(0), two.replica_id, None)
    assert (router._load(one, None).busy, router._load(two, None).busy) == (0, 2)


async def test_a_report_replaces_what_was_sent_before_it_and_ended(router: Any) -> None:
    one = replica("one", 0)
    router.update_replicas([one])
    for number in range(2):
        await send(router, [one], request(number))
    one.routing_stats = {"at": time.time() - 0.5, "busy": 0, "capacity": 8, "voices": ()}
    assert router._load(one, None).busy == 2  # made before they came
    one.routing_stats = {"at": time.time() + 1, "busy": 5, "capacity": 8, "voices": ()}
    assert router._load(one, None).busy == 5  # they are among the five
    one.routing_stats = {"at": time.time() + 1, "busy": 0, "capacity": 8, "voices": ()}
    assert router._load(one, None).busy == 2  # they have not ended: they wait to be admitted


async def test_an_idle_websocket_counts_until_the_next_report(router: Any) -> None:
    one, wanted = replica("one", 0), request(0, "/ws", kind="websocket")
    router.update_replicas([one])
    await send(router, [one], wanted)
    assert router._load(one, None).busy == 1
    one.routing_stats = {"at": time.time() + 1, "busy": 0, "capacity": 8, "voices": ()}
    assert router._load(one, None).busy == 0


async def test_a_request_that_ended_since_the_report_is_not_busy(router: Any) -> None:
    one, wanted = replica("one", 0), request(0)
    router.update_replicas([one])
    await send(router, [one], wanted)
    one.routing_stats = {"at": time.time() + 1, "busy": 3, "capacity": 8, "voices": ()}
    assert router._load(one, None).busy == 3  # it is one of the three
    one.routing_stats["at"] = time.time() + 0.5
    router._traffic[one.replica_id].ended.append((0.0, time.time() + 1))
    assert router._load(one, None).busy == 2
    one.routing_stats["at"] = time.time() + 2
    assert router._load(one, None).busy == 3  # the report is newer


async def test_requests_that_come_at_once_fill_each_free_slot(router: Any) -> None:
    """They are chosen for at the same time, and replicas answer in any order."""
    replicas = [replica(name, 0, capacity=2, turns=turns) for name, turns in (("one", 9), ("two", 0), ("three", 4))]
    router.update_replicas(replicas)
    at_once = [router._choose_replica_for_request(request(number)) for number in range(6)]
    chosen = await asyncio.wait_for(asyncio.gather(*at_once), timeout=10)
    assert sorted(each.replica_id.unique_id for each in chosen) == ["one", "one", "three", "three", "two", "two"]


async def test_requests_that_come_at_once_go_where_their_voices_are(router: Any) -> None:
    names = [str(number) for number in range(4)]
    replicas = [replica(name, 0, voices=(name,), turns=9 - int(name)) for name in names]
    router.update_replicas(replicas)
    router._spoke.update({each.replica_id.unique_id: each.replica_id for each in replicas})
    at_once = [router._choose_replica_for_request(request(int(name), query=f"voice_id={name}")) for name in names]
    chosen = await asyncio.wait_for(asyncio.gather(*at_once), timeout=10)
    assert [each.replica_id.unique_id for each in chosen] == names


async def test_a_client_that_leaves_while_a_replica_is_chosen_takes_no_slot(router: Any) -> None:
    one = replica("one", 0, turns=1000)
    router.update_replicas([one])
    choosing = asyncio.create_task(router._choose_replica_for_request(request(0)))
    while router._load(one, None).busy == 0:
        await asyncio.sleep(0)
    choosing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await choosing
    assert router._load(one, None).busy == 0


async def test_status_routes_take_no_slot(router: Any) -> None:
    one, two = replica("one", 0), replica("two", 1)
    router.update_replicas([one, two])
    for number in range(5):
        await send(router, [one], request(number, "/health"))
    assert await chosen(router, [one, two], request(9)) == "one"


async def test_a_replica_that_hangs_comes_last_until_it_reports_again(
    router: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(routing, "time", SimpleNamespace(time=time.time, monotonic=lambda: now))
    hangs, works = replica("hangs", 0), replica("works", 7)
    router.update_replicas([hangs, works])
    assert await chosen(router, [hangs, works], request(0, "/health")) == "hangs"
    for _ in range(6):
        now += 1.0
        works.routing_stats = {**works.routing_stats, "at": now}
        router.update_replicas([hangs, works])  # with the last report of the other
    assert await chosen(router, [hangs, works], request(1, "/health")) == "works"
    hangs.routing_stats = {**hangs.routing_stats, "at": now}
    router.update_replicas([hangs, works])
    assert await chosen(router, [hangs, works], request(2, "/health")) == "hangs"


async def test_a_voice_goes_where_it_was_sent_last(router: Any) -> None:
    replicas = [replica(str(number), 2) for number in range(50)]
    router.update_replicas(replicas)
    await send(router, [replicas[7]], request(0, query="voice_id=anna"))
    router.on_request_completed(replicas[7].replica_id, "0")
    for number in range(1, 30):
        assert await send(router, replicas, request(number, query="voice_id=anna")) == replicas[7].replica_id
        router.on_request_completed(replicas[7].replica_id, str(number))


async def test_without_a_replica_it_refuses_at_once_and_says_when_to_come_again(router: Any) -> None:
    with pytest.raises(routing.NoReplica) as refused:
        await router._choose_replica_for_request(request(0))
    assert (refused.value.status_code, refused.value.retry_after_s) == (503, 1)
    assert '"code": "starting"' in refused.value.message
