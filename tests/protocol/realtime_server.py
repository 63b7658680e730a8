"""A small OpenAI Realtime server (GA) for tests: strict about what it gets, scripted in what it answers."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from serve_app.nouns import Int16

Event = dict[str, Any]

HZ = 24_000
KEY = "sk-test-of-the-upstream"
SESSION_FIELDS = {
    "type",
    "instructions",
    "tools",
    "tool_choice",
    "output_modalities",
    "audio",
    "max_output_tokens",
    "tracing",
}


@dataclass(frozen=True)
class Speech:
    """Answer with words and sound, cut at odd bytes; or with text where no sound is asked for."""

    words: str
    samples: Int16


@dataclass(frozen=True)
class Calls:
    """Answer with a function call."""

    name: str
    arguments: str
    call_id: str = "call_up"


@dataclass(frozen=True)
class Stall:
    """Begin to speak and go on for ever, until cancelled."""

    samples: Int16
    begins: bool = True


@dataclass(frozen=True)
class Hangup:
    """Begin to speak and close the connection."""

    code: int = 1011
    reason: str = "server going away"


@dataclass(frozen=True)
class Fails:
    """Answer with response.done of status failed."""

    message: str


@dataclass(frozen=True)
class Raw:
    """Send these messages as they are."""

    messages: tuple[str, ...]


Answer = Speech | Calls | Stall | Hangup | Fails | Raw


@dataclass
class RealtimeServer:
    """Use as an async context manager; `url` is the base URL for a client.

    Attributes:
        answers: what the next responses are.
        received: every client event of every connection, in order.
        items: the conversation of the newest connection.
        sounds: of each committed item, its sound.
        transcripts: of the next committed turns; None makes the transcription fail.
        refuse_with: HTTP status for new connections; None accepts them.
        refuse: client event types that are answered with an error, and its fields.
    """

    answers: deque[Answer] = field(default_factory=deque)
    received: list[Event] = field(default_factory=list)
    items: list[Event] = field(default_factory=list)
    sounds: dict[str, Int16] = field(default_factory=dict)
    transcripts: deque[str | None] = field(default_factory=deque)
    refuse_with: int | None = None
    refuse: dict[str, Event] = field(default_factory=dict)
    handshakes: list[tuple[str, Headers]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self._changed = asyncio.Condition()
        self._sessions: list[_Session] = []
        self._ids = itertools.count(1)
        self._server: Server = await serve(self._talk, "127.0.0.1", 0, process_request=self._handshake)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    @property
    def session(self) -> Event:
        """Session settings of the newest connection."""
        return self._sessions[-1].settings

    def sent(self, kind: str) -> list[Event]:
        return [event for event in self.received if event["type"] == kind]

    async def saw(self, kind: str, count: int = 1) -> Event:
        """Return the `count`-th client event of this type, once it has come."""
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: len(self.sent(kind)) >= count)
        return self.sent(kind)[count - 1]

    async def hang_up(self, code: int = 1011, reason: str = "gone") -> None:
        """Close the newest connection."""
        await self._sessions[-1].socket.close(code, reason)

    def make_id(self, prefix: str) -> str:
        return f"{prefix}_up{next(self._ids)}"

    def _handshake(self, connection: ServerConnection, request: Request) -> Response | None:
        self.handshakes.append((request.path, request.headers))
        if self.refuse_with is not None:
            return connection.respond(self.refuse_with, f"no entry for {request.headers['Authorization']}\n")
        return None

    async def _talk(self, socket: ServerConnection) -> None:
        session = _Session(self, socket)
        self._sessions.append(session)
        self.items = session.items
        try:
            await session.send({"type": "session.created", "session": session.settings})
            async for message in socket:
                event = json.loads(message)
                self.received.append(event)
                await session.take(event)
                async with self._changed:
                    self._changed.notify_all()
        except ConnectionClosed:
            pass
        finally:
            await session.stop()


class _Session:
    def __init__(self, server: RealtimeServer, socket: ServerConnection) -> None:
        self.server = server
        self.socket = socket
        self.settings: Event = {"type": "realtime", "output_modalities": ["audio"]}
        self.items: list[Event] = []
        self._buffer = b""
        self._sound_ms: dict[str, int] = {}
        self._responses: dict[str, _Response] = {}

    async def send(self, event: Event) -> None:
        await self.socket.send(json.dumps({"event_id": self.server.make_id("event")} | event))

    async def refuse(self, event: Event, code: str, message: str) -> None:
        error = {"type": "invalid_request_error", "code": code, "message": message, "param": None}
        await self.send({"type": "error", "error": error | {"event_id": event.get("event_id")}})

    async def stop(self) -> None:
        tasks = [response.task for response in self._responses.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def take(self, event: Event) -> None:
        kind = event["type"]
        if refusal := self.server.refuse.get(kind):
            await self.refuse(event, **refusal)
            return
        handler = {
            "session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.clear": self._clear,
            "input_audio_buffer.commit": self._commit,
            "conversation.item.create": self._create_item,
            "conversation.item.delete": self._delete_item,
            "conversation.item.truncate": self._truncate,
            "response.create": self._respond,
            "response.cancel": self._cancel,
        }.get(kind)
        if handler is None:
            await self.refuse(event, "unknown_event", kind)
        else:
            await handler(event)

    async def _update(self, event: Event) -> None:
        session = event["session"]
        if session.get("type") != "realtime":
            await self.refuse(event, "missing_required_parameter", "Missing parameter: 'session.type'.")
        elif unknown := set(session) - SESSION_FIELDS:
            await self.refuse(event, "unknown_parameter", f"Unknown parameter: {sorted(unknown)}")
        else:
            self.settings.update(session)
            await self.send({"type": "session.updated", "session": self.settings})

    async def _append(self, event: Event) -> None:
        self._buffer += base64.b64decode(event["audio"], validate=True)

    async def _clear(self, event: Event) -> None:
        self._buffer = b""
        await self.send({"type": "input_audio_buffer.cleared"})

    async def _commit(self, event: Event) -> None:
        if len(self._buffer) < HZ // 10 * 2:
            await self.refuse(event, "input_audio_buffer_commit_empty", "buffer too small")
            return
        item_id = self.server.make_id("item")
        self.server.sounds[item_id] = np.frombuffer(self._buffer, "<i2").astype(np.int16)
        self._buffer = b""
        await self.send({"type": "input_audio_buffer.committed", "item_id": item_id})
        content = [{"type": "input_audio", "transcript": None}]
        await self._add({"id": item_id, "type": "message", "role": "user", "content": content})
        if self.server.transcripts:
            words = self.server.transcripts.popleft()
            kind = "conversation.item.input_audio_transcription"
            told: Event = {"item_id": item_id, "content_index": 0}
            if words is None:
                await self.send({"type": f"{kind}.failed", "error": {"message": "inaudible"}} | told)
            else:
                await self.send({"type": f"{kind}.completed", "transcript": words} | told)

    async def _add(self, item: Event, after: str | None = None) -> None:
        ids = [known["id"] for known in self.items]
        at = len(ids) if after is None else 0 if after == "root" else ids.index(after) + 1
        self.items.insert(at, item)
        await self.send({"type": "conversation.item.added", "item": item})
        await self.send({"type": "conversation.item.done", "item": item})

    async def _create_item(self, event: Event) -> None:
        item = event["item"]
        ids = [known["id"] for known in self.items]
        after = event.get("previous_item_id")
        if item.get("id") in ids:
            await self.refuse(event, "item_already_exists", item["id"])
        elif after not in (None, "root", *ids):
            await self.refuse(event, "item_not_found", str(after))
        else:
            await self._add(item | {"id": item.get("id") or self.server.make_id("item")}, after)

    async def _delete_item(self, event: Event) -> None:
        kept = [item for item in self.items if item["id"] != event["item_id"]]
        if len(kept) == len(self.items):
            await self.refuse(event, "item_not_found", event["item_id"])
            return
        self.items[:] = kept
        await self.send({"type": "conversation.item.deleted", "item_id": event["item_id"]})

    async def _truncate(self, event: Event) -> None:
        if event["audio_end_ms"] > self._sound_ms.get(event["item_id"], -1):
            await self.refuse(event, "invalid_value", "audio_end_ms is beyond the sound, or no such item")
        else:
            await self.send(event | {"type": "conversation.item.truncated"})

    async def _cancel(self, event: Event) -> None:
        response = self._responses.get(event["response_id"])
        if response is None or response.task.done():
            await self.refuse(event, "response_cancel_not_active", "no active response found")
            return
        response.task.cancel()
        await asyncio.gather(response.task, return_exceptions=True)
        await response.done("cancelled")

    async def _respond(self, event: Event) -> None:
        joins = event.get("response", {}).get("conversation") != "none"
        if joins and any(one.joins and not one.task.done() for one in self._responses.values()):
            code = "conversation_already_has_active_response"
            await self.refuse(event, code, "Conversation already has an active response in progress.")
            return
        modalities = event.get("response", {}).get("output_modalities", self.settings["output_modalities"])
        response = _Response(self, self.server.make_id("resp"), joins, modalities == ["audio"])
        self._responses[response.id] = response
        await self.send({"type": "response.created", "response": {"id": response.id}})
        response.task = asyncio.create_task(response.make(self.server.answers.popleft()))

    async def add(self, item: Event) -> None:
        await self._add(item)

    def sounded(self, item_id: str, milliseconds: int) -> None:
        self._sound_ms[item_id] = self._sound_ms.get(item_id, 0) + milliseconds


class _Response:
    task: asyncio.Task[None]

    def __init__(self, session: _Session, response_id: str, joins: bool, with_sound: bool) -> None:
        self.id = response_id
        self.joins = joins
        self._session = session
        self._with_sound = with_sound
        self._made: list[Event] = []

    async def make(self, answer: Answer) -> None:
        if isinstance(answer, Raw):
            for message in answer.messages:
                await self._session.socket.send(message.replace("RESPONSE", self.id))
            return
        if isinstance(answer, Fails):
            error = {"type": "server_error", "code": "server_error", "message": answer.message}
            await self.done("failed", {"type": "failed", "error": error})
            return
        if isinstance(answer, Stall) and not answer.begins:
            await asyncio.Event().wait()
        item_id = self._session.server.make_id("item")
        item: Event = {"id": item_id, "type": "message", "role": "assistant", "content": []}
        if isinstance(answer, Calls):
            call = {"name": answer.name, "call_id": answer.call_id, "arguments": answer.arguments}
            item = {"id": item_id, "type": "function_call", "status": "completed"} | call
        self._made.append(item)
        if self.joins:
            await self._session.add(item)
        await self._part("response.output_item.added", item=item)
        if isinstance(answer, Speech):
            await self._speak(answer, item_id)
        elif isinstance(answer, Stall):
            await self._sound(answer.samples.tobytes(), item_id)
            await asyncio.Event().wait()
        elif isinstance(answer, Hangup):
            await self._sound(bytes(4_800), item_id)
            await self._session.socket.close(answer.code, answer.reason)
            return
        await self._part("response.output_item.done", item=item)
        await self.done("completed")

    async def done(self, status: str, details: Event | None = None) -> None:
        usage: Event = {"total_tokens": 30, "input_tokens": 20, "output_tokens": 10}
        usage["output_token_details"] = {"audio_tokens": 7}
        response = {"id": self.id, "status": status, "status_details": details, "usage": usage}
        await self._session.send({"type": "response.done", "response": response | {"output": self._made}})

    async def _speak(self, answer: Speech, item_id: str) -> None:
        words = [word + " " for word in answer.words.split(" ")[:-1]] + [answer.words.split(" ")[-1]]
        if not self._with_sound:
            for word in words:
                await self._part("response.output_text.delta", item_id=item_id, content_index=0, delta=word)
            return
        data = answer.samples.astype("<i2").tobytes()
        cut = len(data) // 2 + 1 - len(data) // 2 % 2
        await self._sound(data[:cut], item_id)
        for word in words:
            kind = "response.output_audio_transcript.delta"
            await self._part(kind, item_id=item_id, content_index=0, delta=word)
        await self._sound(data[cut:], item_id)

    async def _sound(self, data: bytes, item_id: str) -> None:
        self._session.sounded(item_id, len(data) * 1000 // (2 * HZ))
        sound = base64.b64encode(data).decode()
        await self._part("response.output_audio.delta", item_id=item_id, content_index=0, delta=sound)

    async def _part(self, kind: str, **fields: object) -> None:
        await self._session.send({"type": kind, "response_id": self.id, "output_index": 0} | fields)
