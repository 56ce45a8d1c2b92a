"""Soak test: `make soak`, or `python -m scripts.soak --minutes 2 --seed 7`. Prints a table and a line of JSON.

Ten minutes of Poisson arrivals on four workers, with well-behaved and misbehaving clients, while workers are killed at
random (all but the oldest, so that one process runs for the whole test). Then the load stops, and the resources in use
are compared with those before. Exits with status 1 if a check fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from random import Random

from scripts.soak.clients import CLIENTS, FORMATS, Client, run_client, whole
from scripts.soak.http_client import KEY
from scripts.soak.service import Resources, Service

WORKERS, SLOTS = 4, 8
SECONDS_BETWEEN_KILLS = 20.0  # on average
SETTLE_SECONDS = 330.0  # to become idle; a worker that was killed many times in a row restarts after up to 300
# Allowed growth: descriptors of a monitor's connection, threads of pools that were not full, memory that the allocator
# keeps.
MAX_MORE_DESCRIPTORS, MAX_MORE_THREADS, MAX_MORE_MEMORY_MIB = 2, 8, 24.0

Outcomes = dict[str, Counter[str]]


async def _load(service: Service, seconds: float, rate: float, rng: Random) -> tuple[Outcomes, int]:
    """Run clients at random and kill workers for `seconds`. Returns the outcomes by client, and the number of kills."""
    outcomes: Outcomes = {client.__name__: Counter() for client in CLIENTS}
    running: set[asyncio.Task[None]] = set()
    ends, kills = time.monotonic() + seconds, 0
    next_client, next_kill = time.monotonic(), time.monotonic() + rng.expovariate(1 / SECONDS_BETWEEN_KILLS)

    async def send(client: Client, seed: int) -> None:
        outcomes[client.__name__][await run_client(client, service.port, Random(seed))] += 1

    while (now := time.monotonic()) < ends:
        if now >= next_kill:
            kills += await asyncio.to_thread(service.kill_one, rng) is not None
            next_kill = now + rng.expovariate(1 / SECONDS_BETWEEN_KILLS)
        if now >= next_client:
            (client,) = rng.choices(list(CLIENTS), list(CLIENTS.values()))
            task = asyncio.create_task(send(client, rng.randrange(1 << 30)))
            running.add(task)
            task.add_done_callback(running.discard)
            next_client += rng.expovariate(rate)
        await asyncio.sleep(max(min(next_client, next_kill, ends) - time.monotonic(), 0.0))
    if running:
        await asyncio.wait(running)
    return outcomes, kills


async def _warm_up(service: Service, rng: Random) -> None:
    """Fill every thread pool and use every format once, so that later growth is a leak."""
    for _ in FORMATS:
        await asyncio.gather(*(run_client(whole, service.port, Random(rng.random())) for _ in range(WORKERS * SLOTS)))


def _checks(
    outcomes: Outcomes,
    counts: Counter[str],
    before: tuple[Resources, list[Resources]],
    after: tuple[Resources, list[Resources]],
) -> dict[str, bool]:
    """The checks by description."""
    seen: Counter[str] = sum(outcomes.values(), Counter())
    ended = sum(counts[f"csm_requests_{result}_total"] for result in ("finished", "aborted", "failed"))
    most = [max(getattr(each, name) for each in before[1]) for name in ("descriptors", "threads", "memory")]
    pairs = [
        (after[0], [before[0].descriptors, before[0].threads, before[0].memory]),
        *((one, most) for one in after[1]),
    ]
    return {
        "admitted = finished + aborted + failed": counts["csm_requests_admitted_total"] == ended,
        "every 200 was complete or truncated, every other status expected": not any("WRONG" in each for each in seen),
        "no client timed out": not seen["SILENT"],
        "every complete response was counted as finished": counts["csm_requests_finished_total"]
        >= outcomes["whole"]["whole"],
        "descriptors did not grow": all(one.descriptors <= limit[0] + MAX_MORE_DESCRIPTORS for one, limit in pairs),
        "threads did not grow": all(one.threads <= limit[1] + MAX_MORE_THREADS for one, limit in pairs),
        "memory did not grow": all(one.memory <= limit[2] + MAX_MORE_MEMORY_MIB for one, limit in pairs),
        "the oldest worker survived": before[1][0].pid == after[1][0].pid,
    }


def _errors(log: str) -> Counter[str]:
    """Logged errors with counts; entries that differ only in numbers are merged."""
    entries = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return Counter(
        re.sub(r"[\d.]+", "#", " | ".join([entry["message"], *entry.get("exception", "").splitlines()[-1:]]))[:200]
        for entry in entries
        if entry["level"] in ("ERROR", "CRITICAL")
    )


def soak(minutes: float, rate: float, seed: int) -> bool:
    """Run the soak test. True if all checks pass."""
    rng = Random(seed)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        service = Service(Path(folder), WORKERS, SLOTS)
        try:
            service.wait_until(service.ready, 120, "startup")
            asyncio.run(_warm_up(service, rng))
            service.wait_until(service.ready, SETTLE_SECONDS, "idle after the warm-up")
            at_start, before = service.metrics(), service.resources()
            print(f"{minutes:g} minutes on port {service.port}, seed {seed}, {rate:g} clients per second", flush=True)
            outcomes, kills = asyncio.run(_load(service, minutes * 60, rate, rng))
            service.wait_until(service.ready, SETTLE_SECONDS, "idle after the load")
            counts, after = service.metrics(), service.resources()
            checks = _checks(outcomes, counts, before, after)
            status, took = service.stop()
            checks["SIGTERM: exit 0 and no process left"] = status == 0 and not service.in_session()
            checks["no key in the log"] = KEY not in service.log
            errors = _errors(service.log)
        finally:
            service.destroy()
    _print_report(outcomes, counts, before, after, checks)
    result = {
        "minutes": minutes,
        "rate": rate,
        "seed": seed,
        "kills": kills,
        "stop_seconds": round(took, 2),
        "clients": {name: dict(found) for name, found in outcomes.items()},
        "counted": {name: counts[name] for name in sorted(counts) if name.startswith("csm_requests") and counts[name]},
        "counted_by_the_warm_up": at_start["csm_requests_admitted_total"],
        "restarts": counts["csm_worker_restarts_total"],
        "before": [asdict(each) for each in (before[0], *before[1])],
        "after": [asdict(each) for each in (after[0], *after[1])],
        "errors_logged": dict(errors),
        "checks": checks,
        "holds": all(checks.values()),
    }
    print(json.dumps(result))
    return all(checks.values())


def _print_report(
    outcomes: Outcomes,
    counts: Counter[str],
    before: tuple[Resources, list[Resources]],
    after: tuple[Resources, list[Resources]],
    checks: dict[str, bool],
) -> None:
    print(f"\n{'client':22} {'count':>6}  outcomes")
    for name, found in outcomes.items():
        print(f"{name:22} {sum(found.values()):6}  {', '.join(f'{n} {what}' for what, n in found.most_common())}")
    print()
    for name in ("admitted", "finished", "aborted", "failed"):
        total = f"csm_requests_{name}_total"
        reasons = ", ".join(
            f"{n} {each[len(total) + 1 : -1]}" for each, n in counts.items() if f"{total}{{" in each and n
        )
        print(f"{name:22} {counts[total]:6}  {reasons}")
    print(f"\n{'process':22} {'descriptors':>11} {'threads':>8} {'MiB':>8}")
    for label, (master, workers) in (("before", before), ("after", after)):
        for role, each in (("master", master), *(("worker", one) for one in workers)):
            print(f"{f'{role} {each.pid} {label}':22} {each.descriptors:11} {each.threads:8} {each.memory:8.1f}")
    print()
    for what, holds in checks.items():
        print(f"{'ok    ' if holds else 'FAILED'} {what}")
    print()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.soak", description="Soak the service on loopback.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=8.0, help="clients per second, on average")
    parser.add_argument("--seed", type=int, default=1, help="of arrivals and kills")
    chosen = parser.parse_args()
    return 0 if soak(chosen.minutes, chosen.rate, chosen.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
