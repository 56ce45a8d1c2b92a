"""The service on three Ray nodes, with a tiny random CSM: a full cluster, faults, scaling, seeds, and the suites of one
machine against its port.

`make test-cluster` runs them: it sets CLUSTER_TESTS=all.
"""

from __future__ import annotations

import io
import os
import re
import wave
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import schemathesis

from tests.cluster.conftest import RayCluster
from tests.integration import test_contract as contract
from tests.integration import test_websocket as websocket
from tests.integration.pool_clients import Listener
from tests.integration.shared import KEY

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("CLUSTER_TESTS") != "all", reason="they take minutes: `make test-cluster` runs them"
    ),
    pytest.mark.timeout(300),  # three replicas load torch beside those that they replace
]

# ---- faults and scaling

SMALL = {"CONCURRENT_REQUESTS_PER_WORKER": "2"}
WORDS = "These are the words that a random model reads as noise, for as long as it is allowed to. "
ENDLESS = WORDS * 45  # minutes of audio: never read to the end
LONG, SHORT = WORDS * 2, "Hello."  # a text of more than 150 characters is spoken in chunks
SEED = "5"


class Stream:
    """One request on a connection of its own."""

    def __init__(self, cluster: RayCluster, text: str, **parameters: str) -> None:
        self.listener = Listener(cluster).ask(text, **{"seed": SEED, **parameters})  # type: ignore[arg-type]
        self.status = self.listener.status

    @property
    def replica(self) -> str:
        return self.listener.worker

    def audio(self) -> bytes | None:
        """Read the rest: all of its audio, or None if the stream was cut."""
        try:
            audio = self.listener.rest()
        except (HTTPException, OSError):
            return None
        finally:
            self.listener.leave()
        assert self.status == 200, audio
        return audio


def at_once(count: int, call: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as crowd:
        return list(crowd.map(call, range(count)))


def speaks(cluster: RayCluster) -> bool:
    stream = Stream(cluster, SHORT)
    if stream.status == 200:
        return bool(stream.audio())
    stream.listener.leave()
    return False


def scrape(cluster: RayCluster, seconds: float = 30.0) -> str:
    """The metrics of all replicas; empty if they do not come in time."""
    try:
        return httpx.get(f"{cluster.url}/metrics", headers={"X-API-Key": KEY}, timeout=seconds).text
    except httpx.TimeoutException:
        return ""


def capacities_in(text: str) -> dict[str, int]:
    """The slots of each replica."""
    found = re.findall(r'csm_slots_capacity{replica="(\w+)",worker="(\w+)"} (\d+)', text)
    assert all(replica == worker for replica, worker, _ in found)
    return {replica: int(slots) for replica, _, slots in found}


def capacities(cluster: RayCluster) -> dict[str, int]:
    return capacities_in(scrape(cluster))


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


def fill(cluster: RayCluster) -> list[Stream]:
    """Endless streams in all six slots of three replicas, all asked for at once. A replica of a busy machine may answer
    Serve's router too late, and a request then goes to one that is full: it is sent again."""
    streams = at_once(6, lambda _: accepted(cluster, ENDLESS))
    assert sorted(each.replica for each in streams) == sorted([*capacities(cluster)] * 2)
    return streams


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


def test_a_scrape_has_every_replica_but_one_that_hangs_and_says_so(cluster: RayCluster) -> None:
    cluster.up(3, **SMALL, MAX_QUEUED_REQUESTS="0")
    cluster.wait_until(lambda: len(capacities(cluster)) == 3)
    everyone = capacities(cluster).keys()
    hangs, *_ = cluster.status()["replicas"]
    process = psutil.Process(hangs["pid"])
    process.suspend()
    try:
        scrapes: list[str] = []

        def one_is_missing() -> bool:
            """A scrape that was sent to the replica that hangs has no answer: routers learn of it after seconds."""
            scrapes.append(scrape(cluster, seconds=10))
            return "csm_cluster_scrape_complete 0.0" in scrapes[-1]

        cluster.wait_until(one_is_missing)
        assert capacities_in(scrapes[-1]).keys() == everyone - {hangs["replica"]}
        assert all(at_once(4, lambda _: speaks(cluster)))  # it gets no requests
    finally:
        process.resume()
    cluster.wait_until(lambda: "csm_cluster_scrape_complete 1.0" in scrape(cluster))
    assert capacities(cluster).keys() == everyone


def test_a_node_that_dies_loses_only_what_it_spoke_and_is_replaced(cluster: RayCluster) -> None:
    cluster.up(3, **SMALL, MAX_QUEUED_REQUESTS="0")
    whole = Stream(cluster, LONG).audio()
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
    assert all(audio == whole for audio in at_once(len(spared), lambda index: spared[index].audio()))
    assert not any(at_once(len(lost), lambda index: lost[index].audio()))
    gone = {each.replica for each in lost}
    cluster.wait_until(lambda: len(now := capacities(cluster)) == 3 and not gone & now.keys())
    cluster.wait_until(lambda: speaks(cluster))


def recording() -> bytes:
    """A second of noise as a WAV file."""
    noise = np.random.default_rng(5).normal(0, 3000, 24_000).astype(np.int16)
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(24_000)
        written.writeframes(noise.tobytes())
    return file.getvalue()


def test_a_seed_gives_the_same_audio_on_every_replica(cluster: RayCluster) -> None:
    cluster.up(3, **SMALL, MAX_QUEUED_REQUESTS="0")
    httpx.post(
        f"{cluster.url}/voices",
        headers={"X-API-Key": KEY},
        files={"file": ("noise.wav", recording())},
        data={"transcript": "Some noise."},
        timeout=30,
    ).raise_for_status()
    without_a_voice: dict[str, str] = {}
    for parameters in (without_a_voice, {"voice_id": "noise.wav"}):
        alone = Stream(cluster, LONG, **parameters).audio()
        assert alone
        spoke: set[str] = set()
        while len(spoke) < 3:  # in all slots at once
            for stream in at_once(6, lambda _, parameters=parameters: Stream(cluster, LONG, **parameters)):
                assert stream.audio() == alone
                spoke.add(stream.replica)
        assert Stream(cluster, LONG, **{**parameters, "seed": "6"}).audio() != alone


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
    short, long = Stream(cluster, SHORT).audio(), Stream(cluster, LONG).audio()
    assert short
    assert long

    def speak(index: int) -> list[bool]:
        """Speak short texts until there are three replicas, then half of the clients one that lasts while they end."""
        whole = []
        while len(capacities(cluster)) < 3:
            whole.append(Stream(cluster, SHORT).audio() == short)
        return [*whole, Stream(cluster, LONG).audio() == long] if index % 2 else whole

    whole = [each for client in at_once(6, speak) for each in client]
    assert len(whole) > 3
    assert all(whole)
    cluster.wait_until(lambda: len(capacities(cluster)) == 1)
    cluster.wait_until(lambda: speaks(cluster))


# ---- the suites of one machine

CONTRACT = {"MAX_TEXT_LENGTH": "50", "MAX_UPLOAD_MB": "1", "TTS_MAX_AUDIO_LENGTH_MS": "400"}


@pytest.fixture
def server(cluster: RayCluster, request: pytest.FixtureRequest) -> RayCluster:
    """The cluster, with the service that the suite of a test expects. A WebSocket's texts are spoken by the replica
    that it is connected to: one replica has the two slots that the WebSocket suite counts on."""
    if request.function.__module__.endswith("test_websocket"):
        cluster.up(1, **SMALL, MAX_QUEUED_REQUESTS="0")
    else:
        cluster.up(3, **SMALL, **CONTRACT)
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
