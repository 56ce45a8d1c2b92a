"""csm-serve runpod: a worker of a RunPod serverless endpoint, which takes jobs from its queue."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from csm_serve_client import CsmClient, CsmError
from csm_serve_client.environment import configured_url

from . import connection
from .exit_status import EXIT_HELP, CommandFailed, ExitStatus

_POLL_SECONDS = 0.25
_STOP_SECONDS = 60.0


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "runpod",
        help="work on the jobs of a RunPod serverless endpoint",
        description="Start the service, and work on the jobs of a RunPod serverless endpoint. It needs the extra "
        "`runpod`. Options that begin with --rp_ are RunPod's own: --rp_serve_api tries it without RunPod.",
        epilog=EXIT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--concurrency", type=int, default=16, metavar="N", help="jobs at a time (default: 16)")
    connection.add_options(parser)
    parser.add_argument("runpod_options", nargs=argparse.REMAINDER, metavar="-- --rp_…", help="RunPod's own options")
    parser.set_defaults(command=runpod)


def runpod(parsed: argparse.Namespace) -> None:
    """Work until SIGTERM. With --url or CSM_URL the service is one that runs already."""
    if importlib.util.find_spec("runpod") is None:
        raise CommandFailed("the package runpod is missing: install it with pip install 'csm-serve[runpod]'")
    if parsed.concurrency < 1:
        raise CommandFailed(f"--concurrency {parsed.concurrency} must be at least 1", ExitStatus.USAGE)
    signal.signal(signal.SIGTERM, _exit)  # a worker of RunPod has its own handler, which ends its jobs first
    sys.argv = [sys.argv[0], *(each for each in parsed.runpod_options if each != "--")]  # which the package reads
    with _service(parsed) as wait_until_ready:
        import runpod as package  # takes seconds, in which the service starts

        from .runpod_handler import RunPodHandler

        config: dict[str, Any] = {"return_aggregate_stream": True, "concurrency_modifier": lambda _: parsed.concurrency}
        config["handler"] = RunPodHandler(parsed.url, parsed.retries, config).stream
        wait_until_ready()
        package.serverless.start(config)


def _exit(number: int, frame: object) -> None:
    raise SystemExit(0)


@contextmanager
def _service(parsed: argparse.Namespace) -> Iterator[Callable[[], None]]:
    """A service of this machine that starts, or the one that --url names; what waits until it is ready."""
    if parsed.url is not None or configured_url() is not None:
        yield lambda: None
        return
    process = subprocess.Popen([sys.executable, "-m", "app.cli.main", "serve"])

    def wait_until_ready() -> None:
        with CsmClient(parsed.url) as client:
            while not _is_ready(client):
                if process.poll() is not None:
                    raise CommandFailed(f"the service ended with status {process.returncode}: see the lines above")
                time.sleep(_POLL_SECONDS)

    try:
        yield wait_until_ready
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)


def _is_ready(client: CsmClient) -> bool:
    """Raises CommandFailed if it never will be: RunPod then starts another worker."""
    try:
        health = client.health()
    except CsmError:
        return False
    if health.status == "failed":
        raise CommandFailed("no engine of the service can start: see the lines above")
    return health.ready
