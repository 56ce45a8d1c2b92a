"""onnxruntime, imported with its telemetry off, and its sessions.

Its wheels report usage to Microsoft and keep an identifier of the machine in the user's cache unless this variable is
set before the import; the switch in its API comes too late for the first report (Privacy.md in the wheel).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def import_onnxruntime() -> Any:
    """The module onnxruntime. Raises ImportError where it is not installed."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    return importlib.import_module("onnxruntime")


def inference_session(
    graph: Path | bytes, threads: int = 1, weights: Mapping[str, npt.NDArray[np.uint8]] | None = None
) -> Any:
    """An onnxruntime.InferenceSession on the CPU, which several threads may run at once.

    graph: an ONNX file, or what it holds. threads: that share one run. weights: the external files that it names.
    Raises ImportError without onnxruntime, and onnxruntime's errors for a graph that it cannot take.
    """
    onnxruntime = import_onnxruntime()  # here: it takes a quarter of a second, and not every service needs it
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Threads that spin between operators would take the cores from the event loop and the other requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if weights:
        names, arrays = list(weights), list(weights.values())
        options.add_external_initializers_from_files_in_memory(names, arrays, [array.size for array in arrays])
    source = graph if isinstance(graph, bytes) else str(graph)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
