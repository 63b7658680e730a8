"""A conversation: OpenAI Realtime's server side, without any transport (protocols 4.5 to 4.10).

The user's sound and client events go in, server events and speech come out. Everything but agents and the
speaker's room is synchronous, on the session host's event loop: events leave in the order of their causes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any

from serve_app.agents.base import AGENT_HZ, Agent, Heard
from serve_app.clock import Clock
from serve_app.config import AgentsConfig
from serve_app.conversation import faults, sound
from serve_app.conversation.answers import Answers
from serve_app.conversation.buffer import Detector, InputBuffer, TurnStarted, TurnStopped
from serve_app.conversation.dialects import shape_of
from serve_app.conversation.faults import RealtimeFault
from serve_app.conversation.fields import Fields
from serve_app.conversation.idle import IdleTimer
from serve_app.conversation.intake import Intake
from serve_app.conversation.items import Item, Items, message, read_item
from serve_app.conversation.model import ResponseSettings, Settings, new_id
from serve_app.conversation.mouth import Mouth
from serve_app.conversation.spec import ConversationSpec
from serve_app.errors import AgentFailed
from serve_app.media.pcm import Resampler
from serve_app.nouns import Int16
from serve_app.speech.speaker import Speaker
from serve_app.speech.turns import TurnSettings

logger = logging.getLogger("serve_app.conversation")

SHORTEST_COMMIT_S = 0.1
MAX_EVENT_ID_CHARS = 512

_NO_HZ = 0


class Conversation:
    """One conversation of one session; the session's Listener too.

    Args:
        session_id: "sess_…"; names the session to the client.
        spec: what the door asked for; its settings have been checked.
        agent: decides what is said; opened and closed here.
        speaker: the session.
        emit: takes each server event, in the dialect of the spec, in order.
        turns: makes a turn detector.
        config: voice and limits.
        clock: the time.

    Raises:
        RealtimeFault: the spec's session settings cannot be used.
    """

    def __init__(
        self,
        session_id: str,
        spec: ConversationSpec,
        *,
        agent: Agent,
        speaker: Speaker,
        emit: Callable[[dict[str, Any]], None],
        turns: Callable[[TurnSettings], Detector],
        config: AgentsConfig,
        clock: Clock,
    ) -> None:
        self._session_id = session_id
        self._spec = spec
        self._agent = agent
        self._emit = emit
        self._config = config
        self._clock = clock
        self._shape = shape_of(spec.dialect)
        self._settings = self._shape.read_session(
            spec.session, Settings(voice=config.voice), needs_type=False
        )
        # Clients compare it with their wall clock; nothing here waits for it.
        self._expires_at = int(time.time() + spec.expires_s)
        self._conversation_id = new_id("conv")
        self._items = Items()
        self._buffer = InputBuffer(turns, config.max_turn_s)
        self._buffer.listen(self._settings.turn_detection)
        self._answers = Answers(
            session_id,
            conversation_id=self._conversation_id,
            items=self._items,
            agent=agent,
            mouth=Mouth(speaker, clock, is_only_way=spec.sound_out == "media"),
            send=self._send,
            spawn=self._spawn,
            on_quiet=self._await_user,
            config=config,
            clock=clock,
            sends_sound=spec.sound_out == "events",
        )
        self._idle = IdleTimer(clock, self._on_idle)
        self._idle_from_ms = 0
        self._resampler = Resampler(AGENT_HZ, AGENT_HZ)
        self._heard_hz = _NO_HZ
        self._turn_item_id: str | None = None
        self._is_started = False
        self._is_closed = False
        self._intake = Intake(self._handle, self._listen, self._spawn)
        self._tasks: set[asyncio.Task[None]] = set()
        self._handlers: dict[str, Callable[[Fields, str | None], None]] = {
            "session.update": self._on_session_update,
            "input_audio_buffer.append": self._on_append,
            "input_audio_buffer.commit": self._on_commit,
            "input_audio_buffer.clear": self._on_clear,
            "conversation.item.create": self._on_item_create,
            "conversation.item.retrieve": self._on_item_retrieve,
            "conversation.item.delete": self._on_item_delete,
            "conversation.item.truncate": self._on_item_truncate,
            "response.create": self._on_response_create,
            "response.cancel": self._on_response_cancel,
            "output_audio_buffer.clear": self._on_output_clear,
        }

    # --- the session -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Get the agent ready.

        Raises:
            AgentFailed: it cannot work at all.
        """
        await self._agent.open()

    def start(self) -> None:
        """The client is there: greet it. Later calls do nothing."""
        if self._is_started or self._is_closed:
            return
        self._is_started = True
        self._send("session.created", session=self._session())
        conversation = {"id": self._conversation_id, "object": "realtime.conversation"}
        self._send("conversation.created", conversation=conversation)

    def receive(self, event: object) -> None:
        """Take one client event, any parsed JSON; whatever is wrong is answered with an `error` event."""
        if self._is_closed:
            return
        self.start()
        try:
            self._intake.event(event)
        except RealtimeFault as fault:
            self._send_error(fault, _event_id(event))

    def hear(self, samples: Int16, hz: int) -> None:
        """Take the user's sound from a track, [S] int16 mono at `hz`; ignored where it comes in events."""
        if self._spec.sound_in == "track" and self._is_started and not self._is_closed:
            self._listen(samples, hz)

    def playback_started(self, tag: int) -> None:
        """The first sound of an utterance is being heard."""
        self._answers.playback_started(tag)

    def playback_ended(self, tag: int, played_s: float, interrupted: bool) -> None:
        """An utterance was heard to its end, or cut after `played_s` seconds."""
        if not self._is_closed:
            self._answers.playback_ended(tag, played_s, interrupted=interrupted)

    async def close(self) -> None:
        """Stop everything, without further events, and let the agent go."""
        if self._is_closed:
            return
        self._is_closed = True
        self._idle.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._agent.close()

    # --- client events ---------------------------------------------------------------------------------

    def _handle(self, event: object) -> None:
        event_id = _event_id(event)
        try:
            if not isinstance(event, dict):
                text = f"Invalid event: expected an object, but got {faults.kind_of(event)} instead."
                raise faults.invalid("invalid_type", text)
            fields = Fields(event, "", is_strict=False)
            type_ = fields.required("type")
            handler = self._handlers.get(type_)
            if handler is None:
                raise faults.wrong_value("type", type_, tuple(self._handlers))
            handler(fields, event_id)
        except RealtimeFault as fault:
            self._send_error(fault, event_id)

    def _on_session_update(self, fields: Fields, event_id: str | None) -> None:
        if not fields.has("session"):
            raise faults.missing("session")
        settings = self._shape.read_session(fields.raw("session"), self._settings)
        self._check_voice(settings)
        if settings.turn_detection != self._settings.turn_detection:
            self._buffer.listen(settings.turn_detection)
            self._idle.stop()
        self._settings = settings
        self._send("session.updated", session=self._session())
        self._await_user()

    def _on_append(self, fields: Fields, event_id: str | None) -> None:
        if self._spec.sound_in == "track":
            text = "The user's sound comes over WebRTC; expected no input_audio_buffer.append."
            raise faults.invalid("invalid_event_for_transport", text, "type")
        format_ = self._settings.input_format
        audio = fields.required("audio", most=sound.MAX_APPEND_CHARS)
        samples, hz = sound.decode(audio, format_, "audio"), sound.hz_of(format_)
        seconds, held_s = len(samples) / hz, self._buffer.held_s
        most_s, waiting_s = self._config.max_turn_s, self._intake.waiting_s
        if waiting_s + seconds > most_s or not self._buffer.room_for(waiting_s + seconds):
            text = (
                f"The input audio buffer is full: expected at most {most_s:g} s of sound, "
                f"but got {seconds:.1f} s more than {held_s + waiting_s:.1f} s."
            )
            raise faults.invalid("input_audio_buffer_full", text, "audio")
        self._intake.sound(samples, hz)

    def _on_commit(self, fields: Fields, event_id: str | None) -> None:
        held_s = self._buffer.held_s
        if held_s < SHORTEST_COMMIT_S:
            text = (
                "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, "
                f"but buffer only has {held_s * 1000:.2f}ms of audio."
            )
            raise faults.invalid("input_audio_buffer_commit_empty", text)
        item_id = self._take_turn_item_id()
        self._commit(item_id, self._buffer.take())

    def _on_clear(self, fields: Fields, event_id: str | None) -> None:
        self._buffer.clear()
        self._turn_item_id = None
        self._agent.forget_heard()
        self._send("input_audio_buffer.cleared")

    def _on_item_create(self, fields: Fields, event_id: str | None) -> None:
        if not fields.has("item"):
            raise faults.missing("item")
        item = read_item(fields.raw("item"), "item", self._shape, self._settings.input_format)
        self._add(item, fields.optional("previous_item_id"))

    def _on_item_retrieve(self, fields: Fields, event_id: str | None) -> None:
        self._send("conversation.item.retrieved", item=self._find(fields, "retriev", "retrieve").shown())

    def _on_item_delete(self, fields: Fields, event_id: str | None) -> None:
        item = self._find(fields, "delet", "delete")
        self._items.remove(item)
        self._send("conversation.item.deleted", item_id=item.id)

    def _on_item_truncate(self, fields: Fields, event_id: str | None) -> None:
        item = self._find(fields, "truncat", "truncate")
        fields.integer("content_index", 0, low=0, high=0)
        end_ms = fields.integer("audio_end_ms", None, low=0, high=86_400_000)
        if end_ms is None:
            raise faults.missing("audio_end_ms")
        if item.wire.get("role") != "assistant":
            text = "Only assistant message items can be truncated."
            raise faults.invalid("invalid_value", text, "item_id")
        length_ms = 0 if item.speech is None else math.ceil(item.speech.length_s * 1000)
        if end_ms > length_ms or item.speech is None:
            text = f"Audio content of {length_ms}ms is already shorter than {end_ms}ms"
            raise faults.invalid("invalid_value", text, "audio_end_ms")
        # What the user's barge-in cut already may be asked for again, by a client that plays the sound too.
        cut_s = item.speech.cut_s
        self._answers.cut(item, end_ms / 1000 if cut_s is None else min(cut_s, end_ms / 1000))

    def _on_response_create(self, fields: Fields, event_id: str | None) -> None:
        wanted = self._shape.read_response(fields.raw("response"), self._settings)
        self._check_voice(wanted.session)
        items = None if wanted.input is None else self._read_input(wanted.input)
        self._answers.create(wanted, items, event_id)

    def _on_response_cancel(self, fields: Fields, event_id: str | None) -> None:
        # AG2 cancels before each text it sends; with beta that is no error (Decision 4.3).
        if not self._answers.cancel(fields.optional("response_id")) and self._shape.IS_STRICT:
            text = "Cancellation failed: no active response found"
            raise faults.invalid("response_cancel_not_active", text)

    def _on_output_clear(self, fields: Fields, event_id: str | None) -> None:
        if self._spec.sound_out != "media":
            text = "The answer's sound goes out in events; expected no output_audio_buffer.clear."
            raise faults.invalid("invalid_event_for_transport", text, "type")
        self._answers.silence()

    def _find(self, fields: Fields, stem: str, verb: str) -> Item:
        item_id = fields.required("item_id")
        item = self._items.find(item_id)
        if item is None:
            text = f"Error {stem}ing item: the item with id '{item_id}' does not exist."
            raise faults.invalid(f"item_{verb}_invalid_item_id", text, "item_id")
        return item

    def _read_input(self, values: tuple[object, ...]) -> list[Item]:
        items = []
        for number, value in enumerate(values):
            path = f"response.input[{number}]"
            if isinstance(value, dict) and value.get("type") == "item_reference":
                reference = Fields(value, path, is_strict=False).required("id")
                item = self._items.find(reference)
                if item is None:
                    text = f"Error reading input: the item with id '{reference}' does not exist."
                    raise faults.invalid("item_reference_invalid_item_id", text, f"{path}.id")
                items.append(item)
            else:
                items.append(read_item(value, path, self._shape, self._settings.input_format))
        return items

    def _check_voice(self, settings: Settings) -> None:
        has_spoken = any(item.speech is not None and item.speech.length_s for item in self._items)
        if has_spoken and settings.voice != self._settings.voice:
            text = "Cannot update a conversation's voice if assistant audio is present."
            raise faults.invalid("cannot_update_voice", text)

    # --- the user's sound ------------------------------------------------------------------------------

    def _listen(self, samples: Int16, hz: int) -> None:
        if hz != self._heard_hz:
            self._resampler, self._heard_hz = Resampler(hz, AGENT_HZ), hz
        samples = self._resampler.push(samples)
        if not len(samples):
            return
        self._agent.hear(samples)
        for turn in self._buffer.add(samples):
            if isinstance(turn, TurnStarted):
                self._on_turn_started(turn)
            else:
                self._on_turn_stopped(turn)

    def _on_turn_started(self, turn: TurnStarted) -> None:
        self._idle.stop()
        self._turn_item_id = new_id("item")
        self._send(
            "input_audio_buffer.speech_started", audio_start_ms=turn.start_ms, item_id=self._turn_item_id
        )
        detection = self._settings.turn_detection
        if detection is not None and detection.interrupt_response:
            self._answers.barge_in()

    def _on_turn_stopped(self, turn: TurnStopped) -> None:
        item_id = self._take_turn_item_id()
        self._send("input_audio_buffer.speech_stopped", audio_end_ms=turn.end_ms, item_id=item_id)
        self._commit(item_id, turn.samples)
        detection = self._settings.turn_detection
        if detection is not None and detection.create_response:
            self._respond_unasked()

    def _take_turn_item_id(self) -> str:
        item_id, self._turn_item_id = self._turn_item_id or new_id("item"), None
        return item_id

    def _commit(self, item_id: str, samples: Int16 | None) -> None:
        """Make an item of sound; None of a silence that nobody needs to hear."""
        previous = self._items.last_id
        self._send("input_audio_buffer.committed", previous_item_id=previous, item_id=item_id)
        wire = message("user", [{"type": "input_audio", "transcript": None}])
        item = Item({**wire, "id": item_id}, sound=samples)
        self._add(item, None)
        if samples is not None and self._settings.transcription is not None:
            self._spawn(self._transcribe(item, Heard(item_id, samples)))

    async def _transcribe(self, item: Item, heard: Heard) -> None:
        about = {"item_id": item.id, "content_index": 0}
        kind = "conversation.item.input_audio_transcription"
        try:
            words = await self._agent.transcribe(heard)
        except AgentFailed as error:
            logger.warning("session %s: the agent failed to transcribe: %s", self._session_id, error)
            failure = {"type": "server_error", "code": AgentFailed.code, "message": str(error)}
            self._send(f"{kind}.failed", **about, error=failure)
            return
        if words is None:
            text = "This agent answers sound without knowing its words."
            failure = {"type": "transcription_error", "code": "transcription_unavailable", "message": text}
            self._send(f"{kind}.failed", **about, error=failure)
            return
        item.wire["content"][0]["transcript"] = words
        if words:
            self._send(f"{kind}.delta", **about, delta=words)
        usage = {"type": "duration", "seconds": round(len(heard.samples) / AGENT_HZ, 2)}
        self._send(f"{kind}.completed", **about, transcript=words, usage=usage)

    def _await_user(self) -> None:
        """Wait for the user when nothing else goes on, and answer the silence (`idle_timeout_ms`)."""
        detection = self._settings.turn_detection
        timeout_ms = None if detection is None else detection.idle_timeout_ms
        silent_at_s = self._answers.silent_at_s
        is_quiet = self._answers.is_quiet and not self._buffer.is_in_turn
        if timeout_ms is None or not is_quiet or silent_at_s == -math.inf:
            return
        self._idle_from_ms = self._buffer.position_ms
        self._idle.start(max(self._clock.now_s(), silent_at_s) + timeout_ms / 1000)

    def _on_idle(self) -> None:
        if self._is_closed or self._buffer.is_in_turn or not self._answers.is_quiet:
            return
        item_id = new_id("item")
        self._send(
            "input_audio_buffer.timeout_triggered",
            audio_start_ms=self._idle_from_ms,
            audio_end_ms=self._buffer.position_ms,
            item_id=item_id,
        )
        self._commit(item_id, None)
        self._respond_unasked()

    def _respond_unasked(self) -> None:
        try:
            self._answers.begin(ResponseSettings(self._settings))
        except RealtimeFault as fault:
            self._send_error(fault, None)

    # --- common ----------------------------------------------------------------------------------------

    def _session(self) -> dict[str, Any]:
        return self._shape.show_session(self._settings, self._session_id, self._spec.model, self._expires_at)

    def _add(self, item: Item, after: str | None) -> None:
        self._items.add(item, after)
        previous = self._items.before(item)
        self._send("conversation.item.added", previous_item_id=previous, item=item.shown())
        self._send("conversation.item.done", previous_item_id=previous, item=item.shown())

    def _send(self, type_: str, /, **fields: Any) -> None:  # noqa: ANN401 - JSON
        if self._is_closed:
            return
        event = self._shape.show_event({"type": type_, "event_id": new_id("event"), **fields})
        if event is not None:
            self._emit(event)

    def _send_error(self, fault: RealtimeFault, event_id: str | None) -> None:
        self._send("error", error=fault.error(event_id))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("session %s: a conversation's task failed", self._session_id, exc_info=error)


def _event_id(event: object) -> str | None:
    """Return the id that a client gave its event, to be echoed in an error."""
    value = event.get("event_id") if isinstance(event, dict) else None
    return value if isinstance(value, str) and len(value) <= MAX_EVENT_ID_CHARS else None
