"""What a WebSocket session may do to its connection, and hears of the server below it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope

_STATE = "socket_control"


@dataclass(eq=False)
class SocketControl:
    """Control of one connection, from the server to its session and back.

    shutting_down: set when the service shuts down; the session then finishes the text it is speaking, and closes.
    abort: closes the connection at once, without a close frame, for a client that does not read.
    """

    shutting_down: asyncio.Event = field(default_factory=asyncio.Event)
    abort: Callable[[], None] = lambda: None


def attach(state: MutableMapping[str, Any], control: SocketControl) -> None:
    """Give the session its control. state: of the scope, `scope["state"]`."""
    state[_STATE] = control


def socket_control(scope: Scope) -> SocketControl:
    """The control of a connection; one without effect under a server that attaches none."""
    control = scope.get("state", {}).get(_STATE)
    return control if isinstance(control, SocketControl) else SocketControl()
