"""What a listener costs the worker beside the engine: processor time by format, measured over HTTP. Loopback alone.

    python -m bench.worker                                      256 listeners, every format, slices of one frame
    python -m bench.worker --listeners 64 --formats wav mp3 --frame-ms 20

A service of real processes is started on the fake engine, which gives a frame of 80 ms to every listener once in
--frame-ms and costs next to nothing itself. At 80 it just keeps up, so that slices stay at one frame: the most work
there can be for a second of speech. Well below 80 slices grow to TTS_AUDIO_TOKENS_PER_SLICE, as on a good GPU.

ms: processor time for one second of one listener's speech, of the whole worker, and the shares of its event loop (one
thread: it can have at most 1000 ms a second), of encoding, and of the rest. Processor time and not time: the figures
hold on a busy machine. floor: what encoding alone takes, in this process. lag: how late the event loop comes round.
C100 and the worst gap are those of the listeners; they say something on an idle machine alone. The listeners' own
processor time is not in there, but beside it. The last line is JSON.
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
from .load_test.metrics import LoadMetrics, compute_metrics
from .load_test.report import clear_progress, progress_bar
from .load_test.server import ServerError, running_server, system_status, wait_until_idle
from .load_test.trial import FORMATS, WEBSOCKET_FORMATS, Address, Track, Trial

CLIP_SECONDS = 10.0
_COUNT_SECONDS = 1.5  # a worker counts what it has used once a second
_FRAMES_A_SECOND = 12.5


@dataclass(frozen=True)
class Cost:
    """ms: of processor time for a second of one listener's speech. listening: the listeners' own, for comparison."""

    format: str
    listeners: int
    rate: float  # seconds of speech a second, all together
    ms: float
    event_loop_ms: float
    encoding_ms: float
    engine_ms: float
    floor_ms: float
    listening_ms: float
    lag_p95_ms: float | None
    c100: float | None
    worst_gap_ms: float | None
    answered: float


@dataclass(frozen=True)
class Snapshot:
    """What a worker has used and said so far. used: seconds of its whole process."""

    used: float
    parts: dict[str, float]
    lags: dict[float, float]
    audio: float


def snapshot(address: Address) -> Snapshot:
    pids = [int(each["pid"]) for each in system_status(address)["workers"]]
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    with closing(http.client.HTTPConnection(address.host, address.port, timeout=10)) as connection:
        connection.request("GET", "/metrics", headers={"X-API-Key": address.key})
        text = connection.getresponse().read().decode()
    parts = {name: float(value) for name, value in re.findall(r'cpu_seconds_total\{part="(\w+)"\} (\S+)', text)}
    lags = {float(le): float(count) for le, count in re.findall(r'loop_lag_seconds_bucket\{le="(\S+)"\} (\S+)', text)}
    audio = re.search(r"^csm_audio_seconds_total (\S+)", text, re.MULTILINE)
    return Snapshot(sum(each.user + each.system for each in times), parts, lags, float(audio[1]) if audio else 0.0)


def lag_at(share: float, before: Snapshot, after: Snapshot) -> float | None:
    """The bucket of event-loop lag, in seconds, that this share of the looks is not above."""
    grown = {le: after.lags[le] - before.lags.get(le, 0.0) for le in sorted(after.lags)}
    total = max(grown.values(), default=0.0)
    return next((le for le, count in grown.items() if total and count >= share * total), None)


def floor_ms(name: str) -> float:
    """Milliseconds that encoding a second of speech takes in slices of one frame; nothing for what is not encoded."""
    if name in WEBSOCKET_FORMATS:
        return 0.0
    from app.encoders import FORMATS as ENCODERS

    return cpu_ms_per_frame(ENCODERS[name], voice_like(10.0), 1) * _FRAMES_A_SECOND


def cost_of(address: Address, generator: LoadGenerator, name: str, listeners: int, ramp: float, seconds: float) -> Cost:
    track = Track("fixed", CLIP_SECONDS, name)
    trial = Trial(address, track, "closed", listeners, ramp, seconds, CLIP_SECONDS + 10)
    time.sleep(_COUNT_SECONDS)
    before = snapshot(address)
    heard = generator.run(trial, progress_bar(trial))
    clear_progress()
    wait_until_idle(address, 30)
    time.sleep(_COUNT_SECONDS)
    after = snapshot(address)
    figures: LoadMetrics = compute_metrics(trial, heard)
    spoken = after.audio - before.audio
    if not spoken:
        raise ServerError(f"nothing was spoken as {name}: {figures.rejects}")

    def ms(seconds: float) -> float:
        return round(seconds / spoken * 1000, 2)

    parts = {part: after.parts[part] - before.parts.get(part, 0.0) for part in after.parts}
    lag = lag_at(0.95, before, after)
    return Cost(
        format=name,
        listeners=listeners,
        rate=round(figures.rate, 1),
        ms=ms(after.used - before.used),
        event_loop_ms=ms(parts.get("event_loop", 0.0)),
        encoding_ms=ms(parts.get("encoding", 0.0)),
        engine_ms=ms(parts.get("engine", 0.0)),
        floor_ms=round(floor_ms(name), 2),
        listening_ms=ms(heard.processor),
        lag_p95_ms=None if lag is None or math.isinf(lag) else lag * 1000,  # beyond the last bucket: not told
        c100=None if figures.c is None else round(figures.c[100], 4),
        worst_gap_ms=None if figures.worst_gap is None else round(figures.worst_gap * 1000),
        answered=round(figures.answered / max(figures.streams, 1), 4),
    )


HEADER = (
    f"{'format':>10}{'listeners':>10}{'speech s/s':>11}{'ms':>7}{'loop':>7}{'encode':>7}{'engine':>7}{'floor':>7}"
    f"{'  a core holds':>14}{'lag p95':>9}{'C100':>8}{'gap ms':>7}{'listening':>10}"
)


def line(cost: Cost) -> str:
    lag, c100 = "-" if cost.lag_p95_ms is None else f"{cost.lag_p95_ms:g}", "-" if cost.c100 is None else cost.c100
    return (
        f"{cost.format:>10}{cost.listeners:10}{cost.rate:11.1f}{cost.ms:7.2f}{cost.event_loop_ms:7.2f}"
        f"{cost.encoding_ms:7.2f}{cost.engine_ms:7.2f}{cost.floor_ms:7.2f}{1000 / cost.ms:14.0f}{lag:>9}{c100:>8}"
        f"{cost.worst_gap_ms or 0:7.0f}{cost.listening_ms:10.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listeners", type=int, default=256, help="at once (default 256)")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--frame-ms", type=float, default=80.0, help="for a frame of the fake engine (default 80)")
    parser.add_argument("--ramp", type=float, default=4.0, help="seconds in which listeners come (default 4)")
    parser.add_argument("--seconds", type=float, default=15.0, help="measured of each format (default 15)")
    parser.add_argument("--processes", type=int, help="of listeners, at most (default: cores less one)")
    chosen = parser.parse_args(arguments)
    model = f"fake:frame_seconds={chosen.frame_ms / 1000:g}"
    settings = {"LOG_LEVEL": "WARNING", "CONCURRENT_REQUESTS_PER_WORKER": str(chosen.listeners), "WORKERS": "1"}
    costs: list[Cost] = []
    try:
        with running_server(model, settings, 60) as address, LoadGenerator(chosen.processes) as generator:
            print(f"{cpu_name()}; a frame in {chosen.frame_ms:g} ms\n{HEADER}", flush=True)
            for name in chosen.formats:
                costs.append(cost_of(address, generator, name, chosen.listeners, chosen.ramp, chosen.seconds))
                print(line(costs[-1]), flush=True)
    except ServerError as error:
        print(f"bench.worker: {error}", file=sys.stderr)
        return 1
    data = {"benchmark": "worker", "machine": cpu_name(), "frame_ms": chosen.frame_ms}
    print(json.dumps({**data, "costs": [asdict(each) for each in costs]}))
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # also then, the service that was started is stopped
    sys.exit(main())
