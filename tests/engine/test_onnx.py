from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
from app.realtime.vad import SileroVad
import numpy as np
SileroVad().run(np.zeros((1, 576), np.float32), np.zeros((2, 1, 128), np.float32))
"""


def test_onnxruntime_leaves_nothing_in_the_users_home(tmp_path: Path) -> None:
    """With telemetry on it writes a device identifier there."""
    pytest.importorskip("onnxruntime")
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, timeout=110, check=True)
    assert list(tmp_path.iterdir()) == []
