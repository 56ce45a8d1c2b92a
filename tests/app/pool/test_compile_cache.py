"""The folder of compiled kernels: kept between starts, and none that cannot be written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from app.pool.compile_cache import keep_compiled_kernels


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def folders(environ: dict[str, str]) -> list[str]:
    keep_compiled_kernels(environ)
    return [environ["TORCHINDUCTOR_CACHE_DIR"], environ["TRITON_CACHE_DIR"]]


def test_they_are_in_the_user_s_cache(tmp_path: Path) -> None:
    home, cache = tmp_path / "home", tmp_path / "cache"
    below = home / ".cache/csm-serve"
    assert folders({"HOME": str(home)}) == [str(below / "inductor"), str(below / "triton")]
    assert below.stat().st_mode & 0o777 == 0o700
    assert folders({"HOME": str(home), "XDG_CACHE_HOME": str(cache)})[1] == str(cache / "csm-serve/triton")
    assert folders({"HOME": str(home), "XDG_CACHE_HOME": "relative"})[1] == str(below / "triton")


def test_those_that_the_user_has_set_are_kept(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "TRITON_CACHE_DIR": "/cache/triton"}
    assert folders(environ) == [str(tmp_path / ".cache/csm-serve/inductor"), "/cache/triton"]
    environ = {"HOME": str(tmp_path / "untouched"), "TORCHINDUCTOR_CACHE_DIR": "/a", "TRITON_CACHE_DIR": "/b"}
    assert folders(environ) == ["/a", "/b"]
    assert not (tmp_path / "untouched").exists()


def test_a_home_that_cannot_be_written_does_not_break_the_start(tmp_path: Path, temporary: Path) -> None:
    home = tmp_path / "home"
    home.write_text("not a directory")  # root may write into any directory
    expected = temporary / f"csm-serve-{os.getuid()}"
    for _ in range(2):
        assert folders({"HOME": str(home)}) == [str(expected / "inductor"), str(expected / "triton")]
    assert expected.stat().st_mode & 0o777 == 0o700


def test_a_temporary_folder_that_others_can_write_is_not_used(tmp_path: Path, temporary: Path) -> None:
    home = tmp_path / "home"
    home.write_text("not a directory")
    planted = temporary / f"csm-serve-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    found = Path(folders({"HOME": str(home)})[1]).parent
    assert found != planted
    assert found.parent == temporary
    assert found.stat().st_mode & 0o777 == 0o700
