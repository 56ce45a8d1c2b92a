"""The module search path for processes that a benchmark starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def module_path() -> str:
    """PYTHONPATH with which a child finds the repository, its client's package, and others where this process does."""
    paths = (str(ROOT), str(ROOT / "clients" / "python"), *sys.path)
    return os.pathsep.join(dict.fromkeys(str(Path(path or ".").resolve()) for path in paths))
