"""The options that every command over HTTP has, and the client they make."""

from __future__ import annotations

import argparse

from ..client import CsmClient


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the service")
    group.add_argument(
        "--url",
        help="its address; else CSM_URL, else HOST and PORT, in the environment or .env (http://127.0.0.1:8000). The "
        "key is API_KEY from there, and no option: all users of a machine see its command lines",
    )
    group.add_argument(
        "--retries",
        type=int,
        default=3,
        metavar="N",
        help="how often to try again when it is busy or not ready, after the wait it names (default: 3)",
    )


def client_of(parsed: argparse.Namespace) -> CsmClient:
    return CsmClient(parsed.url, retries=parsed.retries)
