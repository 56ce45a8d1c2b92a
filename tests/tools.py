"""External programs of the tests, which may be missing."""

from __future__ import annotations

import os
import shutil

import pytest


def need(tool: str, *names: str) -> str:
    """Path of a program; skips the test if it is missing.

    names: possible names of the program, by default `tool`. If CSM_REQUIRE_TOOLS lists the tool (as .ci/run sets it),
    the test fails instead.
    """
    tried = names or (tool,)
    for name in tried:
        if found := shutil.which(name):
            return found
    missing = f"{' or '.join(tried)} is not on PATH"
    if tool in os.environ.get("CSM_REQUIRE_TOOLS", "").split():
        pytest.fail(f"{missing}, and CSM_REQUIRE_TOOLS lists {tool}")
    pytest.skip(missing)
