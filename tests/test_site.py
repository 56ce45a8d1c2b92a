"""The documentation builds as a site (mkdocs.yml), without a warning and without anything from another host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert built.returncode == 0, built.stderr
    return folder


def html_of(page: Path) -> str:
    """The path of a page of docs/ in the site."""
    path = page.relative_to(ROOT / "docs").with_suffix(".html")
    return path.with_name("index.html").as_posix() if page.stem == "README" else path.as_posix()


def pages_of(site: Path) -> list[Path]:
    """Those that MkDocs has made; examples are files of docs/ as they are."""
    return [page for page in site.rglob("*.html") if "examples" not in page.parts]


def test_every_page_is_in_it(site: Path) -> None:
    names = {html_of(page) for page in (ROOT / "docs").rglob("*.md")}
    assert [name for name in sorted(names) if not (site / name).is_file()] == []
    for page in map(site.joinpath, sorted(names)):
        linked = {
            os.path.normpath(page.parent.relative_to(site) / target)
            for target in re.findall(r'href="([^"#:]+\.html)', page.read_text(encoding="utf-8"))
        }
        assert names - linked - {page.relative_to(site).as_posix()} == set(), page.name


def test_it_loads_nothing_from_another_host(site: Path) -> None:
    for page in pages_of(site):
        loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"([^\"]+)\"", page.read_text("utf-8"))
        assert loaded
        assert [address for address in loaded if "//" in address] == [], page.name


def test_the_reference_has_routes_and_their_parameters(site: Path) -> None:
    page = (site / "reference.html").read_text(encoding="utf-8")
    text = unescape(re.sub(r"<[^>]+>", "", page))
    for route in ("GET /tts/generate", "POST /v1/audio/speech", "PUT /voices/{voice_id}", "GET /metrics"):
        assert route in text
    row = page.partition("<code>audio_tokens_per_slice</code>")[2].partition("</tr>")[0]
    assert "<td>integer</td>" in row  # a parameter that may be null shows its type
    assert "Frames of 80 ms per emitted slice" in row
