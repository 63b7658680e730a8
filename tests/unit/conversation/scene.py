"""A conversation with everything around it played by hand: agent, speaker, turn detector, client."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serve_app.agents.base import AGENT_HZ, Heard, Output, Request, SpeechDelta
from serve_app.clock import Clock
from serve_app.config import AgentsConfig
from serve_app.conversation.engine import Conversation
from serve_app.conversation.spec import ConversationSpec, Dialect
from serve_app.nouns import SPEECH_HZ, Int16
from serve_app.speech.turns import SpeechStarted, SpeechStopped, TurnEvent, TurnSettings
from tests.unit.conversation.wire import check_event

DIALECTS: tuple[Dialect, ...] = ("ga", "beta")


def tone(seconds: float, hz: int = AGENT_HZ) -> Int16:
    """Sound of this length, never silent: [S] int16 at `hz`."""
    return (np.arange(round(seconds * hz)) % 100 * 40 + 1000).astype(np.int16)


def speech(seconds: float, hz: int = AGENT_HZ) -> SpeechDelta:
    """Speech of this length."""
    return SpeechDelta(tone(seconds, hz), hz)


def pcm(samples: Int16) -> str:
    """Base64 of PCM16."""
    return base64.b64encode(samples.astype("<i2").tobytes()).decode()


@dataclass
class FakeAgent:
    """Yields what tests put into `answers`, one list for each response; an Event in it is waited for.

    Attributes:
        answers: outputs, Exceptions to raise, Events to wait for.
        requests: what was asked.
        words: what `transcribe` returns or raises.
        heard: samples taken while they came.
        told: what `heard_until` was told.
        forgot: how often sound was forgotten.
        ended: how many iterators have ended, however they did.
        closed: whether it was closed.
    """

    answers: list[Sequence[Output | Exception | asyncio.Event]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    words: str | Exception | None = "hello there"
    heard: int = 0
    told: list[tuple[str, float]] = field(default_factory=list)
    forgot: int = 0
    ended: int = 0
    closed: bool = False
    opening: Exception | None = None

    async def open(self) -> None:
        if self.opening is not None:
            raise self.opening

    def hear(self, samples: Int16) -> None:
        self.heard += len(samples)

    def forget_heard(self) -> None:
        self.forgot += 1

    async def transcribe(self, heard: Heard) -> str | None:
        if isinstance(self.words, Exception):
            raise self.words
        return self.words

    async def respond(self, request: Request) -> AsyncIterator[Output]:
        self.requests.append(request)
        outputs = self.answers.pop(0) if self.answers else [speech(0.2)]
        try:
            for output in outputs:
                if isinstance(output, Exception):
                    raise output
                if isinstance(output, asyncio.Event):
                    await output.wait()
                else:
                    yield output
        finally:
            self.ended += 1

    async def heard_until(self, item_id: str, played_s: float) -> None:
        self.told.append((item_id, round(played_s, 3)))

    async def close(self) -> None:
        self.closed = True


class FakeSpeaker:
    """Records what it is fed; tests let it be heard with `play`.

    Attributes:
        is_watched: as in the interface.
        fed_s: seconds of each utterance, by tag.
        ended: tags that were ended by the conversation.
        full: cleared to let `room` wait.
    """

    def __init__(self) -> None:
        self.is_watched = False
        self.listener: Conversation | None = None
        self.fed_s: dict[int, float] = {}
        self.ended: list[int] = []
        self.interrupts = 0
        self.has_room = asyncio.Event()
        self.has_room.set()
        self.overruns: list[Exception] = []
        self._open: int | None = None
        self._waiting: list[int] = []
        self._played_s: dict[int, float] = {}

    def begin(self, tag: int) -> None:
        self.end()
        assert tag not in self.fed_s
        self._open = tag
        self.fed_s[tag] = 0.0
        self._waiting.append(tag)

    def feed(self, samples: Int16, hz: int) -> None:
        assert self._open is not None, "feed without begin"
        if self.overruns:
            raise self.overruns.pop()
        self.fed_s[self._open] += len(samples) / hz

    async def room(self, seconds: float) -> None:
        await self.has_room.wait()

    def end(self) -> None:
        if self._open is not None:
            self.ended.append(self._open)
        self._open = None

    def interrupt(self) -> None:
        self.interrupts += 1
        self._open = None
        waiting, self._waiting = self._waiting, []
        for tag in waiting:
            self._tell().playback_ended(tag, self._played_s.get(tag, 0.0), True)

    def play(self, seconds: float | None = None) -> None:
        """Let so much more of the first utterance be heard; None: all of it, to its end."""
        tag = self._waiting[0]
        if tag not in self._played_s:
            self._played_s[tag] = 0.0
            self._tell().playback_started(tag)
        if seconds is None:
            self._waiting.pop(0)
            self._tell().playback_ended(tag, self.fed_s[tag], False)
        else:
            self._played_s[tag] += seconds

    def _tell(self) -> Conversation:
        assert self.listener is not None
        return self.listener


@dataclass
class FakeDetector:
    """Reports the turns in `plan` when so many seconds have been heard.

    Attributes:
        settings: as in the interface.
        plan: (decided at second, event).
        resets: how often it was reset.
    """

    settings: TurnSettings
    plan: list[tuple[float, TurnEvent]] = field(default_factory=list)
    resets: int = 0
    position: int = 0

    def feed(self, samples: Int16) -> list[TurnEvent]:
        self.position += len(samples)
        events = []
        # The resampler holds back a few samples.
        while self.plan and self.position / SPEECH_HZ >= self.plan[0][0] - 0.01:
            events.append(self.plan.pop(0)[1])
        return events

    def reset(self) -> None:
        self.resets += 1
        self.plan = []


class Scene:
    """A conversation and its surroundings; every event it emits is checked against the dialect's types.

    Attributes:
        events: what was emitted.
    """

    def __init__(
        self,
        clock: Clock,
        dialect: Dialect = "ga",
        *,
        session: dict[str, Any] | None = None,
        config: AgentsConfig | None = None,
        sound_in: str = "track",
        sound_out: str = "media",
        is_started: bool = True,
    ) -> None:
        self.dialect = dialect
        self.agent = FakeAgent()
        self.speaker = FakeSpeaker()
        self.detectors: list[FakeDetector] = []
        self.events: list[dict[str, Any]] = []
        self.conversation = Conversation(
            "sess_test",
            ConversationSpec(dialect, session or {}, sound_in=sound_in, sound_out=sound_out),  # type: ignore[arg-type]
            agent=self.agent,
            speaker=self.speaker,
            emit=self._emit,
            turns=self._detector,
            config=config or AgentsConfig(),
            clock=clock,
        )
        self.speaker.listener = self.conversation
        self._heard_s = 0.0
        if is_started:
            self.conversation.start()

    def _emit(self, event: dict[str, Any]) -> None:
        check_event(self.dialect, event)
        self.events.append(event)

    def _detector(self, settings: TurnSettings) -> FakeDetector:
        self.detectors.append(FakeDetector(settings))
        return self.detectors[-1]

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def send(self, type_: str, **fields: Any) -> None:
        """Send a client event."""
        self.conversation.receive({"type": type_, **fields})

    def update(self, **session: Any) -> None:
        """Send a session.update."""
        self.send(
            "session.update", session={"type": "realtime", **session} if self.dialect == "ga" else session
        )

    def text(self, text: str, **fields: Any) -> None:
        """Send a user's text."""
        content = [{"type": "input_text", "text": text}]
        self.send(
            "conversation.item.create", item={"type": "message", "role": "user", "content": content}, **fields
        )

    def hear(self, seconds: float) -> None:
        """Let the microphone hear so much more."""
        samples = tone(seconds, 48_000)
        for start in range(0, len(samples), 960):
            self.conversation.hear(samples[start : start + 960], 48_000)
        self._heard_s += seconds

    def plan_turn(self, start_s: float, stop_s: float) -> None:
        """Let the next sound, counted from now, hold a turn of the user."""
        self.plan(SpeechStarted, start_s)
        self.plan(SpeechStopped, stop_s)

    def plan(self, kind: Callable[[int, int, int], TurnEvent], at_s: float) -> None:
        at = round((self._heard_s + at_s) * SPEECH_HZ)
        self.detectors[-1].plan.append((self._heard_s + at_s, kind(at, at, at)))

    def speak(self, seconds: float = 1.0) -> None:
        """Let the user speak so long, and be silent."""
        self.plan_turn(0.2, 0.2 + seconds)
        self.hear(seconds + 0.4)

    def of(self, type_: str) -> list[dict[str, Any]]:
        """Return the events of a type."""
        return [event for event in self.events if event["type"] == type_]

    def last(self, type_: str) -> dict[str, Any]:
        """Return the newest event of a type."""
        return self.of(type_)[-1]

    def error(self) -> dict[str, Any]:
        """Return the newest error."""
        error: dict[str, Any] = self.last("error")["error"]
        return error

    def clear(self) -> None:
        self.events.clear()


async def settle() -> None:
    """Let everything run that can, in virtual time."""
    await asyncio.sleep(0.001)
