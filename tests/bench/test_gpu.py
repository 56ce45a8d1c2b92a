"""bench.gpu: sections, their limits, and what they keep."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors import safe_open

from bench.gpu import __main__ as gpu
from bench.gpu import command_sections
from bench.gpu.checkpoint import draw_checkpoint
from bench.gpu.command_sections import CommandError, run_command
from bench.gpu.kernels import Kernel, by_kind, kind_of
from bench.gpu.records import Recorder
from bench.gpu.sections import Section, SectionTimeout, run_sections, select
from bench.gpu.session import CPU, GPU, TINY, Plan, Session
from bench.module_path import ROOT
from engine.random_checkpoint import TINY as TINY_SHAPE

DEVICE = torch.device("cpu")


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder(tmp_path / "run.jsonl")
    yield recorder
    recorder.close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def section(name: str, work: Callable[[None], None] = lambda session: None, *needs: str, limit: float = 60) -> Any:
    return Section(name, limit, ("first",), work, needs)


def fail(session: None) -> None:
    raise RuntimeError("no memory")


def test_the_slots_limit_the_rows_of_frames() -> None:
    assert GPU.with_slots(None) is GPU
    assert GPU.with_slots(4).rows == (2, 4)
    assert GPU.with_slots(64).rows == (2, 8, 16, 64)


def test_a_failure_ends_its_section_and_those_that_need_it(recorder: Recorder) -> None:
    ran: list[str] = []
    sections = [
        section("bad", fail),
        section("dependent", lambda session: ran.append("dependent"), "bad"),
        section("other", lambda session: ran.append("other")),
    ]
    assert not run_sections(sections, None, recorder, 60)
    assert ran == ["other"]
    told = {line["what"]: line for line in lines(recorder.path)}
    assert told["bad"]["failed"] == "RuntimeError: no memory"
    assert told["dependent"]["skipped"] == "it needs bad"
    assert told["other.seconds"]["seconds"] >= 0
    assert run_sections(sections[2:], None, recorder, 60)


def test_a_section_ends_at_its_limit_even_if_it_catches_exceptions(recorder: Recorder) -> None:
    def hang(session: None) -> None:
        try:
            threading.Event().wait(100)
        except Exception:
            threading.Event().wait(100)

    before = signal.getsignal(signal.SIGALRM)
    assert not run_sections([section("long", hang, limit=6)], None, recorder, 60, factor=0.9)
    assert lines(recorder.path)[0]["exceeded_seconds"] == 5.4
    assert signal.getsignal(signal.SIGALRM) is before
    assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] < 120 - 5  # the limit of this test goes on
    assert not issubclass(SectionTimeout, Exception)


def test_sections_are_skipped_when_the_time_is_up(recorder: Recorder) -> None:
    assert not run_sections([section("late")], None, recorder, 1)
    assert lines(recorder.path)[0]["skipped"] == "the time is up"


def test_sections_are_selected_with_those_they_need() -> None:
    def names(stages: list[str], only: tuple[str, ...] = (), skip: tuple[str, ...] = ()) -> list[str]:
        return [each.name for each in select(gpu.SECTIONS, stages, only, skip)]

    assert names(["profile"]) == ["checkpoint", "load", "census"]
    assert names(["first"], only=("census",)) == ["checkpoint", "load", "census"]
    assert "http" not in names(["first"], skip=("tests",))
    assert set(names(list(gpu.STAGES))) == {each.name for each in gpu.SECTIONS}
    with pytest.raises(ValueError, match="no section speed"):
        names(["first"], only=("speed",))
    with pytest.raises(ValueError, match="cannot skip load"):
        names(["first"], skip=("load",))


def test_every_section_follows_those_it_needs() -> None:
    seen: set[str] = set()
    for each in gpu.SECTIONS:
        assert set(each.needs) <= seen
        seen.add(each.name)


@pytest.mark.timeout(300)
def test_a_tiny_run_measures_everything_in_this_process(tmp_path: Path) -> None:
    arguments = ["--tiny", "--stage", "first", "profile", "--skip", "tests", "--results", str(tmp_path)]
    assert gpu.main(arguments) == 0
    (path,) = tmp_path.glob("*.jsonl")
    first, *rest = lines(path)
    assert first["what"] == "conditions"
    assert first["command"] == " ".join(["python -m bench.gpu", *arguments])
    assert first["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"date", "device", "driver", "commit", "cores"} <= first.keys()
    told: dict[str, list[dict[str, Any]]] = {}
    for line in rest:
        told.setdefault(line["what"], []).append(line)
    assert told["load"][0]["positions"] == TINY_SHAPE["max_position_embeddings"]
    assert [(each["rows"], each["context"]) for each in told["frame"]] == [(2, 120), (4, 120), (4, 400)]
    assert all(each["floor_ms"] < each["step_ms"] for each in told["frame"])
    assert told["step"][0]["computed_by"] == "plain"
    assert told["fused"][0]["reason"]
    assert [each["rows"] for each in told["codec"]] == [2, 4]
    assert all(min(each["chosen_ms"], each["plain_ms"], each["moshi_ms"]) > 0 for each in told["codec"])
    assert all(each["difference"] == 0 and not each["kernels"] for each in told["codec"])  # on a CPU
    assert told["seed.repeated"][0]["equal"]
    assert [each["rows"] for each in told["seed.among"]] == [4]
    assert told["prefill"][0]["whole_ms"] > 0
    assert [each["listeners"] for each in told["listeners"]] == [1, 3]
    assert all(0 < each["first_audio_p50_ms"] <= each["first_audio_p95_ms"] for each in told["listeners"])
    assert {(each["part"], each["rows"]) for each in told["census"]} == {
        (part, rows) for part in ("step", "codec") for rows in (2, 4)
    }
    assert sum(each["kinds"]["norms"]["count"] for each in told["census"]) > 0
    assert "== step, 2 rows" in path.with_name(f"{path.stem}-census.txt").read_text(encoding="utf-8")
    assert "CSM is ready" in told["log"][-1]["text"]


def test_a_drawn_checkpoint_has_the_tensors_of_a_built_one(checkpoint: Path, tmp_path: Path) -> None:
    nbytes = draw_checkpoint(tmp_path, TINY_SHAPE, DEVICE, torch.float32)
    shapes = []
    for folder in (checkpoint, tmp_path):
        with safe_open(folder / "model.safetensors", "pt") as tensors:
            names = [name for name in tensors.keys() if "embed_tokens" not in name]  # noqa: SIM118  not a dict
            shapes.append({name: tensors.get_slice(name).get_shape() for name in names})
    assert shapes[0] == shapes[1]
    assert nbytes == pytest.approx((tmp_path / "model.safetensors").stat().st_size, rel=0.1)


class _Parsed(Exception):
    pass


@pytest.mark.parametrize("plan", [GPU, CPU, TINY], ids=["gpu", "cpu", "tiny"])
def test_every_command_is_valid(
    plan: Plan, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parse = argparse.ArgumentParser.parse_args

    def only_parse(self: argparse.ArgumentParser, arguments: list[str] | None = None) -> None:
        parse(self, arguments)
        raise _Parsed

    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(command_sections, "run_command", lambda session, name, *command: commands.append(command))
    session = Session(plan, DEVICE, tmp_path, recorder, price=3.5)
    for each in gpu.SECTIONS:
        if each.work.__module__ == command_sections.__name__:
            each.work(session)
    assert {module for module, *_ in commands} == {
        f"bench.{name}" for name in ("load", "attention", "peers", "depth_weights", "cost")
    }
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    for module, *arguments in commands:
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        with pytest.raises(_Parsed):
            importlib.import_module(module).main()


def test_a_run_on_a_gpu_takes_less_than_ten_minutes() -> None:
    assert GPU.seconds < 600
    assert GPU.limits == 1


def test_the_output_of_a_command_is_kept_and_its_last_line_recorded(recorder: Recorder, tmp_path: Path) -> None:
    session = Session(TINY, DEVICE, tmp_path, recorder)
    run_command(session, "listing", "json.tool", "--compact", str(_json(tmp_path)))
    assert lines(recorder.path)[0] | {"t": 0} == {"t": 0, "what": "listing", "rows": 3}
    assert recorder.beside("listing").read_text(encoding="utf-8") == '{"rows":3}\n'
    with pytest.raises(CommandError, match="No module named no_such_module"):
        run_command(session, "missing", "no_such_module")


def _json(folder: Path) -> Path:
    path = folder / "figures.json"
    path.write_text('{"rows": 3}', encoding="utf-8")
    return path


def test_a_command_that_exceeds_its_limit_is_ended(recorder: Recorder, tmp_path: Path) -> None:
    def wait_long(session: Session) -> None:
        run_command(session, "long", "timeit", "-n", "1", "-r", "1", "-s", "import time", "time.sleep(500)")

    session = Session(TINY, DEVICE, tmp_path, recorder)
    assert not run_sections([Section("long", 6, ("first",), wait_long)], session, recorder, 60)
    assert lines(recorder.path)[0]["exceeded_seconds"] == 6
    assert not [child for child in psutil.Process().children() if "timeit" in child.cmdline()]


@pytest.mark.parametrize(
    ("part", "kind", "count"),
    [
        ("step, 2 rows", "matrix products", 593),
        ("step, 2 rows", "top-k and argmax", 96),
        ("step, 256 rows", "norms", 311),
        ("step, 64 rows", "ragged attention", 32),
        ("codec, 64 rows", "attention", 8),
    ],
)
def test_kernels_are_counted_by_kind(part: str, kind: str, count: int) -> None:
    """On the census of a real GPU."""
    text = (ROOT / "bench/results/2026-11-28-h200-census.txt").read_text(encoding="utf-8")
    block = text.partition(f"== {part}:")[2].partition("\n==")[0]
    found = re.findall(r"^ +([\d.]+) ms +(\d+) x +[\d.]+ us  (.*)$", block, re.MULTILINE)
    kernels = [Kernel(name, int(launches), float(milliseconds)) for milliseconds, launches, name in found]
    assert len(kernels) > 30
    kinds = by_kind(kernels)
    assert kinds[kind][0] == count
    assert list(kinds.values()) == sorted(kinds.values(), key=lambda each: -each[1])
    assert kind_of("something_new") == "others"
    assert {kind_of(f"{name}_kernel") for name in ("qkv", "add", "gate_up", "down", "head")} == {"fused products"}


def test_without_a_gpu_the_alternatives_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert gpu.main(["--results", str(tmp_path)]) == 1
    assert "--tiny" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gpu.main(["--tiny", "--only", "speed"])
    assert "no section speed" in capsys.readouterr().err
