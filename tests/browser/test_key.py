"""The page on a server that asks for an API key."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser.conftest import VIOLATIONS, Visit
from tests.server import Server, animator, running

pytestmark = pytest.mark.browser

KEY = "page-key-0123456789abcdef"


@pytest.fixture(scope="module")
def closed_server() -> Iterator[Server]:
    """A server with one API key; its small model is ready soon."""
    args = {
        "model": "tracer",
        "animators": {"tracer": animator()},
        "auth": {
            "keys": [{"id": "page", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}],
            "session_secret": "a-secret-of-this-test-alone-0123456789",
        },
    }
    with running(args) as started:
        yield started


@pytest.fixture
def visit(browser: Browser, closed_server: Server) -> Iterator[Visit]:
    """The page, which cannot show a picture yet."""
    context = browser.new_context()
    context.add_init_script(VIOLATIONS)
    opened = Visit(context.new_page())
    yield opened
    opened.page.goto("about:blank")
    context.close()


def answer(visit: Visit, key: str) -> None:
    visit.page.get_by_label("API key").fill(key)
    visit.page.get_by_role("button", name="Continue").click()


@pytest.mark.parametrize("way", ["file", "type"])
def test_the_page_asks_for_a_key_and_works_with_it(visit: Visit, closed_server: Server, way: str) -> None:
    page = visit.page
    page.goto(f"{closed_server.http}/?way={way}")
    notice = page.get_by_role("alert").filter(has_text="This server asks for an API key")
    notice.wait_for()
    answer(visit, "not-the-key-of-this-server")
    notice.filter(has_text="The key was not accepted").wait_for()

    answer(visit, KEY)
    visit.until("avatarPage.media === 'playing'")
    assert page.locator("#notice").is_hidden()
    assert KEY not in page.url
    assert page.evaluate("JSON.stringify([{...sessionStorage}, {...localStorage}, document.cookie])") == (
        '[{},{},""]'
    )
    if way == "type":
        page.fill("#line", "With a key.")
        page.press("#line", "Enter")
        visit.until("avatarPage.speaking")

    page.reload()
    notice.wait_for()
