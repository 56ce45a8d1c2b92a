from __future__ import annotations

import logging

import pytest

from app.observability.components import COMPONENTS, Components, ComponentStatus


def test_one_line_is_logged_when_a_component_changes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    components = Components()
    changes: list[ComponentStatus] = []
    components.on_change = lambda: changes.append(components.statuses()["voice_decoder"])
    for error in (None, None, "gone", "gone", "late", None, None):
        components.report("voice_decoder", error, "line 1 | line 2")
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


def test_an_unreported_component_is_unchecked() -> None:
    components = Components()
    assert dict(components.statuses()) == dict.fromkeys(COMPONENTS, ComponentStatus("unchecked"))
    components.report("threads", None)
    assert components.statuses()["threads"] == ComponentStatus("ok")
    assert components.statuses()["encoders"] == ComponentStatus("unchecked")


def test_a_component_has_failed_until_all_its_items_work() -> None:
    components = Components()
    for item, error in (("mp3", "no codec"), ("flac", "no muxer"), ("wav", None), ("mp3", None)):
        components.report("encoders", error, item=item)
    assert components.statuses()["encoders"] == ComponentStatus("failed", "flac: no muxer")
    components.report("encoders", None, item="flac")
    assert components.statuses()["encoders"] == ComponentStatus("ok")
