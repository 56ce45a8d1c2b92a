"""csm-serve cluster up, status and config: the service on Ray Serve, on one machine or many."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import yaml

from ..settings_loader import SettingsError, load_settings
from .exit_status import CommandFailed, ExitStatus

if TYPE_CHECKING:
    from ..settings import Settings

_EPILOG = """examples:
  csm-serve cluster up                            a Ray cluster of this machine, until Ctrl-C
  csm-serve cluster up --address auto             on the Ray cluster that this machine belongs to
  csm-serve cluster config > serve.yaml           then: serve deploy serve.yaml
  csm-serve cluster status --address auto

docs/scaling.md says when a cluster is worth it."""
PROXIES = {"every": "EveryNode", "head": "HeadOnly"}
_MISSING = "Ray is not installed: pip install 'csm-serve[ray]'"


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "cluster",
        help="run the service on Ray Serve, on one machine or many",
        description="Run the service on Ray Serve: one replica for each GPU, on one machine or many.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    up = verbs.add_parser("up", help="start or update the service", description="Start or update the service.")
    _add_address(up, "of a Ray cluster to use; without it, one of this machine is started and ends with this command")
    _add_size(up)
    up.set_defaults(command=start)
    state = verbs.add_parser("status", help="show the replicas", description="Show the replicas and their load.")
    _add_address(state, "of the Ray cluster; without it, the one that this machine belongs to")
    state.add_argument("--json", action="store_true", help="as JSON")
    state.set_defaults(command=show_status)
    config = verbs.add_parser(
        "config", help="print a config for `serve deploy`", description="Print a config file for `serve deploy`."
    )
    _add_size(config)
    config.set_defaults(command=print_config)


def _add_address(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--address", metavar="ADDRESS", help=f"HOST:PORT {what}")


def _add_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--replicas", type=_positive, metavar="N", help="a fixed number; by default CLUSTER_* decide")
    parser.add_argument("--cpu", action="store_true", help="replicas without a GPU")
    parser.add_argument(
        "--proxies", choices=tuple(PROXIES), default="every", help="which machines listen: every one, or the head alone"
    )


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def start(parsed: argparse.Namespace) -> int:
    settings, launch = _settings(), _launch()
    if parsed.address is None:
        print("Starting Ray on this machine.", file=sys.stderr)
    else:
        print(f"Joining the Ray cluster at {parsed.address}.", file=sys.stderr)
    _connect(launch, parsed.address)
    print("Starting the replicas; each loads the model.", file=sys.stderr)
    gpus = 0 if parsed.cpu or settings.device == "cpu" or not launch.has_gpus() else 1
    try:
        launch.deploy(settings, gpus=gpus, replicas=parsed.replicas, proxies=PROXIES[parsed.proxies])
    except RuntimeError as error:
        raise CommandFailed(f"the service did not start: {error}") from error
    sys.stdout.write(f"Ready: http://{settings.host}:{settings.port}\n")
    sys.stdout.flush()
    if parsed.address is None:
        stop = threading.Event()
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda *_: stop.set())
        stop.wait()
        launch.shutdown()
    return ExitStatus.DONE


def show_status(parsed: argparse.Namespace) -> int:
    launch = _launch()
    _connect(launch, parsed.address or "auto")
    launch.quiet()
    status = launch.status()
    if parsed.json:
        sys.stdout.write(json.dumps(status, indent=2) + "\n")
        return ExitStatus.DONE
    sys.stdout.write(f"{status['status']} {status['message']}".rstrip() + "\n")
    for each in status["replicas"]:
        load = f"{each['active']}/{each['capacity']} slots, {each['queued']} queued"
        sys.stdout.write(f"  {each['replica']}  node {each['node'][:8]}  {each['state']}  {each['engine']}  {load}\n")
    return ExitStatus.DONE


def print_config(parsed: argparse.Namespace) -> int:
    from cluster.config import serve_config

    config = serve_config(
        _settings(), gpus=0 if parsed.cpu else 1, replicas=parsed.replicas, proxies=PROXIES[parsed.proxies]
    )
    yaml.safe_dump(config, sys.stdout, sort_keys=False)
    return ExitStatus.DONE


def _settings() -> Settings:
    try:
        return load_settings()
    except SettingsError as error:
        raise CommandFailed(str(error), ExitStatus.USAGE) from error


def _launch() -> Any:
    try:
        return importlib.import_module("cluster.launch")
    except ImportError as error:
        raise CommandFailed(f"{_MISSING} ({error})") from error


def _connect(launch: Any, address: str | None) -> None:
    try:
        launch.connect(address)
    except ConnectionError as error:
        raise CommandFailed(f"no Ray cluster at {address}: {error}", ExitStatus.UNREACHABLE) from error
