"""A model by its id on the hub: /health and the log show the download, and the service then speaks with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine import random_checkpoint
from tests.engine.adapters import LINEAR, write_adapter
from tests.engine.hub_server import running_hub
from tests.integration.pool_clients import health


@pytest.mark.timeout(180)
def test_an_adapter_on_the_hub_is_downloaded_and_speaks(serve: Any, tmp_path: Path) -> None:
    model = random_checkpoint.build_model(random_checkpoint.TINY)
    base, adapter = tmp_path / "base", tmp_path / "lora"
    random_checkpoint.write_checkpoint(base, model)
    write_adapter(adapter, model, "someone/csm", target_modules=LINEAR)
    with running_hub() as hub:
        hub.repositories = {"someone/csm": base, "someone/lora": adapter}
        hub.hold.clear()
        server = serve(
            wait=False, MODEL_PATH="someone/lora", HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "home"), DEVICE="cpu",
            CONCURRENT_REQUESTS_PER_WORKER="1",
        )  # fmt: skip
        server.wait_for(202, "/health")
        server.wait_until(lambda: "downloading someone/lora: " in health(server)[1]["tts_engines"]["cpu_0"]["doing"])
        assert server.get("/readyz") == 503
        hub.hold.set()
        server.wait_for(200)
        assert health(server)[1]["tts_engines"]["cpu_0"]["engine"] == "csm"
        assert server.get("/tts/generate?text=Hello&max_audio_length_ms=400") == 200
    assert "downloading someone/csm: " in server.log
    assert "downloaded someone/csm" in server.log
