"""Number of GPUs and price per hour for a number of concurrent users, computed from a measured load.

    python -m bench.cost --load load.json --price 3.50          output of bench.load
    python -m bench.cost --streams 64 --price 3.50 --users 1 50 500

A stream is a client whose audio arrives in real time (p95 of first audio at most 300 ms, C100 at least 99%): a load
that holds in bench.load. The comparison is one model per user, as in an earlier CSM service that claims 13 GPUs for 50
users on unspecified GPUs, at the same price here. Nothing is measured or assumed: streams and price are inputs. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CLAIMED_GPUS, CLAIMED_USERS = 13, 50  # one model per user, as claimed by that service


class NoMeasurementError(Exception):
    """The input has no usable measurement."""


@dataclass(frozen=True)
class Cost:
    """Cost for `users` concurrent users. price: of all GPUs per hour."""

    users: int
    gpus: int
    price: float
    claimed_gpus: int
    claimed_price: float


def claimed_users_per_gpu() -> int:
    """The largest number of users per GPU at which 50 users still need the claimed 13 GPUs."""
    return max(n for n in range(1, CLAIMED_USERS + 1) if math.ceil(CLAIMED_USERS / n) >= CLAIMED_GPUS)


def cost_of(users: int, streams: int, price: float) -> Cost:
    """streams: real-time streams per GPU. price: of one GPU per hour."""
    gpus = math.ceil(users / streams)
    claimed = math.ceil(users / claimed_users_per_gpu())
    return Cost(users, gpus, gpus * price, claimed, claimed * price)


def measured_streams(text: str) -> tuple[int, str]:
    """Streams per GPU and a description of their source, from the output of bench.load.

    Uses the largest closed-loop load that held, of the worse track if there are two. Raises NoMeasurementError.
    """
    try:
        data: Any = json.loads(text.strip().splitlines()[-1])
        benchmark, runs, workers = data["benchmark"], data["runs"], data["workers"]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise NoMeasurementError(f"the last line is not JSON of bench.load ({type(error).__name__}: {error})") from None
    if benchmark != "load":
        raise NoMeasurementError(f"it is output of bench.{benchmark}, not of bench.load")
    tracks: dict[str, float] = {}
    for run in runs:
        if run["loop"] == "closed":
            held = run["load"] if run["holds"] else 0
            tracks[run["track"]] = max(tracks.get(run["track"], 0), held)
    if not tracks or not min(tracks.values()):
        raise NoMeasurementError("no closed-loop load holds, so there are no real-time streams")
    track = min(tracks, key=lambda name: tracks[name])
    streams, engines = int(tracks[track]), sorted({str(each["engine"]) for each in workers})
    count = len(workers)
    source = (
        f"{streams} concurrent clients held on {count} worker{'s' if count != 1 else ''} ({', '.join(engines)}), "
        f"{track} track, on {data['machine']}"
    )
    if streams < count:
        raise NoMeasurementError(f"{source}: less than one stream per worker")
    return streams // count, source


def warnings(text: str) -> list[str]:
    """Reasons why the measurement does not represent CSM on a GPU."""
    workers = json.loads(text.strip().splitlines()[-1])["workers"]
    found = []
    if any(each["engine"] != "csm" for each in workers):
        found.append("not measured on CSM: the table only shows the arithmetic")
    if any(each["gpu"] is None for each in workers):
        found.append("measured without a GPU: each CPU worker counts as one")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--load", type=Path, metavar="FILE", help="output of bench.load; its last line is read")
    source.add_argument("--streams", type=int, help="measured real-time streams per GPU")
    parser.add_argument("--price", type=float, required=True, help="of one GPU per hour")
    parser.add_argument("--currency", default="$")
    parser.add_argument("--users", type=int, nargs="+", default=[1, 50, 500], help="concurrent users")
    chosen = parser.parse_args(arguments)
    if chosen.price <= 0 or min(chosen.users) < 1 or (chosen.streams is not None and chosen.streams < 1):
        parser.error("--price is above 0, --streams and --users are at least 1")
    notes: list[str] = []
    try:
        if chosen.load is None:
            streams, origin = chosen.streams, "given with --streams"
        else:
            text = chosen.load.read_text(encoding="utf-8")
            streams, origin = measured_streams(text)
            notes = warnings(text)
    except (OSError, UnicodeDecodeError, NoMeasurementError) as error:
        print(f"bench.cost: {chosen.load}: {error}", file=sys.stderr)
        return 1
    each = claimed_users_per_gpu()
    print(f"streams per GPU: {streams} ({origin})")
    print(f"price of one GPU: {chosen.currency}{chosen.price:.2f} per hour (given), the same on both sides")
    print(f"one model per user: {CLAIMED_GPUS} GPUs for {CLAIMED_USERS} users is at most {each} users per GPU")
    for note in notes:
        print(f"NOTE: {note}")
    costs = [cost_of(users, streams, chosen.price) for users in chosen.users]
    print(f"\n{'users':>6}{'GPUs':>7}{'per hour':>12}{'per user':>11}   one model per user:{'GPUs':>6}{'per hour':>12}")
    for cost in costs:
        print(
            f"{cost.users:6}{cost.gpus:7}{cost.price:12.2f}{cost.price / cost.users:11.4f}"
            f"{'':22}{cost.claimed_gpus:6}{cost.claimed_price:12.2f}"
            f"   GPUs = ceil({cost.users} / {streams}), ceil({cost.users} / {each})"
        )
    print(
        json.dumps(
            {
                "benchmark": "cost",
                "streams_per_gpu": streams,
                "source": origin,
                "price_per_gpu_hour": chosen.price,
                "currency": chosen.currency,
                "users_per_gpu_one_model_each": each,
                "costs": [asdict(cost) for cost in costs],
                "notes": notes,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
