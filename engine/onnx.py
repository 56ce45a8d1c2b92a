"""Imports onnxruntime with its telemetry off.

Its wheels report usage to Microsoft and keep an identifier of the machine in the user's cache unless this variable is
set before the import; the switch in its API comes too late for the first report (Privacy.md in the wheel).
"""

from __future__ import annotations

import importlib
import os
from typing import Any


def import_onnxruntime() -> Any:
    """The module onnxruntime. Raises ImportError where it is not installed."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    return importlib.import_module("onnxruntime")
