"""csm-serve wyoming: a bridge between Home Assistant's voice protocol, Wyoming, and a running service."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from csm_serve_client import AsyncCsmClient
from csm_serve_client.transport import Server

from . import connection
from .exit_status import EXIT_HELP, CommandFailed, ExitStatus

_SERVICE_TYPE = "_wyoming._tcp.local."
_EVERYWHERE = ("0.0.0.0", "::", "")


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "wyoming",
        help="serve Home Assistant with the voices of a running service",
        description="Serve Home Assistant, over its Wyoming protocol, with the voices of a running service. It is a "
        "bridge: it needs no GPU, and one service feeds many. It needs the extra `wyoming`.",
        epilog=EXIT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--listen",
        default="tcp://0.0.0.0:10200",
        metavar="URI",
        help="where Home Assistant connects to: tcp://address:port (default: tcp://0.0.0.0:10200)",
    )
    parser.add_argument("--voice", metavar="ID", default="speaker_0", help="the voice of requests that name none")
    parser.add_argument("--zeroconf", metavar="NAME", help="announce the bridge in the local network under this name")
    connection.add_options(parser)
    parser.set_defaults(command=wyoming)


def wyoming(parsed: argparse.Namespace) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    address = urlsplit(parsed.listen)
    try:
        port = address.port
    except ValueError:
        port = None
    if address.scheme != "tcp" or address.hostname is None or port is None:
        raise CommandFailed(f"--listen {parsed.listen} must be tcp://address:port", ExitStatus.USAGE)
    asyncio.run(_serve(address.hostname, port, parsed))


async def _serve(host: str, port: int, parsed: argparse.Namespace) -> None:
    try:
        from .wyoming_bridge import WyomingBridge
    except ImportError as error:
        raise _missing(error) from None
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with AsyncCsmClient(parsed.url, retries=parsed.retries) as client:
        bridge = WyomingBridge(client, Server.of(parsed.url, None), parsed.voice)
        server = await asyncio.start_server(bridge.serve, host, port)
        port = server.sockets[0].getsockname()[1]
        async with server, announced(parsed.zeroconf, host, port):
            print(f"Serving Wyoming on tcp://{host}:{port}", file=sys.stderr, flush=True)
            await stopped.wait()
            server.close()
            await bridge.close()


@asynccontextmanager
async def announced(name: str | None, host: str, port: int, interfaces: list[str] | None = None) -> AsyncIterator[None]:
    """Announce the bridge by mDNS while the block runs, as Home Assistant discovers it. name: None: do not.

    interfaces: addresses of those to announce on; None: all.
    """
    if name is None:
        yield
        return
    try:
        from zeroconf import InterfaceChoice
        from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf
    except ImportError as error:
        raise _missing(error) from None
    address = _own_address() if host in _EVERYWHERE else socket.gethostbyname(host)
    info = AsyncServiceInfo(
        _SERVICE_TYPE, f"{name}.{_SERVICE_TYPE}", port, addresses=[socket.inet_aton(address)], server=f"{name}.local."
    )
    zeroconf = AsyncZeroconf(interfaces=interfaces or InterfaceChoice.All)
    try:
        await zeroconf.async_register_service(info)
        yield
    finally:
        await zeroconf.async_unregister_service(info)
        await zeroconf.async_close()


def _own_address() -> str:
    """The address of this machine that others in its network use. Sends nothing."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("224.0.0.251", 5353))  # the group of mDNS
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _missing(error: ImportError) -> CommandFailed:
    return CommandFailed(f"{error}: install it with pip install 'csm-serve[wyoming]'", ExitStatus.FAILED)
