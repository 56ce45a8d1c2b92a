"""A run's log: JSON lines, continued when the run resumes."""

from __future__ import annotations

import json
from pathlib import Path

from .run_state import write_atomically


class RunLog:
    """log.jsonl. On resume, lines after the last saved step are dropped first."""

    def __init__(self, path: Path, steps: int) -> None:
        """steps: number of steps in the saved state."""
        self.path = path
        lines = [line for line in read_log(path) if line["step"] <= steps]
        write_atomically(path, lambda partial: partial.write_text("".join(map(_line, lines)), encoding="utf-8"))

    def write(self, entry: dict[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))


def _line(entry: dict[str, float]) -> str:
    return json.dumps(entry) + "\n"


def read_log(path: Path) -> list[dict[str, float]]:
    """All complete lines; [] if the file does not exist."""
    lines = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:  # a partial line of a killed run
                continue
    return lines
