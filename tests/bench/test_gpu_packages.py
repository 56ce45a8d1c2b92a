"""Every stage of bench.gpu imports with the packages that bench/gpu/packages.py names for it, and no others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.gpu.packages import STAGES

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import importlib, importlib.metadata, sys
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

sys.path[:0] = {paths!r}
from bench.gpu.packages import IMAGE, STAGES


def brought_by(names):
    # With all that those of them which are installed require.
    found, pending = set(), list(names)
    while pending:
        name = canonicalize_name(pending.pop())
        if name in found:
            continue
        found.add(name)
        if name in known:
            requirements = map(Requirement, importlib.metadata.requires(name) or ())
            pending += [each.name for each in requirements if not each.marker or each.marker.evaluate({{"extra": ""}})]
    return found


installed = importlib.metadata.packages_distributions()
known = {{canonicalize_name(name) for names in installed.values() for name in names}}
allowed = brought_by(IMAGE) | STAGES[{stage!r}]


class Refuse:
    def find_spec(self, name, path=None, target=None):
        owners = [canonicalize_name(each) for each in installed.get(name.partition(".")[0], [])]
        own = {{"app", "bench", "csm_serve_client", "engine", "tests", "training"}}
        ours = not owners or name.partition(".")[0] in own
        if not ours and not allowed.intersection(owners) and not any(each.startswith("nvidia-") for each in owners):
            raise ModuleNotFoundError(f"refused: {{name}} of {{owners}}", name=name)
        return None


sys.meta_path.insert(0, Refuse())
for name in {modules!r}:
    importlib.import_module(name)
print("imported")
"""

MODULES = {
    "first": ["bench.gpu.__main__", "engine.codec.mimi", "moshi.models.loaders"],
    "tests": ["pytest", "pytest_timeout", "tests.conftest", "tests.gpu.test_frame_pipeline", "tests.gpu.test_engine"],
    "http": ["bench.load", "app.main", "app.server.worker", "app.cli.main", "gunicorn.app.wsgiapp"],
}


def import_with(stage: str, modules: list[str]) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(paths=[str(ROOT), str(ROOT / "clients" / "python")], stage=stage, modules=modules)
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_needs_no_other_packages(stage: str) -> None:
    ran = import_with(stage, MODULES[stage])
    assert ran.stdout.strip().endswith("imported"), ran.stderr


def test_a_package_that_is_not_named_is_refused() -> None:
    ran = import_with("first", ["fastapi"])
    assert "refused: fastapi" in ran.stderr
    assert ran.returncode == 1
