"""State of the components that a worker runs beside its engine. `/health` names those that failed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

_log = logging.getLogger(__name__)

ComponentName = Literal["voice_decoder", "speaker_voices", "voice_storage", "encoders", "threads"]
COMPONENTS: tuple[ComponentName, ...] = get_args(ComponentName)

ComponentState = Literal["unchecked", "ok", "failed"]
COMPONENT_STATES: tuple[ComponentState, ...] = ("unchecked", "ok", "failed")

Report = Callable[[str | None, str], None]
"""Called with the error of a component (None: it works) and more detail for the log."""


@dataclass(frozen=True)
class ComponentStatus:
    """error: why it failed; "" unless it did."""

    state: ComponentState = "unchecked"
    error: str = ""


def report_nothing(error: str | None, detail: str) -> None:
    """A Report that does nothing."""


class Components:
    """State of the components of one worker. Thread-safe.

    on_change: called, from the reporting thread, when a component fails, recovers or is reported for the first time.
    """

    def __init__(self) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._errors: dict[ComponentName, dict[str, str]] = {}  # by component, then by item; only of reported ones
        self._lock = threading.Lock()

    def report(self, component: ComponentName, error: str | None, detail: str = "", item: str = "") -> None:
        """Record the state of a component, and log one line when it changes.

        error: why it does not work; None: it works. detail: for the log only.
        item: one of several items of the component, such as a format; it has failed if any item has.
        """
        with self._lock:
            known = component in self._errors
            errors = self._errors.setdefault(component, {})
            before = errors.get(item)
            if error is None:
                errors.pop(item, None)
            else:
                errors[item] = error
        name = f"{component} ({item})" if item else component
        if error is not None and error != before:
            _log.error("%s does not work: %s%s", name, error, f" [{detail}]" if detail else "")
        elif error is None and before is not None:
            _log.info("%s works again", name)
        if error != before or not known:
            self.on_change()

    def reporter(self, component: ComponentName) -> Report:
        return lambda error, detail: self.report(component, error, detail)

    def statuses(self) -> Mapping[ComponentName, ComponentStatus]:
        with self._lock:
            return {name: _status(self._errors.get(name)) for name in COMPONENTS}


def _status(errors: Mapping[str, str] | None) -> ComponentStatus:
    if errors is None:
        return ComponentStatus()
    if not errors:
        return ComponentStatus("ok")
    return ComponentStatus("failed", "; ".join(f"{item}: {error}" if item else error for item, error in errors.items()))
