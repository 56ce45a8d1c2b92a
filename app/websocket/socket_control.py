"""Shutdown signal and abort of one WebSocket connection, shared by the server and the session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope

_STATE = "socket_control"


@dataclass(eq=False)
class SocketControl:
    """Set by the server's protocol, used by the session.

    shutting_down: set when the service shuts down; the session then finishes its current text and closes.
    abort: closes the connection at once, without a close frame, for a client that does not read.
    """

    shutting_down: asyncio.Event = field(default_factory=asyncio.Event)
    abort: Callable[[], None] = lambda: None


def attach(state: MutableMapping[str, Any], control: SocketControl) -> None:
    """Store the control in the state of a scope, `scope["state"]`."""
    state[_STATE] = control


def socket_control(scope: Scope) -> SocketControl:
    """The control of a connection; without effect under a server that attaches none."""
    control = scope.get("state", {}).get(_STATE)
    return control if isinstance(control, SocketControl) else SocketControl()
