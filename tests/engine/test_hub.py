"""Models and adapters by their id on the Hub: what is fetched, how it resumes, and what a refusal says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import CheckpointNotFound, EngineConfig, SpeechRequest, load_engine
from engine.config import OPEN_COPY, SESAME_REPOSITORY
from engine.model.checkpoint import find_checkpoint, open_checkpoint

from . import checkpoints
from .adapters import LINEAR, write_adapter
from .hub_server import TOKEN, Fetched, Hub, running_hub, use_hub

NAME = "model.safetensors"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path) -> Iterator[Hub]:
    """A hub with one complete model, an empty cache, and no token."""
    with running_hub() as server:
        use_hub(server, monkeypatch, tmp_path / "cache")
        monkeypatch.setattr("engine.model.hub._REPORT_SECONDS", 0.0)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        server.repositories["someone/voice"] = checkpoint
        yield server


def size(directory: Path) -> int:
    return (directory / NAME).stat().st_size


def test_a_model_is_fetched_once_with_progress(hub: Hub, checkpoint: Path) -> None:
    seen: list[tuple[float, str]] = []
    found = find_checkpoint("someone/voice", None, lambda share, activity: seen.append((share, activity)))
    assert (found / NAME).read_bytes() == (checkpoint / NAME).read_bytes()
    assert hub.fetched == [Fetched(NAME, None, None)]
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert "downloading someone/voice: " in seen[-1][1]
    asked = len(hub.names)
    assert find_checkpoint("someone/voice", None) == found
    assert len(hub.names) == asked


def test_the_shards_of_a_model_are_fetched(hub: Hub, model: Any, tmp_path: Path) -> None:
    hub.repositories["someone/shards"] = checkpoints.write_checkpoint(tmp_path / "shards", model, shard_size="150KB")
    opened = open_checkpoint("someone/shards", None)
    assert "lm_head.weight" in opened.tensors
    assert len(hub.fetched) > 1


def test_a_download_resumes_where_the_connection_broke(hub: Hub, checkpoint: Path) -> None:
    hub.cuts = [10_000, 0, 5_000]
    found = find_checkpoint("someone/voice", None)
    assert (found / NAME).read_bytes() == (checkpoint / NAME).read_bytes()
    assert [each.range for each in hub.fetched] == [None, "bytes=10000-", "bytes=10000-", "bytes=15000-"]


def test_a_download_resumes_at_the_next_start(hub: Hub, checkpoint: Path) -> None:
    hub.cuts = [10_000] + 5 * [0]
    with pytest.raises(CheckpointNotFound, match="the connection broke 6 times"):
        find_checkpoint("someone/voice", None)
    hub.fetched.clear()
    found = find_checkpoint("someone/voice", None)
    assert (found / NAME).read_bytes() == (checkpoint / NAME).read_bytes()
    assert [each.range for each in hub.fetched] == ["bytes=10000-"]


def test_a_server_without_ranges_sends_all_of_it_again(hub: Hub, checkpoint: Path) -> None:
    hub.cuts, hub.ranges = [10_000], False
    found = find_checkpoint("someone/voice", None)
    assert (found / NAME).read_bytes() == (checkpoint / NAME).read_bytes()


def test_damaged_content_is_thrown_away(hub: Hub, checkpoint: Path) -> None:
    hub.damage = True
    with pytest.raises(CheckpointNotFound, match="sha256 differs"):
        find_checkpoint("someone/voice", None)
    hub.damage = False
    found = find_checkpoint("someone/voice", None)
    assert (found / NAME).read_bytes() == (checkpoint / NAME).read_bytes()


def test_a_full_disk_is_reported_before_the_download(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 20_000})())
    with pytest.raises(CheckpointNotFound, match="set HF_HOME to another disk"):
        find_checkpoint("someone/voice", None)
    assert hub.fetched == []


def test_the_token_is_sent_to_the_hub_and_not_to_its_storage(hub: Hub) -> None:
    hub.gated.add("someone/voice")
    with pytest.raises(CheckpointNotFound, match="no token is set") as caught:
        find_checkpoint("someone/voice", None)
    assert "someone/voice is gated" in str(caught.value)
    with pytest.raises(CheckpointNotFound, match="this token has no access to it"):
        find_checkpoint("someone/voice", "hf_other")
    find_checkpoint("someone/voice", TOKEN)
    assert [each.authorization for each in hub.fetched] == [None]


@pytest.mark.parametrize("repository", [SESAME_REPOSITORY, OPEN_COPY, "someone/unknown"])
def test_a_refusal_names_the_copy_without_conditions_first(hub: Hub, checkpoint: Path, repository: str) -> None:
    """That copy may ask for a token too: then its own conditions are named."""
    if repository != "someone/unknown":
        hub.repositories[repository] = checkpoint
        hub.gated.add(repository)
    with pytest.raises(CheckpointNotFound) as caught:
        find_checkpoint(repository, None)
    message = str(caught.value)
    assert 0 < message.index(f"make serve MODEL={OPEN_COPY}") < message.index(f"huggingface.co/{SESAME_REPOSITORY}")
    if repository == OPEN_COPY:
        assert f"accept its conditions at huggingface.co/{OPEN_COPY}" in message


def test_an_adapter_is_served_by_its_id(hub: Hub, model: Any, tmp_path: Path) -> None:
    """Its base is fetched too, and the codes are those of a local copy."""
    hub.repositories["someone/lora"] = tmp_path / "lora"
    options: dict[str, Any] = {"target_modules": LINEAR, "modules_to_save": ["lm_head"]}
    write_adapter(tmp_path / "lora", model, "someone/voice", **options)
    speeches = []
    for name in ("someone/lora", str(tmp_path / "lora"), "someone/voice"):
        engine = load_engine(EngineConfig(name, device="cpu", dtype="float32", slots=1))
        speeches.append(engine.generate(SpeechRequest("Hello.", temperature=0, max_frames=4)).codes)
        engine.close()
    np.testing.assert_array_equal(speeches[0], speeches[1])
    assert not np.array_equal(speeches[0], speeches[2])
    assert {each.name for each in hub.fetched} == {"adapter_model.safetensors", NAME}


def test_an_adapter_whose_base_is_gated_says_what_to_do(hub: Hub, model: Any, checkpoint: Path, tmp_path: Path) -> None:
    hub.repositories |= {"someone/lora": tmp_path / "lora", SESAME_REPOSITORY: checkpoint}
    hub.gated.add(SESAME_REPOSITORY)
    write_adapter(tmp_path / "lora", model, SESAME_REPOSITORY, target_modules=LINEAR)
    with pytest.raises(CheckpointNotFound, match=f"someone/lora is an adapter on {SESAME_REPOSITORY}") as caught:
        open_checkpoint("someone/lora", None)
    assert "csm-serve merge --base MODEL --adapter someone/lora NEW" in str(caught.value)
