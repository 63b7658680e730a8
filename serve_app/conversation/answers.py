"""A conversation's answers: which one is active, which stand beside it, and what became of their sound."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine
from typing import Any

from serve_app.agents.base import Agent, Request
from serve_app.clock import Clock
from serve_app.config import AgentsConfig
from serve_app.conversation import faults
from serve_app.conversation.answer import Answer
from serve_app.conversation.faults import RealtimeFault
from serve_app.conversation.items import Item, Items, for_agent, heard_in
from serve_app.conversation.model import ResponseSettings, voice_name
from serve_app.conversation.mouth import Mouth
from serve_app.conversation.responses import Response, Send
from serve_app.errors import AgentFailed

logger = logging.getLogger("serve_app.conversation")

MAX_ASIDES = 8
"""Responses that may run beside the conversation's own."""


class Answers:
    """The responses of one conversation.

    Args:
        session_id: for the log.
        conversation_id: what responses join.
        items: the conversation's.
        agent: makes the answers.
        mouth: speaks them.
        send: takes events.
        spawn: runs a coroutine beside everything else.
        on_quiet: called when an answer, or its sound, has come to an end.
        config: limits.
        clock: the time.
        sends_sound: whether speech goes into events too.

    Attributes:
        active: the response that joins the conversation now.
        silent_at_s: when the last answer's sound ends, as far as can be known; -inf before the first.
    """

    def __init__(
        self,
        session_id: str,
        *,
        conversation_id: str,
        items: Items,
        agent: Agent,
        mouth: Mouth,
        send: Send,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        on_quiet: Callable[[], None],
        config: AgentsConfig,
        clock: Clock,
        sends_sound: bool,
    ) -> None:
        self.active: Response | None = None
        self.silent_at_s = -math.inf
        self._session_id = session_id
        self._conversation_id = conversation_id
        self._items = items
        self._agent = agent
        self._mouth = mouth
        self._send = send
        self._spawn = spawn
        self._on_quiet = on_quiet
        self._config = config
        self._clock = clock
        self._sends_sound = sends_sound
        self._running: dict[str, tuple[Response, asyncio.Task[None]]] = {}
        self._began_s: dict[str, float] = {}
        self._next: tuple[ResponseSettings, list[Item] | None, str | None] | None = None
        self._cut: list[tuple[Response, float]] = []
        self._is_interrupting = False

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is being answered and nothing is still to be heard."""
        return self.active is None and not self._mouth.is_busy

    def create(self, wanted: ResponseSettings, items: list[Item] | None, event_id: str | None) -> None:
        """Begin the response that a client asks for, or let it wait for a call that is just being made.

        Args:
            wanted: what it is made with.
            items: what it answers; None for the conversation.
            event_id: of the client's event.

        Raises:
            RealtimeFault: another one is active, or too many stand beside the conversation.
        """
        if wanted.in_conversation and self.active is not None and self.active.has_called and not self._next:
            # Clients answer a call as soon as they see it, before the response that made it is done.
            self._next = wanted, items, event_id
            return
        self.begin(wanted, items)

    def begin(self, wanted: ResponseSettings, items: list[Item] | None = None) -> None:
        """Begin a response.

        Args:
            wanted: what it is made with.
            items: what it answers; None for the conversation.

        Raises:
            RealtimeFault: another one is active, or too many stand beside the conversation.
        """
        if wanted.in_conversation and self.active is not None:
            raise _already_active(self.active)
        asides = len(self._running) - (self.active is not None)
        if not wanted.in_conversation and asides >= MAX_ASIDES:
            text = f"Expected at most {MAX_ASIDES} responses beside the conversation's at the same time."
            raise faults.invalid("too_many_responses", text)
        response = Response(
            wanted,
            conversation_id=self._conversation_id if wanted.in_conversation else None,
            items=self._items if wanted.in_conversation else None,
            send=self._send,
            sends_sound=self._sends_sound,
            on_done=self._on_done,
        )
        answer = Answer(
            self._session_id,
            response,
            _request(wanted, self._items, items),
            agent=self._agent,
            mouth=self._mouth,
            max_speech_s=self._config.max_response_s,
        )
        if wanted.in_conversation:
            self.active = response
        self._began_s[response.id] = self._clock.now_s()
        self._running[response.id] = response, self._spawn(answer.run())
        response.begin()
        self._send("rate_limits.updated", rate_limits=[])

    def cancel(self, response_id: str | None) -> bool:
        """Cancel the response of this id, or the active one; return whether there was one.

        What was said of it is still heard.
        """
        response = self.active
        if response_id is not None:
            response, _ = self._running.get(response_id, (None, None))
        if response is None:
            return False
        self._cancel(response, "client_cancelled")
        return True

    def barge_in(self) -> None:
        """The user speaks: fall silent, and cancel what is being answered."""
        if self._next is not None and self.active is not None:
            _, _, event_id = self._next
            self._next = None
            self._send("error", error=_already_active(self.active).error(event_id))
        self._interrupt("turn_detected", self.active)

    def silence(self) -> None:
        """Fall silent, and cancel what is cut in the middle by that."""
        self._interrupt("client_cancelled", None)

    def playback_started(self, tag: int) -> None:
        """The first sound of an utterance is being heard."""
        utterance = self._mouth.started(tag)
        if utterance is not None:
            self._send("output_audio_buffer.started", response_id=utterance.response.id)

    def playback_ended(self, tag: int, played_s: float, *, interrupted: bool) -> None:
        """An utterance was heard to its end, or cut after `played_s` seconds."""
        utterance = self._mouth.ended(tag)
        if utterance is None:
            return
        response = utterance.response
        if interrupted:
            self._send("output_audio_buffer.cleared", response_id=response.id)
            self._cut.append((response, played_s))
            if not self._is_interrupting:
                self._settle_cuts("client_cancelled", None)
        elif utterance.is_started:
            self._send("output_audio_buffer.stopped", response_id=response.id)
        self._on_quiet()

    def cut(self, item: Item, at_s: float) -> None:
        """Let a spoken answer end where it was heard until."""
        item.cut(at_s)
        end_ms = int(at_s * 1000)
        self._send("conversation.item.truncated", item_id=item.id, content_index=0, audio_end_ms=end_ms)
        self._spawn(self._tell_heard(item.id, at_s))

    async def _tell_heard(self, item_id: str, played_s: float) -> None:
        try:
            await self._agent.heard_until(item_id, played_s)
        except AgentFailed as error:
            logger.warning("session %s: the agent did not take what was heard: %s", self._session_id, error)

    def _on_done(self, response: Response) -> None:
        self._running.pop(response.id, None)
        began_s = self._began_s.pop(response.id)
        self._send("rate_limits.updated", rate_limits=[])
        if response is not self.active:
            return
        self.active = None
        # Where the client plays the sound, nobody reports its end.
        self.silent_at_s = self._clock.now_s() if self._mouth.is_used else began_s + response.speech_s
        following, self._next = self._next, None
        if following is not None:
            wanted, items, _ = following
            self.begin(wanted, items)
        else:
            self._on_quiet()

    def _cancel(self, response: Response, reason: str) -> None:
        _, task = self._running.get(response.id, (None, None))
        response.finish("cancelled", reason=reason)
        if task is not None:
            task.cancel()

    def _interrupt(self, reason: str, active: Response | None) -> None:
        """Fall silent, and cancel `active` and every answer that was cut in the middle."""
        if self._mouth.is_busy:
            self._is_interrupting = True
            try:
                self._mouth.interrupt()
            finally:
                self._is_interrupting = False
        if active is not None and self._mouth.is_waiting(active):
            self._cut.append((active, 0.0))
        self._settle_cuts(reason, active)

    def _settle_cuts(self, reason: str, active: Response | None) -> None:
        cut, self._cut = self._cut, []
        if active is not None:
            self._cancel(active, reason)
        for response, _ in cut:
            self._cancel(response, reason)
        for response, played_s in cut:
            item = response.message
            if item is None or not response.joins or self._items.find(item.id) is not item:
                continue
            if item.speech is not None and played_s < item.speech.length_s:
                self.cut(item, played_s)


def _request(wanted: ResponseSettings, conversation: Items, own: list[Item] | None) -> Request:
    settings, items = wanted.session, list(conversation) if own is None else own
    return Request(
        items=for_agent(items),
        heard=heard_in(items),
        instructions=settings.instructions,
        tools=settings.tools,
        tool_choice=settings.tool_choice,
        voice=voice_name(settings.voice),
        with_sound=settings.with_sound,
        speed=settings.speed,
        aside=not wanted.in_conversation,
        own_input=own is not None,
    )


def _already_active(active: Response) -> RealtimeFault:
    text = (
        f"Conversation already has an active response in progress: {active.id}. "
        "Wait until the response is finished before creating a new one."
    )
    return faults.invalid("conversation_already_has_active_response", text)
