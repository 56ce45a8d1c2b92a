from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_all_transports_hand_over_every_slice() -> None:
    """A process of its own: the benchmark forks."""
    command = [sys.executable, "-m", "bench.audio_handover", "--streams", "3", "--ticks", "12", "--rounds", "1"]
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [*command, "--frames", "5"], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )  # 12 slices of 5 frames exceed a stream's window and its part of the shared memory
    results = json.loads(ended.stdout.splitlines()[-1])["results"]
    assert [each["transport"] for each in results] == ["stream sockets", "one socket", "shared memory"]
    assert all(min(each["sender_us"], each["receiver_us"], each["latency_p50_ms"]) > 0 for each in results)
