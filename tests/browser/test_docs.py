"""The interactive reference in Chromium: it renders, calls the service with the key, loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser.page import Page
from tests.integration.shared import KEY

LISTING = "#operations-voices-ids_voices_get"


def wait_until(page: Page, holds: Callable[[], object]) -> None:
    WebDriverWait(page.driver, 30, 0.1).until(lambda _: holds(), "timeout on the page of the reference")


def press(page: Page, selector: str) -> None:
    wait_until(page, lambda: page.all(selector))
    page.run("arguments[0].click()", page.all(selector)[0])


def test_the_reference_lists_the_routes_and_tries_one(page: Page) -> None:
    page.find("docs").click()
    wait_until(page, lambda: len(page.all(".opblock")) > 20)
    assert page.driver.current_url == f"{page.server.url}/static/docs.html"  # without the key
    press(page, f"{LISTING} .opblock-summary-control")
    press(page, f"{LISTING} .execute")
    status = f"{LISTING} .live-responses-table .response .response-col_status"
    wait_until(page, lambda: page.all(status))
    assert page.all(status)[0].text.split()[0] == "200"


def test_a_key_in_the_address_is_used_and_removed(page: Page) -> None:
    page.run("sessionStorage.clear()")
    page.driver.get(f"{page.server.url}/docs?api_key={KEY}#/voices")
    wait_until(page, lambda: len(page.all(".opblock")) > 20)
    assert KEY not in page.driver.current_url


def test_the_reference_is_loaded_again_and_asks_for_a_missing_key(page: Page) -> None:
    page.find("docs").click()
    wait_until(page, lambda: len(page.all(".opblock")) > 20)
    page.driver.refresh()
    wait_until(page, lambda: len(page.all(".opblock")) > 20)
    page.run("sessionStorage.clear()")
    page.driver.refresh()
    wait_until(page, lambda: page.find("unlock").is_displayed())
    assert page.text("problem") == ""
    page.find("unlock-key").send_keys("wrong", Keys.ENTER)
    wait_until(page, lambda: page.text("problem") == "This key is not valid.")
    page.find("unlock-key").clear()
    page.find("unlock-key").send_keys(KEY, Keys.ENTER)
    wait_until(page, lambda: len(page.all(".opblock")) > 20)
    assert not page.find("unlock").is_displayed()
