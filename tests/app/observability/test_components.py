from __future__ import annotations

import logging

import pytest

from app.observability.components import COMPONENTS, Components, ComponentStatus


def test_one_line_is_logged_whenever_a_part_changes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    parts = Components()
    changes: list[ComponentStatus] = []
    parts.on_change = lambda: changes.append(parts.statuses()["voice_decoder"])
    for error in (None, None, "gone", "gone", "late", None, None):
        parts.report("voice_decoder", error, "line 1 | line 2")
    assert changes == [
        ComponentStatus("ok"),
        ComponentStatus("failed", "gone"),
        ComponentStatus("failed", "late"),
        ComponentStatus("ok"),
    ]
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("ERROR", "voice_decoder does not work: gone [line 1 | line 2]"),
        ("ERROR", "voice_decoder does not work: late [line 1 | line 2]"),
        ("INFO", "voice_decoder works again"),
    ]


def test_what_nobody_has_looked_at_is_unchecked() -> None:
    parts = Components()
    assert dict(parts.statuses()) == dict.fromkeys(COMPONENTS, ComponentStatus("unchecked"))
    parts.report("threads", None)
    assert parts.statuses()["threads"] == ComponentStatus("ok")
    assert parts.statuses()["encoders"] == ComponentStatus("unchecked")


def test_a_part_of_many_items_has_failed_until_all_of_them_work() -> None:
    parts = Components()
    for item, error in (("mp3", "no codec"), ("flac", "no muxer"), ("wav", None), ("mp3", None)):
        parts.report("encoders", error, item=item)
    assert parts.statuses()["encoders"] == ComponentStatus("failed", "flac: no muxer")
    parts.report("encoders", None, item="flac")
    assert parts.statuses()["encoders"] == ComponentStatus("ok")
