"""Simulates arrivals for many GPUs against the router of the cluster: `python -m bench.cluster_router`.

Pure Python, some seconds. Speech requests arrive at random (Poisson) at proxies; each proxy knows what replicas
reported last and what it has sent itself since (cluster.placement); a replica has slots and a first-come queue.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cluster.options import STATS_SECONDS
from cluster.placement import CHOICES, Load, order


@dataclass(frozen=True)
class Scenario:
    """load: arriving speech as a share of all slots. speech_seconds: mean time in a slot, exponentially distributed.
    seconds: simulated, of which the first fifth is not counted."""

    replicas: int = 1000
    slots: int = 16
    load: float = 0.9
    speech_seconds: float = 6.0
    proxies: int = 125  # one for each machine of eight GPUs
    report_seconds: float = STATS_SECONDS
    seconds: float = 30.0
    seed: int = 1


@dataclass
class Replica:
    slots: int
    active: int = 0
    waiting: deque[float] = field(default_factory=deque)  # when they came
    reported: int = 0

    @property
    def busy(self) -> int:
        return self.active + len(self.waiting)


Choose = Callable[[int, Callable[[int], Load], random.Random], int]
POLICIES: dict[str, Choose] = {
    "random": lambda count, load_of, source: source.randrange(count),
    "2 choices": lambda count, load_of, source: order(count, load_of, source, choices=2)[0],
    "8 choices": lambda count, load_of, source: order(count, load_of, source, choices=8)[0],
    f"{CHOICES} choices (the router)": lambda count, load_of, source: order(count, load_of, source)[0],
}


def simulate(scenario: Scenario, choose: Choose) -> list[float]:
    """Seconds that each request waited for a slot, sorted."""
    source = random.Random(scenario.seed)
    replicas = [Replica(scenario.slots) for _ in range(scenario.replicas)]
    sent: list[dict[int, int]] = [{} for _ in range(scenario.proxies)]  # of each proxy, since the last reports
    rate = scenario.load * scenario.replicas * scenario.slots / scenario.speech_seconds
    ends: list[tuple[float, int]] = []
    waits: list[float] = []
    now = next_report = 0.0
    warm = scenario.seconds / 5

    def start(at: float, index: int, came: float) -> None:
        replicas[index].active += 1
        heapq.heappush(ends, (at + source.expovariate(1 / scenario.speech_seconds), index))
        if came >= warm:
            waits.append(at - came)

    for number in range(int(rate * scenario.speech_seconds)):  # begins in the steady state
        start(0.0, number % scenario.replicas, -1.0)
    while now < scenario.seconds:
        now += source.expovariate(rate)
        while ends and ends[0][0] <= now:
            at, index = heapq.heappop(ends)
            replicas[index].active -= 1
            if replicas[index].waiting:
                start(at, index, replicas[index].waiting.popleft())
        if now >= next_report:  # all at once: the worst case for routers that agree
            next_report = now + scenario.report_seconds
            for each in replicas:
                each.reported = each.busy
            for counts in sent:
                counts.clear()
        own = sent[source.randrange(scenario.proxies)]
        index = choose(
            scenario.replicas,
            lambda at, own=own: Load(replicas[at].reported + own.get(at, 0), scenario.slots),  # type: ignore[misc]
            source,
        )
        own[index] = own.get(index, 0) + 1
        if replicas[index].active < scenario.slots:
            start(now, index, now)
        else:
            replicas[index].waiting.append(now)
    waits += [now - came for each in replicas for came in each.waiting if came >= warm]
    return sorted(waits)


def summary(waits: list[float]) -> dict[str, float]:
    def quantile(share: float) -> float:
        return round(waits[min(int(share * len(waits)), len(waits) - 1)] * 1000, 1)

    return {
        "requests": len(waits),
        "waited_percent": round(100 * sum(each > 0 for each in waits) / len(waits), 2),
        "p95_ms": quantile(0.95),
        "p99_ms": quantile(0.99),
        "max_ms": round(waits[-1] * 1000, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=Scenario.replicas)
    parser.add_argument("--slots", type=int, default=Scenario.slots)
    parser.add_argument("--seconds", type=float, default=Scenario.seconds)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.7, 0.8, 0.9, 0.95])
    parsed = parser.parse_args()
    results = []
    for load in parsed.loads:
        for name, choose in POLICIES.items():
            scenario = Scenario(parsed.replicas, parsed.slots, load, seconds=parsed.seconds)
            found = summary(simulate(scenario, choose))
            results.append({"load": load, "policy": name, **found})
            print(
                f"load {load:.0%}  {name:24} {found['waited_percent']:6.2f}% wait  "
                f"p95 {found['p95_ms']:8.1f} ms  p99 {found['p99_ms']:8.1f} ms  of {found['requests']}"
            )
    print(json.dumps({"replicas": parsed.replicas, "slots": parsed.slots, "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
