"""The official Python package of OpenAI against the door, over real sockets."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
import websockets
from openai import AsyncOpenAI, OpenAI

from serve_app.config import AppConfig
from serve_app.errors import AdmissionRefused
from serve_app.session.events import ConversationEvent, SessionClosed, SessionEvent
from tests.asgi_server import served
from tests.fakes import ANSWER, Call
from tests.protocol.realtime_door import KEY, OFFER, CallLink, Doors, with_keys

pytestmark = pytest.mark.protocol


class TalkingLink(CallLink):
    """A session whose conversation tells its settings and echoes sound, in GA events."""

    async def events(self) -> AsyncIterator[SessionEvent]:
        yield ConversationEvent(
            {"type": "session.created", "event_id": "event_0", "session": {"type": "realtime"}}
        )
        async for event in super().events():
            yield event

    def converse(self, event: dict[str, object]) -> None:
        super().converse(event)
        answer: dict[str, Any] = {"event_id": f"event_{len(self.conversed)}"}
        if event["type"] == "session.update":
            answer |= {"type": "session.updated", "session": event["session"]}
        elif event["type"] == "input_audio_buffer.append":
            ids = {"response_id": "resp_1", "item_id": "item_1", "output_index": 0, "content_index": 0}
            answer |= {"type": "response.output_audio.delta", "delta": event["audio"], **ids}
        else:
            return
        self.emit(ConversationEvent(answer))


@contextlib.contextmanager
def running(config: AppConfig | None = None) -> Iterator[tuple[Doors, str]]:
    """Yield the doors and the base URL that a client is given."""
    link = TalkingLink(key_id="ada")
    doors = Doors(config or with_keys(), link)
    doors.opener.resumable[link.session_id] = link
    with served(doors.app) as host:
        yield doors, f"http://{host}/v1"


@contextlib.asynccontextmanager
async def async_client() -> AsyncIterator[tuple[Doors, AsyncOpenAI]]:
    with running() as (doors, base_url):
        # The beta's sockets go to wss unless they are told.
        address = base_url.replace("http", "ws")
        async with AsyncOpenAI(api_key=KEY, base_url=base_url, websocket_base_url=address) as made:
            yield doors, made


@contextlib.contextmanager
def client(api_key: str = KEY) -> Iterator[tuple[Doors, OpenAI]]:
    with running() as (doors, base_url), OpenAI(api_key=api_key, base_url=base_url, max_retries=0) as made:
        yield doors, made


def test_client_secrets_are_minted() -> None:
    with client() as (doors, made):
        minted = made.realtime.client_secrets.create(
            expires_after={"anchor": "created_at", "seconds": 120},
            session={"type": "realtime", "model": "gpt-realtime", "instructions": "Be brief."},
        )
    assert minted.value in doors.keys.grants
    assert doors.keys.lifetimes == [120]
    assert minted.session.type == "realtime"
    assert minted.session.to_dict()["instructions"] == "Be brief."


def test_beta_sessions_are_minted() -> None:
    with client() as (doors, made):
        minted = made.beta.realtime.sessions.create(model="gpt-4o-realtime-preview", voice="ash")
    assert minted.client_secret.value in doors.keys.grants
    assert (minted.voice, minted.modalities) == ("ash", ["audio", "text"])


def test_a_call_is_opened_and_hung_up() -> None:
    with client() as (doors, made):
        answer = made.realtime.calls.create(sdp=OFFER, session={"type": "realtime", "model": "gpt-realtime"})
        assert answer.text == ANSWER
        location = answer.response.headers["location"]
        made.realtime.calls.hangup(location.rsplit("/", 1)[-1])
    assert doors.link.closed.is_set()


def test_errors_have_the_packages_own_classes() -> None:
    with client() as (doors, made):
        with pytest.raises(openai.BadRequestError) as bad:
            made.realtime.calls.create(sdp="hello")
        assert (bad.value.code, bad.value.param) == ("invalid_offer", "sdp")
        doors.opener.fail = AdmissionRefused("full", 3)
        with pytest.raises(openai.InternalServerError) as full:
            made.realtime.calls.create(sdp=OFFER)
        assert (full.value.status_code, full.value.code) == (503, "session_limit_reached")
        assert full.value.response.headers["retry-after"] == "3"
    with client("wrong-key-0123456789") as (_, made), pytest.raises(openai.AuthenticationError) as unknown:
        made.realtime.client_secrets.create()
    assert unknown.value.code == "invalid_api_key"


async def test_a_conversation_is_held_over_the_socket() -> None:
    sound = base64.b64encode(bytes(960)).decode()
    async with async_client() as (doors, made), made.realtime.connect(model="gpt-realtime-2.1") as connection:
        created = await connection.recv()
        assert created.type == "session.created"
        await connection.session.update(session={"type": "realtime", "instructions": "Be brief."})
        updated = await connection.recv()
        assert updated.type == "session.updated"
        assert updated.session.to_dict()["instructions"] == "Be brief."
        await connection.input_audio_buffer.append(audio=sound)
        delta = await connection.recv()
        assert delta.type == "response.output_audio.delta"
        assert delta.delta == sound
    assert doors.link.closed.wait(5)
    spec = doors.opened().conversation
    assert spec is not None
    assert (spec.dialect, spec.model) == ("ga", "gpt-realtime-2.1")


async def test_the_beta_client_is_served_its_dialect() -> None:
    model: Any = "gpt-4o-realtime-preview"
    async with async_client() as (doors, made), made.beta.realtime.connect(model=model) as connection:
        assert (await connection.recv()).type == "session.created"
    spec = doors.opened().conversation
    assert spec is not None
    assert spec.dialect == "beta"


async def test_a_sideband_joins_a_call() -> None:
    async with async_client() as (doors, made), made.realtime.connect(call_id="rtc_h1abc") as connection:
        assert (await connection.recv()).type == "session.created"
    assert doors.opener.calls[-1] == Call("attach", ("sess_h1abc", False))
    assert doors.link.detached.wait(5)
    assert not doors.link.closed.is_set()


async def test_the_end_of_a_session_is_told_with_its_sentence() -> None:
    with running() as (doors, base_url):
        address = base_url.replace("http", "ws") + "/realtime?model=gpt-realtime"
        async with websockets.connect(
            address, additional_headers={"authorization": f"Bearer {KEY}"}
        ) as socket:
            await socket.recv()
            doors.link.emit(SessionClosed("expired"))
            await socket.recv()
            with pytest.raises(websockets.ConnectionClosedOK) as ended:
                await socket.recv()
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1001
    assert ended.value.rcvd.reason == "Your session hit the maximum duration of 60 minutes."


async def test_sixteen_mebibytes_are_the_longest_frame_of_a_default_server() -> None:
    sound = base64.b64encode(bytes(12_582_000)).decode()
    options: Any = {"max_size": None}
    async with (
        async_client() as (_, made),
        made.realtime.connect(model="m", websocket_connection_options=options) as connection,
    ):
        await connection.recv()
        await connection.input_audio_buffer.append(audio=sound)
        delta = await connection.recv()
        assert delta.type == "response.output_audio.delta"
        assert len(delta.delta) == len(sound)
        await connection.send_raw(b"x" * (16 * 2**20 + 1))
        with pytest.raises(websockets.ConnectionClosedError) as closed:
            await connection.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
