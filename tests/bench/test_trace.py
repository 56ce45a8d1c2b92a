"""bench.trace through a real service: every step is there, in the order in which a request passes them."""

from __future__ import annotations

import json

import pytest

from bench.trace import main
from bench.trace_worker import STEPS


@pytest.mark.timeout(180)
def test_a_request_is_traced_from_socket_to_sound(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--serve", "tiny", "--device", "cpu", "--requests", "1"]) == 0
    data = json.loads(capfd.readouterr().out.splitlines()[-1])
    labels = [step["step"] for step in data["steps"]]
    noted = [label for label in labels if label in {step.label for step in STEPS}]
    assert noted == [step.label for step in STEPS]
    assert labels[0] == "connected"
    # The service may read a request before its sender has gone on to note that it is sent.
    for step in ("request sent", "key checked"):
        assert labels.index(step) < labels.index("first sound received")
    (first_audio,) = data["first_audio_ms"]
    assert 0 < data["floor_ms"] < first_audio
