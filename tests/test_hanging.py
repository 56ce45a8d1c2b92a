"""The limits that end a test which hangs, as pyproject.toml and conftest.py set them, with fewer seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import sys

import pytest

import tests.conftest

tests.conftest.TEARDOWN_SECONDS = 2.0
limits = ["-o", "timeout=1", "-o", "faulthandler_timeout=4"]
arguments = ["-c", "pyproject.toml", "-v", "-p", "no:cacheprovider", *limits, sys.argv[1]]
sys.exit(pytest.main(arguments, plugins=[tests.conftest]))
"""
HANGING = """
import itertools
import threading

import pytest


@pytest.fixture
def begins_never():
    threading.Event().wait()


@pytest.fixture
def ends_never():
    yield
    threading.Event().wait()


"""


def hang(folder: Path, tests: str) -> subprocess.CompletedProcess[str]:
    file = folder / "test_it.py"
    file.write_text(HANGING + tests)
    command = [sys.executable, "-c", PROGRAM, str(file)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)


def test_a_test_and_its_fixtures_share_a_limit_and_the_next_one_runs(tmp_path: Path) -> None:
    ran = hang(
        tmp_path,
        "def test_setup(begins_never): pass\n"
        "def test_itself(): threading.Event().wait()\n"
        "def test_teardown(ends_never): pass\n"
        "def test_next(): pass\n",
    )
    assert ran.returncode == 1
    for line in ("test_setup ERROR", "test_itself FAILED", "test_teardown PASSED", "test_teardown ERROR"):
        assert f"::{line}" in ran.stdout
    assert "::test_next PASSED" in ran.stdout
    assert ran.stdout.count("Timeout (>1.0s) from pytest-timeout") >= 3


def test_a_fixture_that_never_ends_behind_a_failure_ends_the_run(tmp_path: Path) -> None:
    ran = hang(tmp_path, "def test_failed(ends_never): assert False\n")
    assert ran.returncode == 1
    assert "::test_failed FAILED" in ran.stdout
    assert "Timeout (0:00:02)" in ran.stderr
    assert "in ends_never" in ran.stderr


def test_what_hangs_outside_of_python_ends_the_run(tmp_path: Path) -> None:
    ran = hang(tmp_path, "def test_busy(): sum(itertools.repeat(0))\n")  # no signal is heard in there
    assert ran.returncode == 1
    assert "Timeout (0:00:04)" in ran.stderr
    assert "in test_busy" in ran.stderr
