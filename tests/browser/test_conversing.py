"""Talking and typing to the avatar on the page: what is said is heard, seen, written down and cut short."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser.conftest import Visit, visiting
from tests.server import Server

pytestmark = pytest.mark.browser

LOUD = 0.005
"""Root mean square of speech; Opus's noise in silence stays far below."""

MOVING = 1.5
"""Change of the mouth in grey levels: the idle face reaches 1 with a key frame, a speaking one 2 to 30."""

INTERRUPT_MS = 700
"""Bound on a busy machine without a GPU; the server's own share is measured by the benchmarks."""

LINES = """[...document.querySelectorAll("#transcript .line")].map((line) => ({
    who: line.dataset.who,
    state: line.dataset.state,
    text: line.querySelector(".words")?.innerText ?? "",
    unheard: line.querySelector("s")?.innerText ?? "",
    call: line.querySelector(".signature")?.innerText ?? "",
    result: line.querySelector(".result")?.innerText ?? "",
}))"""

STATE = """(who) => {
    const lines = document.querySelectorAll(`#transcript [data-who="${who}"]`);
    return lines[lines.length - 1]?.dataset.state ?? "none";
}"""


@contextlib.contextmanager
def conversing(browser: Browser, server: Server, way: str) -> Iterator[Visit]:
    """Open a page in a conversation, which records; its policy is lifted for the recorder."""
    with visiting(browser, f"{server.http}/?way={way}", bypass_csp=True) as visit:
        visit.watch()
        visit.page.evaluate("listen()")
        visit.until("['waiting', 'listening', 'hearing'].includes(avatarPage.turn)")
        yield visit


@pytest.fixture(scope="module")
def typing(browser: Browser, server: Server) -> Iterator[Visit]:
    with conversing(browser, server, "type") as visit:
        yield visit


@pytest.fixture
def talking(browser: Browser, server: Server) -> Iterator[Visit]:
    with conversing(browser, server, "talk") as visit:
        yield visit


def lines(visit: Visit) -> list[dict[str, str]]:
    found: list[dict[str, str]] = visit.page.evaluate(LINES)
    return found


def write(visit: Visit, text: str) -> None:
    visit.page.fill("#line", text)
    visit.page.press("#line", "Enter")


def wait_for(visit: Visit, who: str, state: str, timeout_ms: float = 15_000) -> None:
    visit.until(f"({STATE})({json.dumps(who)}) === {json.dumps(state)}", timeout_ms)


def heard_between(visit: Visit, start_ms: float, end_ms: float) -> float:
    """Return how much louder sound there was, in seconds."""
    sound = visit.sound()
    loud = (sound[:, 1] > LOUD) & (sound[:, 0] > start_ms) & (sound[:, 0] < end_ms)
    return float(loud.sum()) * 0.01


def moved_between(visit: Visit, start_ms: float, end_ms: float) -> bool:
    frames = visit.frames()
    inside = frames[(frames[:, 0] > start_ms) & (frames[:, 0] < end_ms), 1]
    return bool((inside > MOVING).sum() >= 5)


def test_typed_text_is_spoken_and_written_down(typing: Visit) -> None:
    start_ms = typing.now_ms()
    write(typing, "Good morning to you.")
    wait_for(typing, "avatar", "speaking")
    assert typing.page.inner_text("#turn") == "Speaking"
    wait_for(typing, "avatar", "done")

    end_ms = typing.now_ms()
    assert [(line["who"], line["text"]) for line in lines(typing)] == [
        ("you", "Good morning to you."),
        ("avatar", "Good morning to you."),
    ]
    assert heard_between(typing, start_ms, end_ms) > 0.5
    assert moved_between(typing, start_ms, end_ms)
    assert 0 < typing.page.evaluate("avatarPage.lastLatencyMs") < 3000
    assert typing.page.input_value("#line") == ""


def test_a_tool_is_shown_run_in_the_page_and_answered(typing: Visit) -> None:
    write(typing, '/call set_background {"colour": "mint"}')
    wait_for(typing, "tool", "done")
    wait_for(typing, "avatar", "speaking")
    wait_for(typing, "avatar", "done")

    call, answer = lines(typing)[-2:]
    assert call["call"] == 'set_background(colour: "mint")'
    assert call["result"] == "The background is mint now."
    assert answer["text"] == "set_background says: The background is mint now."
    assert typing.page.evaluate("document.documentElement.dataset.ground") == "mint"


def test_the_interrupt_button_silences_and_shows_what_was_not_heard(typing: Visit) -> None:
    text = "This sentence is so long that nobody waits until the very end of it."
    write(typing, text)
    wait_for(typing, "avatar", "speaking")
    typing.page.wait_for_timeout(1200)
    typing.page.evaluate(
        "document.getElementById('interrupt').onpointerup = () => (watch.clicked = performance.now())"
    )
    typing.page.click("#interrupt")
    wait_for(typing, "avatar", "interrupted")
    typing.until("document.querySelector('#transcript .line:last-child s')")
    typing.page.wait_for_timeout(1000)

    clicked_ms = typing.page.evaluate("watch.clicked")
    sound = typing.sound()
    last_heard_ms = sound[sound[:, 1] > LOUD, 0][-1] - clicked_ms
    assert -200 < last_heard_ms <= INTERRUPT_MS
    answer = lines(typing)[-1]
    assert answer["text"] == text
    assert answer["unheard"].endswith("the very end of it.")
    assert answer["unheard"] != text, "its beginning was heard"
    assert typing.page.is_disabled("#interrupt")


def test_a_spoken_turn_comes_back_until_the_person_speaks_again(talking: Visit) -> None:
    wait_for(talking, "avatar", "speaking", 20_000)
    start_ms = talking.now_ms()
    first = lines(talking)[0]
    assert first["who"] == "you"
    assert first["text"].startswith("Speech, ")
    # The microphone goes on with its sentence, and the avatar gives way.
    wait_for(talking, "avatar", "interrupted")
    end_ms = talking.now_ms()
    assert heard_between(talking, start_ms, end_ms) > 0.4
    assert moved_between(talking, start_ms, end_ms)


def test_push_to_talk_answers_when_the_button_is_let_go(talking: Visit) -> None:
    page = talking.page
    # In the middle of a turn, which is dropped, or was complete just before.
    talking.until("avatarPage.turn === 'hearing'")
    page.check("#push-to-talk")
    talking.until("avatarPage.turn === 'waiting'")
    assert [line["state"] for line in lines(talking) if line["who"] == "you"][-1] != "open"
    page.hover("#talk")
    page.mouse.down()
    talking.until("avatarPage.turn === 'hearing'")
    page.wait_for_timeout(2600)
    page.mouse.up()
    start_ms = talking.now_ms()
    wait_for(talking, "avatar", "speaking")
    wait_for(talking, "avatar", "done")

    turn, answer = lines(talking)[-2:]
    assert (turn["who"], answer["who"]) == ("you", "avatar")
    assert heard_between(talking, start_ms, talking.now_ms()) > 0.2
    page.wait_for_timeout(300)
    assert page.evaluate("avatarPage.turn") == "waiting", "nobody listens until the button is pressed"


def test_changing_ways_ends_one_session_and_opens_another(browser: Browser, server: Server) -> None:
    with visiting(browser, server.http) as visit:
        page = visit.page
        seen = [page.evaluate("avatarPage.sessionId")]
        for way, name in (("type", "Type to it"), ("talk", "Talk to it"), ("file", "Speak a file")):
            page.get_by_role("button", name=name).click()
            visit.until("avatarPage.media === 'playing' && avatarPage.sessionId")
            assert page.evaluate("avatarPage.way") == way
            assert page.get_by_role("button", name=name).get_attribute("aria-current") == "true"
            seen.append(page.evaluate("avatarPage.sessionId"))
        assert len(set(seen)) == 4
        for session_id in seen[1:3]:
            assert _hang_up(server, session_id) == 404, "the call had ended"
        page.click("#sample")
        visit.until("avatarPage.speaking")
        assert visit.complaints() == []


def test_the_chosen_avatar_is_the_one_that_is_called(browser: Browser, server: Server) -> None:
    with visiting(browser, f"{server.http}/?way=type") as visit:
        page = visit.page
        settings = page.evaluate("fetch('config.json').then((answer) => answer.json())")
        settings["avatars"].append({"avatar_id": "nobody", "name": "Nobody"})
        page.route("**/config.json", lambda route: route.fulfill(json=settings))
        page.reload()
        visit.until("avatarPage.media === 'playing'")
        page.select_option("#avatar", "nobody")
        page.get_by_role("alert").filter(has_text="There is no such avatar").wait_for()
        page.select_option("#avatar", index=0)
        visit.until("avatarPage.media === 'playing'")
        assert page.locator("#notice").is_hidden()


def _hang_up(server: Server, session_id: str) -> int:
    url = f"{server.http}/v1/realtime/calls/{session_id.replace('sess_', 'rtc_')}/hangup"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
