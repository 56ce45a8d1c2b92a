"""The service on three Ray nodes: a full cluster, faults, scaling, and the suites of one machine against its port.

`make test-cluster` runs them: it sets CLUSTER_TESTS=all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any

import httpx
import pytest
import schemathesis

from tests.cluster.conftest import RayCluster
from tests.integration import test_contract as contract
from tests.integration import test_websocket as websocket
from tests.integration.pool_clients import Listener
from tests.integration.shared import KEY

pytestmark = pytest.mark.skipif(
    os.environ.get("CLUSTER_TESTS") != "all", reason="they take a minute and a half: `make test-cluster` runs them"
)

# ---- faults and scaling

SMALL = {"MODEL_PATH": "fake:frame_seconds=0.05", "CONCURRENT_REQUESTS_PER_WORKER": "2"}
ENDLESS = "x" * 4000  # 200 s at this pace: never read to the end
LONG, SHORT = "x" * 100, "x" * 20  # 5 s and 1 s; a text of more than 150 characters is spoken in chunks
BYTES_OF_A_CHARACTER = 1920 * 2  # the fake engine speaks a frame for each


class Stream:
    """One request on a connection of its own."""

    def __init__(self, cluster: RayCluster, text: str) -> None:
        self.text = text
        self.listener = Listener(cluster).ask(text)  # type: ignore[arg-type]
        self.status = self.listener.status

    @property
    def replica(self) -> str:
        return self.listener.worker

    def is_whole(self) -> bool:
        """Read the rest: it has all its audio, or it was cut."""
        try:
            return len(self.listener.rest()) == len(self.text) * BYTES_OF_A_CHARACTER
        except (HTTPException, OSError):
            return False
        finally:
            self.listener.leave()


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as crowd:
        return list(crowd.map(call, range(count)))


def speaks(cluster: RayCluster) -> bool:
    stream = Stream(cluster, "Hi")
    return stream.is_whole() and stream.status == 200


def capacities(cluster: RayCluster) -> dict[str, int]:
    """The slots of each replica, from the one scrape of all."""
    text = httpx.get(f"{cluster.url}/metrics", headers={"X-API-Key": KEY}, timeout=30).text
    found = re.findall(r'csm_slots_capacity{replica="(\w+)",worker="(\w+)"} (\d+)', text)
    assert all(replica == worker for replica, worker, _ in found)
    return {replica: int(slots) for replica, _, slots in found}


def fill(cluster: RayCluster) -> list[Stream]:
    """Endless streams in all six slots of three replicas, all asked for at once."""
    streams = at_once(6, lambda _: Stream(cluster, ENDLESS))
    assert [each.status for each in streams] == [200] * 6
    assert sorted(each.replica for each in streams) == sorted([*capacities(cluster)] * 2)
    return streams


def accepted(cluster: RayCluster, text: str) -> Stream:
    """A stream of that text as soon as a slot is free."""
    found: list[Stream] = []

    def answers() -> bool:
        stream = Stream(cluster, text)
        if stream.status == 200:
            found.append(stream)
        else:
            stream.listener.leave()
        return bool(found)

    cluster.wait_until(answers)
    return found[0]


def test_a_full_cluster_answers_429_with_retry_after(cluster: RayCluster) -> None:
    cluster.up(3, **SMALL, MAX_QUEUED_REQUESTS="0")
    cluster.wait_until(lambda: len(capacities(cluster)) == 3)
    streams = fill(cluster)
    try:
        refused = Listener(cluster).ask("One too many.")  # type: ignore[arg-type]
        assert (refused.status, refused.error()["code"]) == (429, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        refused.leave()
    finally:
        for each in streams:
            each.listener.leave()
    cluster.wait_until(lambda: speaks(cluster))


def test_a_node_that_dies_loses_only_what_it_spoke_and_is_replaced(cluster: RayCluster) -> None:
    cluster.up(3, **SMALL, MAX_QUEUED_REQUESTS="0")
    node_of = {each["replica"]: each["node"] for each in cluster.status()["replicas"]}
    doomed = next(each for each in cluster.nodes[1:] if each in node_of.values())
    lost, left = [], []
    for each in fill(cluster):
        (lost if node_of[each.replica] == doomed else left).append(each)
    for each in left:
        each.listener.leave()
    assert lost
    assert left
    spared = [accepted(cluster, LONG) for _ in left]  # the other slots are still taken
    cluster.kill_node(cluster.nodes.index(doomed))
    assert all(at_once(len(spared), lambda index: spared[index].is_whole()))
    assert not any(at_once(len(lost), lambda index: lost[index].is_whole()))
    gone = {each.replica for each in lost}
    cluster.wait_until(lambda: len(now := capacities(cluster)) == 3 and not gone & now.keys())
    cluster.wait_until(lambda: speaks(cluster))


def test_scaling_up_and_down_under_load_cuts_no_stream(cluster: RayCluster) -> None:
    cluster.up(
        None,
        **SMALL,
        CLUSTER_MIN_REPLICAS="1",
        CLUSTER_MAX_REPLICAS="3",
        CLUSTER_UPSCALE_SECONDS="0",
        CLUSTER_DOWNSCALE_SECONDS="1",
    )
    cluster.wait_until(lambda: len(capacities(cluster)) == 1)

    def speak(index: int) -> list[bool]:
        """Speak short texts until there are three replicas, then half of the clients one that lasts while they end."""
        whole = []
        while len(capacities(cluster)) < 3:
            whole.append(Stream(cluster, SHORT).is_whole())
        return [*whole, Stream(cluster, LONG).is_whole()] if index % 2 else whole

    whole = [each for client in at_once(6, speak) for each in client]
    assert len(whole) > 3
    assert all(whole)
    cluster.wait_until(lambda: len(capacities(cluster)) == 1)
    cluster.wait_until(lambda: speaks(cluster))


# ---- the suites of one machine

CONTRACT = {"MODEL_PATH": "fake", "MAX_TEXT_LENGTH": "50", "MAX_UPLOAD_MB": "1"}
WEBSOCKETS = {"MODEL_PATH": "fake:frame_seconds=0.02", "MAX_QUEUED_REQUESTS": "0"}


@pytest.fixture
def server(cluster: RayCluster, request: pytest.FixtureRequest) -> RayCluster:
    """The cluster, with the service that the suite of a test expects. A WebSocket's texts are spoken by the replica
    that it is connected to: one replica has the two slots that the WebSocket suite counts on."""
    if request.function.__module__.endswith("test_websocket"):
        cluster.up(1, CONCURRENT_REQUESTS_PER_WORKER="2", **WEBSOCKETS)
    else:
        cluster.up(3, CONCURRENT_REQUESTS_PER_WORKER="2", **CONTRACT)
    return cluster


@pytest.fixture
def api(server: RayCluster) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers={"X-API-Key": KEY})


# Collected from here, with this module's server.
test_every_protected_route_documents_401 = contract.test_every_protected_route_documents_401
test_malicious_json_gets_documented_responses = contract.test_malicious_json_gets_documented_responses
test_responses_conform_to_the_openapi_document = contract.test_responses_conform_to_the_openapi_document
test_random_queries_get_documented_responses = contract.test_random_queries_get_documented_responses
test_random_bodies_get_documented_responses = contract.test_random_bodies_get_documented_responses
test_texts_are_distributed = websocket.test_texts_of_many_connections_are_distributed_over_the_workers
test_a_disconnect_frees_the_slot_at_once = websocket.test_a_disconnect_frees_the_slot_at_once
test_the_key_is_accepted_in_three_places = websocket.test_the_key_is_accepted_in_three_places_and_never_logged
test_an_unknown_voice_is_a_404 = websocket.test_an_unknown_voice_is_a_404
test_an_oversized_message_closes_the_connection = websocket.test_an_oversized_message_closes_the_connection
