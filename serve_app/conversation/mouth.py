"""A conversation's way to its session's speaker: one answer at a time is spoken, others wait."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from serve_app.clock import Clock
from serve_app.conversation.responses import Response
from serve_app.errors import SpeechOverrun
from serve_app.nouns import Int16
from serve_app.speech.speaker import Speaker


@dataclass(slots=True, eq=False)
class Utterance:
    """An answer in the speaker.

    Attributes:
        tag: the speaker's name for it.
        response: which answer.
        is_begun: whether the speaker knows of it; one that nothing is fed to never was.
        is_started: whether its first sound has been heard.
        is_over: whether it was heard to its end, or cut.
    """

    tag: int
    response: Response
    is_begun: bool = False
    is_started: bool = False
    is_over: bool = False


class Mouth:
    """Feeds answers to the speaker and knows which of them are still to be heard.

    Args:
        speaker: the session's.
        clock: the time.
        is_only_way: whether answers go this way alone; else they go here only when somebody watches.
    """

    def __init__(self, speaker: Speaker, clock: Clock, *, is_only_way: bool) -> None:
        self._speaker = speaker
        self._clock = clock
        self._is_only_way = is_only_way
        self._turn = asyncio.Lock()
        self._holder: Utterance | None = None
        self._utterances: dict[int, Utterance] = {}
        self._unheard: set[Response] = set()
        self._next_tag = 0

    @property
    def is_used(self) -> bool:
        """Whether an answer that begins now is spoken here."""
        return self._is_only_way or self._speaker.is_watched

    @property
    def is_busy(self) -> bool:
        """Whether something is still to be heard."""
        return bool(self._utterances)

    def is_waiting(self, response: Response) -> bool:
        """Whether an answer has sound to be spoken here and none of it could be fed yet."""
        return response in self._unheard

    async def open(self, response: Response) -> Utterance:
        """Return a new utterance, once the one before has been fed."""
        self._unheard.add(response)
        try:
            await self._turn.acquire()
        except asyncio.CancelledError:
            self._unheard.discard(response)
            raise
        utterance = self._holder = Utterance(self._next_tag, response)
        self._next_tag += 1
        return utterance

    async def feed(self, utterance: Utterance, samples: Int16, hz: int) -> None:
        """Add [S] int16 at `hz` when the speaker has room for it; nothing once the utterance is over."""
        while True:
            await self._speaker.room(len(samples) / hz)
            if utterance.is_over:
                return
            if not utterance.is_begun:
                utterance.is_begun = True
                self._unheard.discard(utterance.response)
                self._utterances[utterance.tag] = utterance
                self._speaker.begin(utterance.tag)
            try:
                self._speaker.feed(samples, hz)
            except SpeechOverrun as error:
                # Somebody else filled the room that was promised.
                await self._clock.sleep_until(self._clock.now_s() + max(error.retry_after_s, 0.02))
            else:
                return

    def close(self, utterance: Utterance) -> None:
        """Nothing more comes; what was fed is still heard."""
        self._unheard.discard(utterance.response)
        if self._holder is utterance:
            if utterance.is_begun:
                self._speaker.end()
            self._release()

    def interrupt(self) -> None:
        """Fall silent; each utterance that is cut is reported before this returns."""
        self._speaker.interrupt()

    def started(self, tag: int) -> Utterance | None:
        """Note that an utterance is being heard, and return it."""
        utterance = self._utterances.get(tag)
        if utterance is not None:
            utterance.is_started = True
        return utterance

    def ended(self, tag: int) -> Utterance | None:
        """Note that nothing more of an utterance will be heard, and return it."""
        utterance = self._utterances.pop(tag, None)
        if utterance is not None:
            utterance.is_over = True
            if self._holder is utterance:
                self._release()
        return utterance

    def _release(self) -> None:
        self._holder = None
        self._turn.release()
