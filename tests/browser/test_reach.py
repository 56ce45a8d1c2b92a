"""Accessibility: keyboard, screen reader, phone, light and dark mode."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from app.routers.page import FOLDER
from tests.browser.page import Page

_OPERABLE = {"button", "checkbox", "combobox", "radio", "spinbutton", "textbox", "meter", "DisclosureTriangle", "img"}
_TEXT_ON_GROUND = [
    *((text, ground) for text in ("ink", "soft", "accent", "bad") for ground in ("card", "field", "tint")),
    *((text, "card") for text in ("good", "wait")),
    *((text, "ground") for text in ("ink", "soft", "good", "wait", "bad")),
    ("on-accent", "accent"),
    ("ink", "wait-tint"),
    ("ink", "bad-tint"),
]


@pytest.fixture
def resizable_page(page: Page) -> Iterator[Page]:
    yield page
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def tab_to(page: Page, wanted: str) -> None:
    """Press Tab until an element has the focus; every focused element must have a visible outline."""
    for _ in range(60):
        page.press_keys(Keys.TAB)
        assert page.run("return getComputedStyle(document.activeElement).outlineStyle") != "none"
        if page.focused == wanted:
            return
    raise AssertionError(f"Tab never reaches {wanted}")


def test_the_page_works_with_the_keyboard_alone(page: Page, recording: Path) -> None:
    page.open(key=None)
    page.press_keys("first-key", Keys.ENTER)
    page.until(lambda: page.focused == "text")
    page.press_keys("x" * 100)
    page.driver.switch_to.active_element.send_keys(Keys.CONTROL, Keys.ENTER)
    page.until(lambda: page.text("saying") == "Speaking.")
    page.press_keys(Keys.ESCAPE)
    assert page.wait_until_over().startswith("Stopped")
    page.driver.switch_to.active_element.send_keys(Keys.CONTROL, "a")
    page.press_keys("xxxxxxxxxx")
    page.press_keys(Keys.TAB)
    assert page.focused == "voice"
    page.press_keys(Keys.TAB, Keys.ARROW_DOWN)  # past the format, of which there is one, to the ways
    assert page.run("return document.querySelector('input[name=way]:checked').value") == "source"
    tab_to(page, "speak")
    page.press_keys(Keys.ENTER)
    assert page.wait_until_over().startswith("Finished")
    tab_to(page, "add-voice")
    page.press_keys(Keys.ENTER)
    assert page.run("return document.querySelector('dialog[open]').contains(document.activeElement)")
    page.press_keys(Keys.ESCAPE)
    assert page.focused == "add-voice"


def test_every_control_has_an_accessible_name(page: Page) -> None:
    page.run("document.getElementById('tuning').open = true; document.getElementById('key-box').open = true")
    page.press("add-voice")
    for shown in ("dialog", "page"):
        nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        operable = [each for each in nodes if not each["ignored"] and each["role"]["value"] in _OPERABLE]
        assert len(operable) > (5 if shown == "dialog" else 20)
        assert [each for each in operable if not each.get("name", {}).get("value")] == []
        if shown == "dialog":
            page.press("voice-cancel")
    page.press("mode-talk")
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    names = {each["name"]["value"] for each in nodes if not each["ignored"] and each["role"]["value"] == "button"}
    assert {"Start talking", "Download the transcript"} < names
    levels = page.run("return [...document.querySelectorAll('main h2, h1')].map((each) => each.tagName)")
    assert levels == ["H1", "H2", "H2", "H2", "H2"]


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_page_fits_the_screen_width(resizable_page: Page, width: int) -> None:
    page = resizable_page
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.run("document.getElementById('tuning').open = true; document.getElementById('key-box').open = true")
    assert page.run("return document.documentElement.scrollWidth") <= width
    page.run("document.getElementById('add-voice').click()")
    assert page.run("return document.getElementById('voice-dialog').getBoundingClientRect().right") <= width
    small = """return [...document.querySelectorAll("button, select, input:not([hidden])")]
      .map((each) => [each.id, each.getBoundingClientRect()])
      .filter(([, box]) => box.width && (box.height < 17 || box.width < 17)).map(([id]) => id)"""
    assert page.run(small) == []
    page.run("document.getElementById('voice-dialog').close(); document.getElementById('mode-dialogue').click()")
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run(small) == []
    page.run("document.getElementById('mode-talk').click()")
    page.run("document.getElementById('talk-hold').hidden = false")
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run(small) == []


def test_text_contrast_in_light_and_dark_mode() -> None:
    css = (FOLDER / "colours.css").read_text(encoding="utf-8")
    schemes = [dict(re.findall(r"--([a-z-]+): (#\w{6})", part)) for part in css.split("@media")]
    assert len(schemes) == 2
    assert schemes[0].keys() == schemes[1].keys()
    weak = [
        (at, text, ground, round(contrast(colours[text], colours[ground]), 2))
        for at, colours in enumerate(schemes)
        for text, ground in _TEXT_ON_GROUND
        if contrast(colours[text], colours[ground]) < 4.5
    ]
    assert weak == []
    for colours in schemes:
        assert contrast(colours["edge"], colours["card"]) >= 3  # borders of controls


def contrast(one: str, other: str) -> float:
    """As WCAG 2.2 defines it."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
