from __future__ import annotations

import faulthandler
import functools
import os
from collections.abc import Generator
from pathlib import Path

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key  # where stderr is while output is captured

from app.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
TEARDOWN_SECONDS = 120.0

# The files that take longest, in this order: begun last, one of them would run alone at the end.
LONGEST = tuple(
    f"tests/{name}.py"
    for name in (
        "integration/test_spoken",
        "engine/test_fused_step",
        "integration/test_broken_starts",
        "integration/test_contract",
        "engine/test_long_text",
        "app/voices/test_crashes",
        "engine/test_codec_kernels",
        "engine/test_kokoro",
        "engine/test_engine_core",
        "integration/test_service",
        "engine/test_ragged_attention",
        "engine/test_packed_linear",
        "integration/test_pool_supervision",
        "engine/test_persistent_depth",
        "integration/test_client",
        "bench/test_trace",
        "bench/test_load",
        "test_dependencies",
        "test_architecture",
    )
)

# Before torch is imported: the tests' tensors are small, and threads that wait for each other take the cores of other
# tests. The engine itself uses one thread for a model of this size.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # for clients whose packages import onnxruntime themselves


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First the files of `make test-fast`, which fail soonest, then the longest ones, then all others."""
    lines = (ROOT / "tests" / "fast.txt").read_text(encoding="utf-8").splitlines()
    fast = [ROOT / line for line in lines if not line.startswith("--")]
    other = [ROOT / line.removeprefix("--ignore=") for line in lines if line.startswith("--")]
    longest = {ROOT / name: place for place, name in enumerate(LONGEST, start=1)}

    @functools.cache
    def place(path: Path) -> int:
        if any(map(path.is_relative_to, fast)) and path not in other:
            return 0
        return longest.get(path, len(LONGEST) + 1)

    items.sort(key=lambda item: place(item.path))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """A limit of its own for fixtures that end: a failure of the test cancels the others."""
    faulthandler.dump_traceback_later(TEARDOWN_SECONDS, exit=True, file=item.config.stash[fault_handler_stderr_fd_key])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def _a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer has set must not change what a test sees."""
    for name in list(os.environ):
        if name.lower() in Settings.model_fields:
            monkeypatch.delenv(name)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The environment of a service that runs on the fake engine."""
    return {
        "API_KEY": "first-key,second-key",
        "TTS_NORMALIZE": "off",  # the fake engine reads instructions such as [raise@3] in texts
        "HOST": "127.0.0.1",
        "MODEL_PATH": "fake",
        "KOKORO_VOICES": "off",
        "VOICES_DIR": str(tmp_path / "voices"),
        "PRELOADED_VOICES_DIR": str(tmp_path / "preloaded"),
        "CONCURRENT_REQUESTS_PER_WORKER": "2",
    }


@pytest.fixture
def settings(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    from app.settings_loader import load_settings

    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return load_settings(None)
