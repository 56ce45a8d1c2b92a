"""Run the soak: `make soak`, or `python -m scripts.soak --minutes 2 --seed 7`. Ends with a table and a line of JSON.

Ten minutes of Poisson arrivals on four workers: clients that behave and clients that do not, while workers are
killed at random (all but the oldest, so that one process has lived through everything). Then the load stops, and
what is left is compared with what was there before. Exits 1 if anything does not hold.
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

from scripts.soak.clients import CLIENTS, FORMATS, Client, verdict_of, whole
from scripts.soak.http_client import KEY
from scripts.soak.service import Holding, Service

WORKERS, SLOTS = 4, 8
SECONDS_BETWEEN_KILLS = 20.0  # on average
SETTLE_SECONDS = 330.0  # for all to be at rest; a worker that was killed many times in a row waits up to 300
# How much more than before may be held at the end: descriptors for a monitor's connection, threads of pools that
# were not yet full, memory that the allocator keeps.
MORE_DESCRIPTORS, MORE_THREADS, MORE_MEMORY_MIB = 2, 8, 24.0

Verdicts = dict[str, Counter[str]]


async def _load(service: Service, seconds: float, rate: float, chance: Random) -> tuple[Verdicts, int]:
    """Clients come at random for so long, and workers are killed. Returns how they fared, and the kills."""
    verdicts: Verdicts = {client.__name__: Counter() for client in CLIENTS}
    running: set[asyncio.Task[None]] = set()
    ends, kills = time.monotonic() + seconds, 0
    next_client, next_kill = time.monotonic(), time.monotonic() + chance.expovariate(1 / SECONDS_BETWEEN_KILLS)

    async def send(client: Client, seed: int) -> None:
        verdicts[client.__name__][await verdict_of(client, service.port, Random(seed))] += 1

    while (now := time.monotonic()) < ends:
        if now >= next_kill:
            kills += await asyncio.to_thread(service.kill_one, chance) is not None
            next_kill = now + chance.expovariate(1 / SECONDS_BETWEEN_KILLS)
        if now >= next_client:
            (client,) = chance.choices(list(CLIENTS), list(CLIENTS.values()))
            task = asyncio.create_task(send(client, chance.randrange(1 << 30)))
            running.add(task)
            task.add_done_callback(running.discard)
            next_client += chance.expovariate(rate)
        await asyncio.sleep(max(min(next_client, next_kill, ends) - time.monotonic(), 0.0))
    if running:
        await asyncio.wait(running)
    return verdicts, kills


async def _warm_up(service: Service, chance: Random) -> None:
    """Every pool of threads full and every format made once, so that what comes later is compared with that."""
    for _ in FORMATS:
        await asyncio.gather(
            *(verdict_of(whole, service.port, Random(chance.random())) for _ in range(WORKERS * SLOTS))
        )


def _checks(
    verdicts: Verdicts,
    counts: Counter[str],
    before: tuple[Holding, list[Holding]],
    after: tuple[Holding, list[Holding]],
) -> dict[str, bool]:
    """What has to hold at the end, each with what it says."""
    seen: Counter[str] = sum(verdicts.values(), Counter())
    ended = sum(counts[f"csm_requests_{way}_total"] for way in ("finished", "aborted", "failed"))
    most = [max(getattr(each, name) for each in before[1]) for name in ("descriptors", "threads", "memory")]
    pairs = [
        (after[0], [before[0].descriptors, before[0].threads, before[0].memory]),
        *((one, most) for one in after[1]),
    ]
    return {
        "admitted = finished + aborted + failed": counts["csm_requests_admitted_total"] == ended,
        "every 200 was whole or cut, every other answer the right one": not any("WRONG" in each for each in seen),
        "nobody was left waiting": not seen["SILENT"],
        "nothing was finished that a client got a broken answer for": counts["csm_requests_finished_total"]
        >= verdicts["whole"]["whole"],
        "descriptors are back": all(one.descriptors <= limit[0] + MORE_DESCRIPTORS for one, limit in pairs),
        "threads are back": all(one.threads <= limit[1] + MORE_THREADS for one, limit in pairs),
        "memory is back": all(one.memory <= limit[2] + MORE_MEMORY_MIB for one, limit in pairs),
        "one worker lived through it": before[1][0].pid == after[1][0].pid,
    }


def _errors(log: str) -> Counter[str]:
    """What the service has logged as an error, alike where only numbers differ."""
    entries = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return Counter(
        re.sub(r"[\d.]+", "#", " | ".join([entry["message"], *entry.get("exception", "").splitlines()[-1:]]))[:200]
        for entry in entries
        if entry["level"] in ("ERROR", "CRITICAL")
    )


def soak(minutes: float, rate: float, seed: int) -> bool:
    """Returns whether everything holds."""
    chance = Random(seed)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        service = Service(Path(folder), WORKERS, SLOTS)
        try:
            service.wait_until(service.ready, 120, "the start")
            asyncio.run(_warm_up(service, chance))
            service.wait_until(service.ready, SETTLE_SECONDS, "rest after the warm-up")
            at_start, before = service.counted(), service.holdings()
            print(f"{minutes:g} minutes on port {service.port}, seed {seed}, {rate:g} clients a second", flush=True)
            verdicts, kills = asyncio.run(_load(service, minutes * 60, rate, chance))
            service.wait_until(service.ready, SETTLE_SECONDS, "rest after the load")
            counts, after = service.counted(), service.holdings()
            checks = _checks(verdicts, counts, before, after)
            status, took = service.stop()
            checks["SIGTERM: exit 0, and no process left"] = status == 0 and not service.in_session()
            checks["no key in the log"] = KEY not in service.log
            errors = _errors(service.log)
        finally:
            service.destroy()
    _tell(verdicts, counts, before, after, checks)
    figures = {
        "minutes": minutes,
        "rate": rate,
        "seed": seed,
        "kills": kills,
        "stop_seconds": round(took, 2),
        "clients": {name: dict(found) for name, found in verdicts.items()},
        "counted": {name: counts[name] for name in sorted(counts) if name.startswith("csm_requests") and counts[name]},
        "counted_by_the_warm_up": at_start["csm_requests_admitted_total"],
        "restarts": counts["csm_worker_restarts_total"],
        "before": [asdict(each) for each in (before[0], *before[1])],
        "after": [asdict(each) for each in (after[0], *after[1])],
        "errors_logged": dict(errors),
        "checks": checks,
        "holds": all(checks.values()),
    }
    print(json.dumps(figures))
    return all(checks.values())


def _tell(
    verdicts: Verdicts,
    counts: Counter[str],
    before: tuple[Holding, list[Holding]],
    after: tuple[Holding, list[Holding]],
    checks: dict[str, bool],
) -> None:
    print(f"\n{'client':22} {'came':>6}  how they fared")
    for name, found in verdicts.items():
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
        print(f"{'holds ' if holds else 'BROKEN'} {what}")
    print()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.soak", description="Soak the service on loopback.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=8.0, help="clients a second, on average")
    parser.add_argument("--seed", type=int, default=1, help="of who comes when, and who is killed")
    chosen = parser.parse_args()
    return 0 if soak(chosen.minutes, chosen.rate, chosen.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
