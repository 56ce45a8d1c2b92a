"""Prints the release notes of a tag: `python scripts/release_notes.py v0.2.0`.

Exits with status 1 and one line on stderr unless the tag is `v` and the version in pyproject.toml, and CHANGELOG.md has
a section for that version. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class ReleaseError(Exception):
    """The tag, pyproject.toml and CHANGELOG.md do not agree."""


def release_notes(tag: str, project: str, changelog: str) -> str:
    """The section of CHANGELOG.md for a tag, without its heading.

    project, changelog: the text of pyproject.toml and of CHANGELOG.md. Raises ReleaseError.
    """
    version = tomllib.loads(project)["project"]["version"]
    if tag != f"v{version}":
        raise ReleaseError(f"the tag is {tag}, and pyproject.toml has version {version}: tag v{version}, or change it")
    section = re.search(
        rf"^## \[{re.escape(version)}\][^\n]*\n(.*?)(?=^## \[|^\[|\Z)", changelog, re.MULTILINE | re.DOTALL
    )
    if section is None or not section[1].strip():
        raise ReleaseError(f"CHANGELOG.md has no section for {version}: move what is under Unreleased into it")
    return section[1].strip() + "\n"


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: release_notes.py TAG")
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "CHANGELOG.md")]
    try:
        sys.stdout.write(release_notes(sys.argv[1], *texts))
    except ReleaseError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
