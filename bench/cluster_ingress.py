"""What a second hop inside the cluster costs: `python -m bench.cluster_ingress`. Needs the extra `ray`.

A thin ingress deployment would keep the client's connection while the replica that speaks dies, so that another one
could go on. Its price is one more hop for each piece of audio. Two applications, in turns: a deployment that streams to
the proxy, and one that passes on what another one streams. Prints the time to the first piece (ms); the last line is
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import StreamingResponse

PIECE = bytes(3840)  # a frame of 80 ms
PIECES = 25


async def pieces() -> AsyncIterator[bytes]:
    for _ in range(PIECES):
        yield PIECE


class Speaker:
    """Streams to the proxy, or to the ingress."""

    async def __call__(self, request: Request) -> StreamingResponse:
        return StreamingResponse(pieces())

    async def speak(self, body: bytes) -> AsyncIterator[bytes]:
        async for each in pieces():
            yield each


class Ingress:
    """Passes on what the speaker streams."""

    def __init__(self, speaker: Any) -> None:
        self._speaker = speaker.options(stream=True)

    async def __call__(self, request: Request) -> StreamingResponse:
        return StreamingResponse(aiter(self._speaker.speak.remote(await request.body())))


DEPLOYED = serve.deployment(ray_actor_options={"num_cpus": 0})
SPEAKER, INGRESS = DEPLOYED(Speaker), DEPLOYED(Ingress)


def first_piece(client: httpx.Client, path: str) -> float:
    """Seconds until the first piece; the stream is read to its end."""
    started = time.perf_counter()
    first, size = 0.0, 0
    with client.stream("POST", path, content=b"{}") as response:
        response.raise_for_status()
        for each in response.iter_raw():
            first = first or time.perf_counter() - started
            size += len(each)
    assert size == PIECES * len(PIECE)
    return first


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300, help="of each kind, one at a time")
    parsed = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init("local", include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(SPEAKER.bind(), name="direct", route_prefix="/direct")
        serve.run(INGRESS.bind(SPEAKER.bind()), name="ingress", route_prefix="/ingress")
        paths = ["/direct/", "/ingress/"]
        times: dict[str, list[float]] = {path: [] for path in paths}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            for number in range(parsed.requests + 20):
                for path in sorted(paths, reverse=bool(number % 2)):
                    seconds = first_piece(client, path)
                    if number >= 20:  # else warming up
                        times[path].append(seconds)
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()
    direct, ingress = (statistics.median(times[path]) * 1000 for path in paths)
    print(f"direct {direct:.2f} ms, through an ingress {ingress:.2f} ms: {ingress - direct:.2f} ms more")
    print(
        json.dumps(
            {"requests": parsed.requests, "direct_p50_ms": round(direct, 2), "ingress_p50_ms": round(ingress, 2)}
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
