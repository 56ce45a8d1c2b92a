"""The parts of a worker beside its engine, and whether each of them works. `/health` names those that do not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

_log = logging.getLogger(__name__)

ComponentName = Literal["voice_decoder", "speaker_voices", "encoders", "threads"]
COMPONENTS: tuple[ComponentName, ...] = ("voice_decoder", "speaker_voices", "encoders", "threads")

ComponentState = Literal["unchecked", "ok", "failed"]
COMPONENT_STATES: tuple[ComponentState, ...] = ("unchecked", "ok", "failed")

Report = Callable[[str | None, str], None]
"""Tells how a part is: why it does not work (None: it does), and what else the log should say."""


@dataclass(frozen=True)
class ComponentStatus:
    """error: why it failed, for people; "" unless it did."""

    state: ComponentState = "unchecked"
    error: str = ""


def report_nothing(error: str | None, detail: str) -> None:
    """A Report for whoever has nobody to tell."""


class Components:
    """State of the parts of one worker. Every method may be called from any thread.

    on_change: called, from the reporting thread, when a part fails, works again or is known for the first time.
    """

    def __init__(self) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._errors: dict[ComponentName, dict[str, str]] = {}  # of each part that was checked, by item
        self._lock = threading.Lock()

    def report(self, part: ComponentName, error: str | None, detail: str = "", item: str = "") -> None:
        """Note whether a part works, and log one line when that changes.

        error: why it does not; None: it does. detail: more about it, for the log alone.
        item: which of several things the part is made of, such as a format; the part fails with any of them.
        """
        with self._lock:
            known = part in self._errors
            errors = self._errors.setdefault(part, {})
            before = errors.get(item)
            if error is None:
                errors.pop(item, None)
            else:
                errors[item] = error
        name = f"{part} ({item})" if item else part
        if error is not None and error != before:
            _log.error("%s does not work: %s%s", name, error, f" [{detail}]" if detail else "")
        elif error is None and before is not None:
            _log.info("%s works again", name)
        if error != before or not known:
            self.on_change()

    def reporter(self, part: ComponentName) -> Report:
        return lambda error, detail: self.report(part, error, detail)

    def statuses(self) -> Mapping[ComponentName, ComponentStatus]:
        with self._lock:
            return {part: _status(self._errors.get(part)) for part in COMPONENTS}


def _status(errors: Mapping[str, str] | None) -> ComponentStatus:
    if errors is None:
        return ComponentStatus()
    if not errors:
        return ComponentStatus("ok")
    return ComponentStatus("failed", "; ".join(f"{item}: {error}" if item else error for item, error in errors.items()))
