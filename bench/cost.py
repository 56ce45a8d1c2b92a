"""How many GPUs so many listeners take and what they cost an hour: arithmetic on a measured figure.

    python -m bench.cost --load load.json --price 3.50          the last line that bench.load printed
    python -m bench.cost --streams 64 --price 3.50 --users 1 50 500

A stream is one listener whose speech arrives in time without a pause (p95 of first audio at most 300 ms, C100 at
least 99%): what bench.load calls a load that holds. Beside it stands one model per user, as a forerunner has it:
13 GPUs for 50 users by its own claim, on GPUs of its own choice, at the same price here. Nothing is measured here
and nothing is assumed: the streams and the price come from whoever runs it. The last line is JSON.
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

CLAIMED_GPUS, CLAIMED_USERS = 13, 50  # one model per user, as its forerunner says of itself


class NoMeasurementError(Exception):
    """There is no measured figure to work with."""


@dataclass(frozen=True)
class Cost:
    """users listen at once. price: of all GPUs for an hour."""

    users: int
    gpus: int
    price: float
    claimed_gpus: int
    claimed_price: float


def claimed_users_per_gpu() -> int:
    """The most users of one GPU with which 50 users still take the 13 GPUs that are claimed."""
    return max(n for n in range(1, CLAIMED_USERS + 1) if math.ceil(CLAIMED_USERS / n) >= CLAIMED_GPUS)


def cost_of(users: int, streams: int, price: float) -> Cost:
    """streams: real-time streams of one GPU. price: of one GPU for an hour."""
    gpus = math.ceil(users / streams)
    claimed = math.ceil(users / claimed_users_per_gpu())
    return Cost(users, gpus, gpus * price, claimed, claimed * price)


def measured_streams(text: str) -> tuple[int, str]:
    """Streams of one GPU, and where the figure is from: the last line of what bench.load printed.

    The largest closed load that held, the smaller of its tracks if there are two. Raises NoMeasurementError.
    """
    try:
        data: Any = json.loads(text.strip().splitlines()[-1])
        benchmark, runs, workers = data["benchmark"], data["runs"], data["workers"]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise NoMeasurementError(
            f"its last line is not the JSON of bench.load ({type(error).__name__}: {error})"
        ) from None
    if benchmark != "load":
        raise NoMeasurementError(f"it is of bench.{benchmark}, and bench.load is wanted")
    tracks: dict[str, float] = {}
    for run in runs:
        if run["loop"] == "closed":
            held = run["load"] if run["holds"] else 0
            tracks[run["track"]] = max(tracks.get(run["track"], 0), held)
    if not tracks or not min(tracks.values()):
        raise NoMeasurementError("no load of its closed loop holds: there are no real-time streams to count")
    track = min(tracks, key=lambda name: tracks[name])
    streams, engines = int(tracks[track]), sorted({str(each["engine"]) for each in workers})
    count = len(workers)
    source = (
        f"{streams} listeners at once held on {count} worker{'s' if count != 1 else ''} ({', '.join(engines)}), "
        f"{track} track, on {data['machine']}"
    )
    if streams < count:
        raise NoMeasurementError(f"{source}: less than one stream for each")
    return streams // count, source


def warnings(text: str) -> list[str]:
    """Why a figure says nothing about a GPU with CSM, if so."""
    workers = json.loads(text.strip().splitlines()[-1])["workers"]
    found = []
    if any(each["engine"] != "csm" for each in workers):
        found.append("this was not measured on CSM: the table shows the arithmetic and no cost of anything")
    if any(each["gpu"] is None for each in workers):
        found.append("this was measured without a GPU: a worker on the processor stands in its place")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--load", type=Path, metavar="FILE", help="what bench.load printed; its last line is read")
    source.add_argument("--streams", type=int, help="real-time streams that one GPU was measured to hold")
    parser.add_argument("--price", type=float, required=True, help="of one GPU for an hour")
    parser.add_argument("--currency", default="$")
    parser.add_argument("--users", type=int, nargs="+", default=[1, 50, 500], help="who listen at once")
    chosen = parser.parse_args(arguments)
    if chosen.price <= 0 or min(chosen.users) < 1 or (chosen.streams is not None and chosen.streams < 1):
        parser.error("--price is above 0, --streams and --users are at least 1")
    remarks: list[str] = []
    try:
        if chosen.load is None:
            streams, origin = chosen.streams, "given with --streams"
        else:
            text = chosen.load.read_text(encoding="utf-8")
            streams, origin = measured_streams(text)
            remarks = warnings(text)
    except (OSError, UnicodeDecodeError, NoMeasurementError) as error:
        print(f"bench.cost: {chosen.load}: {error}", file=sys.stderr)
        return 1
    each = claimed_users_per_gpu()
    print(f"streams of one GPU: {streams} ({origin})")
    print(f"price of one GPU: {chosen.currency}{chosen.price:.2f} an hour (given), the same on both sides")
    print(f"one model per user: {CLAIMED_GPUS} GPUs for {CLAIMED_USERS} users is at most {each} users a GPU")
    for remark in remarks:
        print(f"NOTE: {remark}")
    costs = [cost_of(users, streams, chosen.price) for users in chosen.users]
    print(f"\n{'users':>6}{'GPUs':>7}{'an hour':>12}{'per user':>11}   one model per user:{'GPUs':>6}{'an hour':>12}")
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
                "notes": remarks,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
