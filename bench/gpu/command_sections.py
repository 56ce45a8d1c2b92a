"""Sections in processes of their own: tests/gpu, the service over HTTP, and the other benchmarks on this device."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys

from ..module_path import ROOT, module_path
from .session import Session

_STOP_SECONDS = 15.0


class CommandError(Exception):
    """The command exited with an error; the message has the end of its output."""


def gpu_tests(session: Session) -> None:
    if not session.cuda:
        session.recorder.add("tests", skipped="no GPU")
        return
    run_command(session, "tests", "pytest", "-q", "-p", "no:cacheprovider", "--durations=10", "tests/gpu")


def http(session: Session) -> None:
    """How many listeners the service serves over HTTP on loopback."""
    plan = session.plan
    run_command(
        session,
        "http",
        *("bench.load", "--serve", str(session.folder), "--device", str(session.device), "--loop", "closed"),
        *("--track", "fixed", "--slots", str(max(plan.loads)), "--loads", *map(str, plan.loads)),
        *("--clip-seconds", str(plan.clip_seconds), "--ramp", "3", "--seconds", str(plan.load_seconds)),
        *("--drain", str(2 * plan.load_seconds)),
        *("--start-seconds", str(100 * plan.limits), "--minutes", str(2.5 * plan.limits)),
    )


def attention(session: Session) -> None:
    rows = map(str, session.plan.rows[::2])
    run_command(session, "attention", "bench.attention", *_model(session), "--rows", *rows)


def peers(session: Session) -> None:
    rows = map(str, session.plan.peer_rows)
    sizes = ("--streams", str(session.plan.streams), "--frames", str(min(session.plan.frames, 25)), "--rounds", "2")
    run_command(session, "peers", "bench.peers", *_model(session), "--rows", *rows, *sizes)


def depth_weights(session: Session) -> None:
    rows = map(str, session.plan.rows[:4])
    sizes = ("--frames", str(min(session.plan.frames, 25)))
    run_command(session, "depth-weights", "bench.depth_weights", *_model(session), "--rows", *rows, *sizes)


def cost(session: Session) -> None:
    if session.price is None:
        session.recorder.add("cost", skipped="needs --price, of this GPU per hour")
        return
    load = str(session.recorder.beside("http"))
    run_command(session, "cost", "bench.cost", "--load", load, "--price", str(session.price))


def _model(session: Session) -> tuple[str, ...]:
    return ("--model", str(session.folder), "--device", str(session.device))


def run_command(session: Session, name: str, module: str, *arguments: str) -> None:
    """Run `python -m module`, keep its output in a file, and record its last line of JSON. Raises CommandError.

    The engine in this process is released before, so that both fit onto the GPU and neither slows the other down.
    """
    session.release()
    lines: list[str] = []
    with (
        session.recorder.beside(name).open("w", encoding="utf-8") as log,
        # In its own session, so that it can be ended with all its child processes.
        subprocess.Popen(
            ["env", f"PYTHONPATH={module_path()}", sys.executable, "-u", "-m", module, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                log.write(line)
                log.flush()
                lines.append(line.rstrip())
            status = process.wait()
        finally:
            _end(process)
    last = next((line for line in reversed(lines) if line), "")
    figures = json.loads(last) if last.startswith("{") else {"last_line": last}
    session.recorder.add(name, **figures)
    if status:
        raise CommandError(f"{module} exited with status {status}: " + "\n".join(lines[-15:]))


def _end(process: subprocess.Popen[str]) -> None:
    """SIGTERM, then SIGKILL for whatever is left of the command and its children."""
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)
