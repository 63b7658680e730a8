"""Chromium, a server and speech for the tests of the page."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import wave
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Request,
    WebSocket,
    sync_playwright,
)

from serve_app.nouns import Int16
from tests.server import Server, running

CHROMIUM = "/usr/bin/chromium"
WATCH = Path(__file__).with_name("watch.js").read_text()
SPEECH_HZ = 22_050
"""What espeak-ng writes."""

PLAYING_MS = 20_000

VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  violations.push(`${event.violatedDirective}: ${event.blockedURI}`));
"""

Motion = np.ndarray[Any, np.dtype[np.float64]]
"""[N, 2]: time in ms by the page's clock, and what was measured then."""


def say(text: str) -> Int16:
    """Return a sentence spoken by espeak-ng: [S] int16 mono at SPEECH_HZ."""
    done = subprocess.run(
        ["espeak-ng", "-v", "en-us", "-s", "150", "--stdout", text],
        capture_output=True,
        check=True,
        timeout=20,
    )
    return np.frombuffer(done.stdout[44:], np.int16)


def silence(seconds: float) -> Int16:
    return np.zeros(round(seconds * SPEECH_HZ), np.int16)


def write_wav(path: Path, *parts: Int16) -> Path:
    """Write the parts one after the other."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SPEECH_HZ)
        file.writeframes(np.concatenate(parts).tobytes())
    return path


@dataclass
class Visit:
    """One page that shows the avatar.

    Attributes:
        page: Playwright's page.
        errors: what the console complained of.
        foreign: addresses on other hosts that were asked for.
        established: the socket's connection.established messages.
    """

    page: Page
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    established: list[dict[str, Any]] = field(default_factory=list)

    def open(self, address: str) -> None:
        """Open the page and wait for the picture."""
        self.page.goto(address)
        self.until("avatarPage.media === 'playing'", PLAYING_MS)

    def until(self, condition: str, timeout_ms: float = 15_000) -> None:
        """Wait until a JavaScript expression is true."""
        deadline_s = time.monotonic() + timeout_ms / 1000
        while not self.page.evaluate(f"Boolean({condition})"):
            if time.monotonic() > deadline_s:
                state = self.page.evaluate(
                    "({...avatarPage, log: document.getElementById('log').innerText.split('\\n')})"
                )
                pytest.fail(f"expected {condition} within {timeout_ms / 1000:g} s, found {state}")
            self.page.wait_for_timeout(30)

    def watch(self) -> None:
        """Begin to record the picture; see watch.js."""
        self.page.evaluate(WATCH)

    def frames(self) -> Motion:
        """Return when each frame was shown and how much the mouth's surroundings changed with it."""
        return np.array(self.page.evaluate("watch.frames"), np.float64)

    def sound(self) -> Motion:
        """Return the loudness of each 10 ms of sound, full scale 1."""
        return np.array(self.page.evaluate("watch.sound"), np.float64)

    def now_ms(self) -> float:
        """Return the page's clock."""
        return float(self.page.evaluate("performance.now()"))

    def complaints(self) -> list[str]:
        """Return everything a careful page does not do."""
        violations = self.page.evaluate("window.violations ?? []")
        return [*self.errors, *(f"asked for {url}" for url in self.foreign), *violations]

    def _follow(self, host: str) -> None:
        def console(message: ConsoleMessage) -> None:
            if message.type in {"error", "warning"}:
                self.errors.append(f"{message.type}: {message.text}")

        def request(made: Request) -> None:
            if not made.url.startswith((f"http://{host}/", "blob:", "data:")):
                self.foreign.append(made.url)

        def frame(payload: str | bytes) -> None:
            message = json.loads(payload)
            if message["type"] == "connection.established":
                self.established.append(message)

        def websocket(opened: WebSocket) -> None:
            if not opened.url.startswith(f"ws://{host}/"):
                self.foreign.append(opened.url)
            opened.on("framereceived", frame)

        self.page.on("console", console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", request)
        self.page.on("websocket", websocket)


@pytest.fixture(scope="package")
def server() -> Iterator[Server]:
    """A real server with the portrait model, and AG2's example functions."""
    args = {
        "session": {"max_sessions_per_host": 16},
        "ag2": {"functions": ["serve_app.gateway.ag2.examples:functions"]},
    }
    with running(args) as started:
        yield started


@pytest.fixture(scope="package")
def microphone_speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the browser's fake microphone hears, over and over."""
    path = tmp_path_factory.mktemp("speech") / "microphone.wav"
    return write_wav(path, silence(0.5), say("Hello, can you hear my voice?"), silence(1.5))


@pytest.fixture(scope="package")
def browser(microphone_speech: Path) -> Iterator[Browser]:
    """Chromium without a window."""
    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--autoplay-policy=no-user-gesture-required",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone_speech}",
    ]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield launched
        launched.close()


@contextlib.contextmanager
def visiting(browser: Browser, address: str, **options: Any) -> Iterator[Visit]:
    """Open the page and wait for the picture; `options` go to the browser context."""
    context = browser.new_context(**options)
    context.add_init_script(VIOLATIONS)
    visit = Visit(context.new_page())
    visit._follow(address.removeprefix("http://"))
    try:
        visit.open(address)
        yield visit
    finally:
        # Leaving the page ends its session, so that the next test has the machine to itself.
        visit.page.goto("about:blank")
        context.close()
