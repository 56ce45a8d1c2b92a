"""Programs that some tests run and that not every machine has."""

from __future__ import annotations

import os
import shutil

import pytest


def need(tool: str, *names: str) -> str:
    """The path of a program; skips the test where it is missing.

    names: what it may be called, if not like the tool. Where CSM_REQUIRE_TOOLS lists the tool (as .ci/run sets it), the
    test fails instead.
    """
    tried = names or (tool,)
    for name in tried:
        if found := shutil.which(name):
            return found
    missing = f"{' or '.join(tried)} is not on PATH"
    if tool in os.environ.get("CSM_REQUIRE_TOOLS", "").split():
        pytest.fail(f"{missing}, and CSM_REQUIRE_TOOLS lists {tool}")
    pytest.skip(missing)
