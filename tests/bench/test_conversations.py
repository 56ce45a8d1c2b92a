from __future__ import annotations

import json
from typing import Any

import pytest

from bench import conversations

MEMORY = ("memory is back", "no more is in use in glibc's heaps", "no more is in use in Python's")


def test_ten_seconds_of_conversations_leave_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    conversations.main(["--minutes", "0.1", "--warm-up", "4", "--seed", "3"])
    result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    for name in (*MEMORY, "answers were completed"):  # these take longer
        result["checks"].pop(name)
    assert all(result["checks"].values()), result
    counts = result["counts"]
    assert counts["sessions vanished"] + counts["sessions closed"] >= conversations.SESSIONS


def test_a_session_that_is_left_fails_the_soak(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = conversations.Resources(0, 0, 5, 6, 11, 100.0, 40.0, 400_000)
    left = [found, conversations.Resources(1, 1, 9, 6, 12, 200.0, 45.0, 410_000)]

    async def settled(app: object) -> conversations.Resources:
        return left.pop(0)

    monkeypatch.setattr(conversations, "_settled", settled)
    monkeypatch.setattr(conversations, "SESSIONS", 1)
    assert conversations.main(["--minutes", "0", "--warm-up", "0"]) == 1
    failed = {line.removeprefix("FAIL ") for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")}
    assert failed == {
        "no session is left",
        "no slot is taken",
        "tasks are back",
        "descriptors are back",
        *MEMORY,
        "answers were completed",
    }
