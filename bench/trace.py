"""Traces requests through a real service, one at a time: every step from socket to sound, with its milliseconds.

    python -m bench.trace                 csm-mini on this machine's CPU or GPU
    python -m bench.trace --serve PATH    another model: a MODEL_PATH, tiny or fake

Prints the request with the median first audio among --requests, after one that warms up. The floor of its first audio
is the engine's own work in it: prefill and first frame. On a GPU these steps are launches; the frame is read when it is
computed. The last line is JSON. Loopback only.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from .cpu_info import cpu_name
from .load_test.server import ServerError, running_server
from .load_test.trial import Address
from .module_path import ROOT
from .trace_worker import PATH, TRACE_FILE

_TEXT = "The kettle has just boiled."
_ENGINE_WORK = (("prompt built", "prefill launched"), ("row started", "frame read"))  # begin and end of its parts


@dataclass(frozen=True)
class TracedStep:
    """A step that a request has reached. at: seconds since before the connection was made."""

    where: str
    label: str
    at: float


@dataclass(frozen=True)
class TracedRequest:
    """All steps of one request in order of time, the client's included."""

    steps: tuple[TracedStep, ...]

    @property
    def first_audio(self) -> float:
        return next(step.at for step in self.steps if step.label == "first sound received")

    @property
    def floor(self) -> float | None:
        """Seconds of the engine's own work until the first audio; None for an engine that is not traced."""
        at = {step.label: step.at for step in self.steps}
        if not all(label in at for pair in _ENGINE_WORK for label in pair):
            return None
        return sum(at[end] - at[begin] for begin, end in _ENGINE_WORK)


def trace(address: Address, file: Path, voice: str | None, seconds: float = 30.0) -> TracedRequest:
    """Send one request and join what the client and the worker have noted. Raises ServerError."""
    lines = _lines(file)
    query = {"text": _TEXT, "format": "raw_pcm", "seed": 1} | ({} if voice is None else {"voice_id": voice})
    began = time.monotonic()
    client = []
    with closing(http.client.HTTPConnection(address.host, address.port, timeout=seconds)) as connection:
        connection.connect()
        client.append(("connected", time.monotonic()))
        connection.request("GET", f"{PATH}?{urlencode(query)}", headers={"X-API-Key": address.key})
        client.append(("request sent", time.monotonic()))
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise ServerError(f"the service answered {answer.status}: {answer.read().decode()}")
        if not answer.read1(1 << 16):
            raise ServerError("the answer has no audio")
        client.append(("first sound received", time.monotonic()))
        answer.read()
        client.append(("all sound received", time.monotonic()))
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while len(found := _lines(file)) == len(lines):  # the worker writes when its application is done
        if time.monotonic() > deadline:
            raise ServerError(f"the worker wrote no trace to {file} within {seconds:.0f} s")
        pause.wait(0.02)
    noted = [(where, label, at) for where, label, at in json.loads(found[-1])]
    steps = sorted([*noted, *(("client", label, at) for label, at in client)], key=lambda step: step[2])
    return TracedRequest(tuple(TracedStep(where, label, at - began) for where, label, at in steps))


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def table(request: TracedRequest) -> str:
    lines, before = [f"{'ms':>9}{'took':>9}  {'where':<12}step"], 0.0
    for step in request.steps:
        lines.append(f"{step.at * 1e3:9.2f}{(step.at - before) * 1e3:9.2f}  {step.where:<12}{step.label}")
        before = step.at
    return "\n".join(lines)


def to_json(requests: Sequence[TracedRequest], chosen: TracedRequest) -> dict[str, object]:
    return {
        "first_audio_ms": [round(each.first_audio * 1e3, 2) for each in requests],
        "floor_ms": None if chosen.floor is None else round(chosen.floor * 1e3, 2),
        "steps": [{"ms": round(step.at * 1e3, 3), "where": step.where, "step": step.label} for step in chosen.steps],
    }


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--serve", metavar="MODEL", default=str(ROOT / "models" / "csm-mini"), help="default: csm-mini")
    made.add_argument("--device", default="auto", help="of the service (default: auto)")
    made.add_argument("--voice", help="a voice_id (default: the service's)")
    made.add_argument("--requests", type=int, default=5, help="how many (default 5)")
    made.add_argument("--start-seconds", type=float, default=300.0, help="startup timeout of the service (default 300)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="trace-") as folder:
        file = Path(folder) / "trace.jsonl"
        settings = {
            "DEVICE": chosen.device, "WORKERS": "1", "LOG_LEVEL": "WARNING", TRACE_FILE: str(file),
            "GUNICORN_CMD_ARGS": "--worker-class=bench.trace_worker.TracedWorker",
        }  # fmt: skip
        try:
            with running_server(chosen.serve, settings, chosen.start_seconds) as address:
                requests = [trace(address, file, chosen.voice) for _ in range(1 + max(chosen.requests, 1))][1:]
        except ServerError as error:
            print(f"bench.trace: {error}", file=sys.stderr)
            return 1
    median = sorted(requests, key=lambda each: each.first_audio)[len(requests) // 2]
    print(f"{Path(chosen.serve).name} on {chosen.device}; {cpu_name()}\n{table(median)}")
    first = ", ".join(f"{each.first_audio * 1e3:.1f}" for each in requests)
    floor = (
        "not traced for this engine" if median.floor is None else f"{median.floor * 1e3:.1f} ms of the engine's work"
    )
    print(f"first audio of each request: {first} ms; floor: {floor}")
    print(json.dumps(to_json(requests, median)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
