"""Headless Chromium with a fake microphone and a new profile.

The microphone hears a file, again and again from its start, which begins anew whenever the microphone is opened.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from tests.tools import need

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--window-size=1280,1000",
)


def find() -> tuple[str, str]:
    """The paths of a browser and of its driver; skips the test if one is missing."""
    return need("chromium", *BROWSERS), need("chromium", "chromedriver")


def start(browser: str, driver: str, profile: Path, microphone: Path) -> Chrome:
    options = ChromeOptions()
    options.binary_location = browser
    own = (f"--user-data-dir={profile}", f"--use-file-for-fake-audio-capture={microphone}")
    for flag in (*_FLAGS, *own, *(["--no-sandbox"] if os.geteuid() == 0 else [])):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(profile / "downloads")})
    return Chrome(options, Service(driver))


def requested(driver: Chrome) -> list[str]:
    """URLs requested since the last call, WebSockets included."""
    events: list[dict[str, Any]] = [json.loads(each["message"])["message"] for each in driver.get_log("performance")]
    addresses = []
    for event in events:
        if event["method"] == "Network.requestWillBeSent":
            addresses.append(event["params"]["request"]["url"])
        elif event["method"] == "Network.webSocketCreated":
            addresses.append(event["params"]["url"])
    return addresses
