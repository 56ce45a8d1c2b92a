"""Options shared by all commands that use HTTP, and the client made from them."""

from __future__ import annotations

import argparse

from csm_serve_client import CsmClient


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the service")
    group.add_argument(
        "--url",
        help="its address; by default CSM_URL, or HOST and PORT, from the environment or .env (http://127.0.0.1:8000). "
        "The key is API_KEY from there and not an option, because all users of a machine can read command lines",
    )
    group.add_argument(
        "--retries",
        type=int,
        default=3,
        metavar="N",
        help="maximum retries while it is busy or not ready, after the delay it requests (default: 3)",
    )


def make_client(parsed: argparse.Namespace) -> CsmClient:
    return CsmClient(parsed.url, retries=parsed.retries)
