"""CPU cost per stream of a worker without the engine, by audio format, measured over HTTP. Loopback only.

    python -m bench.worker                                      256 clients, every format, slices of one frame
    python -m bench.worker --listeners 64 --formats wav mp3 --frame-ms 20
    python -m bench.worker --listeners 1000 --formats raw_pcm --http-workers 0 1 0 1 --busy-ms 20

Starts a service on the fake engine, which sends every client an 80 ms frame once per --frame-ms and uses almost no CPU
itself. At 80 it just keeps up, so slices stay at one frame: the most work per second of audio. Well below 80, slices
grow to TTS_AUDIO_TOKENS_PER_SLICE, as on a fast GPU. With --busy-ms its thread computes in Python for so long per
frame, as a real engine does to launch a GPU's work; it then competes with the event loop for the interpreter.
--http-workers runs everything again for each value of HTTP_WORKERS.

ms: CPU time of all workers for one second of one client's audio, with the shares of event loops (one thread each: at
most 1000 ms per second), of encoding, and of the rest. CPU time is independent of other load on the machine. process:
CPU time of the process with the engine alone. first: p95 of first audio. floor: CPU time of encoding alone, in this
process. lag: event-loop lag. C100 and the worst gap are the clients'; they are
meaningful only on an idle machine. The clients' own CPU time is shown separately. The last line is JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import re
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass

import psutil

from .cpu_info import cpu_name
from .encoders import cpu_ms_per_frame, voice_like
from .load_test.load_generator import LoadGenerator
from .load_test.metrics import compute_metrics
from .load_test.report import clear_progress, progress_bar
from .load_test.server import ServerError, running_server, system_status, wait_until_idle
from .load_test.trial import FORMATS, WEBSOCKET_FORMATS, Address, Track, Trial

CLIP_SECONDS = 10.0
_COUNT_SECONDS = 1.5  # workers update their CPU counters once a second
_FRAMES_A_SECOND = 12.5


@dataclass(frozen=True)
class Cost:
    """Times in ms are CPU time per second of one client's audio. listening_ms: of the clients, for comparison.

    process_ms: of the process with the engine. first_audio_ms: p50 and p95, wall time.
    """

    format: str
    http_workers: int
    listeners: int
    rate: float  # seconds of audio per second, all clients
    ms: float
    event_loop_ms: float
    encoding_ms: float
    engine_ms: float
    process_ms: float
    floor_ms: float
    listening_ms: float
    lag_p95_ms: float | None
    c100: float | None
    worst_gap_ms: float | None
    answered: float
    first_audio_ms: tuple[float, float] | None


@dataclass(frozen=True)
class Snapshot:
    """Counters of all workers. used: CPU seconds of their processes; engine: of those with an engine alone.

    parts: CPU seconds by component.
    """

    used: float
    engine: float
    parts: dict[str, float]
    lags: dict[float, float]
    audio: float


def snapshot(address: Address) -> Snapshot:
    workers = system_status(address)["workers"]
    times = {each["worker_id"]: psutil.Process(int(each["pid"])).cpu_times() for each in workers}
    used = {worker_id: each.user + each.system for worker_id, each in times.items()}
    engine = sum(used[each["worker_id"]] for each in workers if each["capacity"])
    with closing(http.client.HTTPConnection(address.host, address.port, timeout=10)) as connection:
        connection.request("GET", "/metrics", headers={"X-API-Key": address.key})
        text = connection.getresponse().read().decode()
    parts = {name: float(value) for name, value in re.findall(r'cpu_seconds_total\{part="(\w+)"\} (\S+)', text)}
    lags = {float(le): float(count) for le, count in re.findall(r'loop_lag_seconds_bucket\{le="(\S+)"\} (\S+)', text)}
    audio = re.search(r"^csm_audio_seconds_total (\S+)", text, re.MULTILINE)
    return Snapshot(sum(used.values()), engine, parts, lags, float(audio[1]) if audio else 0.0)


def lag_at(share: float, before: Snapshot, after: Snapshot) -> float | None:
    """Upper bound in seconds of the histogram bucket that holds this quantile of event-loop lag."""
    counts = {le: after.lags[le] - before.lags.get(le, 0.0) for le in sorted(after.lags)}
    total = max(counts.values(), default=0.0)
    return next((le for le, count in counts.items() if total and count >= share * total), None)


def floor_ms(name: str) -> float:
    """CPU milliseconds for encoding a second of audio in slices of one frame; 0 for WebSocket formats."""
    if name in WEBSOCKET_FORMATS:
        return 0.0
    from app.audio.encoders import FORMATS as ENCODERS

    return cpu_ms_per_frame(ENCODERS[name], voice_like(10.0), 1) * _FRAMES_A_SECOND


def cost_of(address: Address, generator: LoadGenerator, name: str, chosen: argparse.Namespace, http: int) -> Cost:
    """http: HTTP_WORKERS of the service."""
    track = Track("fixed", CLIP_SECONDS, name)
    trial = Trial(address, track, "closed", chosen.listeners, chosen.ramp, chosen.seconds, CLIP_SECONDS + 10)
    time.sleep(_COUNT_SECONDS)
    before = snapshot(address)
    results = generator.run(trial, progress_bar(trial))
    clear_progress()
    wait_until_idle(address, 30)
    time.sleep(_COUNT_SECONDS)
    after = snapshot(address)
    metrics = compute_metrics(trial, results)
    audio_seconds = after.audio - before.audio
    if not audio_seconds:
        raise ServerError(f"no audio in format {name}: {metrics.rejects}")

    def ms(seconds: float) -> float:
        return round(seconds / audio_seconds * 1000, 2)

    parts = {part: after.parts[part] - before.parts.get(part, 0.0) for part in after.parts}
    lag = lag_at(0.95, before, after)
    return Cost(
        format=name,
        http_workers=http,
        listeners=chosen.listeners,
        rate=round(metrics.audio_rate, 1),
        ms=ms(after.used - before.used),
        event_loop_ms=ms(parts.get("event_loop", 0.0)),
        encoding_ms=ms(parts.get("encoding", 0.0)),
        engine_ms=ms(parts.get("engine", 0.0)),
        process_ms=ms(after.engine - before.engine),
        floor_ms=round(floor_ms(name), 2),
        listening_ms=ms(results.cpu_seconds),
        lag_p95_ms=None if lag is None or math.isinf(lag) else lag * 1000,  # above the last bucket
        c100=None if metrics.underrun_shares is None else round(metrics.underrun_shares[100], 4),
        worst_gap_ms=None if metrics.worst_gap is None else round(metrics.worst_gap * 1000),
        answered=round(metrics.answered / max(metrics.streams, 1), 4),
        first_audio_ms=None
        if metrics.first_audio is None
        else (round(metrics.first_audio[50] * 1000, 1), round(metrics.first_audio[95] * 1000, 1)),
    )


HEADER = (
    f"{'format':>10}{'http':>5}{'listeners':>10}{'speech s/s':>11}{'ms':>7}{'loop':>7}{'encode':>7}{'engine':>7}"
    f"{'process':>8}{'floor':>7}{'  a core holds':>14}{'lag p95':>9}{'C100':>8}{'gap ms':>7}{'first':>8}"
    f"{'listening':>10}"
)


def table_row(cost: Cost) -> str:
    lag, c100 = "-" if cost.lag_p95_ms is None else f"{cost.lag_p95_ms:g}", "-" if cost.c100 is None else cost.c100
    first = "-" if cost.first_audio_ms is None else f"{cost.first_audio_ms[1]:.0f}"
    return (
        f"{cost.format:>10}{cost.http_workers:5}{cost.listeners:10}{cost.rate:11.1f}{cost.ms:7.2f}"
        f"{cost.event_loop_ms:7.2f}{cost.encoding_ms:7.2f}{cost.engine_ms:7.2f}{cost.process_ms:8.2f}"
        f"{cost.floor_ms:7.2f}{1000 / cost.ms:14.0f}{lag:>9}{c100:>8}{cost.worst_gap_ms or 0:7.0f}{first:>8}"
        f"{cost.listening_ms:10.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listeners", type=int, default=256, help="concurrent clients (default 256)")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--frame-ms", type=float, default=80.0, help="time of a frame of the fake engine (default 80)")
    parser.add_argument(
        "--busy-ms", type=float, default=0.0, help="Python in the engine's thread per frame (default 0)"
    )
    parser.add_argument(
        "--http-workers",
        type=int,
        nargs="+",
        default=[0],
        help="values of HTTP_WORKERS, one after the other (default 0)",
    )
    parser.add_argument("--ramp", type=float, default=4.0, help="seconds over which clients start (default 4)")
    parser.add_argument("--seconds", type=float, default=15.0, help="measured per format (default 15)")
    parser.add_argument("--processes", type=int, help="maximum client processes (default: cores less one)")
    chosen = parser.parse_args(arguments)
    model = f"fake:frame_seconds={chosen.frame_ms / 1000:g},busy_seconds={chosen.busy_ms / 1000:g}"
    settings = {"LOG_LEVEL": "WARNING", "CONCURRENT_REQUESTS_PER_WORKER": str(chosen.listeners), "WORKERS": "1"}
    costs: list[Cost] = []
    try:
        print(f"{cpu_name()}; a frame in {chosen.frame_ms:g} ms\n{HEADER}", flush=True)
        for http in chosen.http_workers:
            environment = {**settings, "HTTP_WORKERS": str(http)}
            with running_server(model, environment, 60) as address, LoadGenerator(chosen.processes) as generator:
                for name in chosen.formats:
                    costs.append(cost_of(address, generator, name, chosen, http))
                    print(table_row(costs[-1]), flush=True)
    except ServerError as error:
        print(f"bench.worker: {error}", file=sys.stderr)
        return 1
    data = {"benchmark": "worker", "machine": cpu_name(), "frame_ms": chosen.frame_ms, "busy_ms": chosen.busy_ms}
    print(json.dumps({**data, "costs": [asdict(each) for each in costs]}))
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stops the started service on SIGTERM
    sys.exit(main())
