"""A run's log: one line of JSON every few steps, which a run that is taken up again goes on with."""

from __future__ import annotations

import json
from pathlib import Path

from .run_state import write_atomically


class RunLog:
    """log.jsonl. Lines of steps that are not in the state any more, because the run was killed, go away first."""

    def __init__(self, path: Path, steps: int) -> None:
        """steps: how many are done."""
        self.path = path
        lines = [line for line in read_log(path) if line["step"] <= steps]
        write_atomically(path, lambda partial: partial.write_text("".join(map(_line, lines)), encoding="utf-8"))

    def write(self, entry: dict[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))


def _line(entry: dict[str, float]) -> str:
    return json.dumps(entry) + "\n"


def read_log(path: Path) -> list[dict[str, float]]:
    """All whole lines; [] if there is none."""
    lines = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:  # the one that was being written when the run was killed
                continue
    return lines
