"""Document 001: a session over REST, speech over the avatar socket, the face over WHEP."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import jwt
import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from serve_app.media.pcm import Resampler
from serve_app.nouns import SPEECH_HZ, Int16
from tests.integration.keys import ADA, BOB, ONE, SPENT, SPENT_S
from tests.integration.listener import in_order, speech
from tests.integration.navtalk_client import navtalk
from tests.integration.whep_viewer import Viewer, watching
from tests.realtime_call import bearer
from tests.server import Server
from tests.unit.rtc.callers import until

pytestmark = pytest.mark.integration

WAIT_S = 20.0

Json = dict[str, Any]


@asynccontextmanager
async def rest(server: Server, key: str | None = ADA) -> AsyncIterator[httpx.AsyncClient]:
    """A client with an API key."""
    async with httpx.AsyncClient(base_url=server.http, headers=bearer(key), timeout=WAIT_S) as http:
        yield http


async def create(http: httpx.AsyncClient, **body: Any) -> Json:
    """Return a new session."""
    answer = await http.post("/v1/sessions", json=body)
    assert answer.status_code == 200, answer.text
    session: Json = answer.json()["session"]
    return session


class Socket:
    """An avatar socket."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def ask(self, message: Json) -> Json:
        """Send a message and return its answer."""
        await self._socket.send(json.dumps(message))
        return await self.recv()

    async def recv(self) -> Json:
        """Return the next message."""
        message: Json = json.loads(await asyncio.wait_for(self._socket.recv(), WAIT_S))
        return message

    async def init(self, session: Json) -> Json:
        """Join a session."""
        fields = {name: session[name] for name in ("session_id", "session_token")}
        return await self.ask({"type": "session.init", **fields})

    async def speak(self, sound: Int16, hz: int) -> int:
        """Speak [S] int16 at `hz`; return how many samples at SPEECH_HZ were confirmed."""
        audio = base64.b64encode(sound.astype("<i2").tobytes()).decode()
        answer = await self.ask({"type": "agent.speak", "audio": audio, "sample_rate": hz})
        assert answer["type"] == "agent.speak.confirmed", answer
        return int(answer["audio_samples"])

    async def closed(self) -> int | None:
        """Return the close code; wait for it."""
        await asyncio.wait_for(self._socket.wait_closed(), WAIT_S)
        return self._socket.close_code

    def cut(self) -> None:
        """Be gone without a word."""
        self._socket.transport.abort()


@asynccontextmanager
async def avatar_socket(session: Json) -> AsyncIterator[Socket]:
    """Open a session's socket; it is closed with 1000 in the end."""
    async with websockets.connect(session["server_ws_uri"], proxy=None) as socket:
        yield Socket(socket)


@asynccontextmanager
async def joined(session: Json) -> AsyncIterator[Socket]:
    """Open a session's socket and join."""
    async with avatar_socket(session) as socket:
        assert await socket.init(session) == {
            "type": "connection.established",
            "session_id": session["session_id"],
        }
        yield socket


def seen_by(session: Json) -> Any:
    """Watch a session with its own token."""
    return watching(session["room"]["roomURL"], session["room"]["participantToken"])


def resampled(sound: Int16, hz: int) -> Int16:
    resampler = Resampler(SPEECH_HZ, hz)
    return resampler.push(sound)


async def rested(viewer: Viewer, frames: int = 1) -> None:
    """Return when the avatar has spoken, and its face rests again."""
    await until(lambda: len(viewer.listener.indices()) >= frames, 15)
    await until(lambda: viewer.listener.pictures[-1].index is None, 30)


async def status_of(http: httpx.AsyncClient, session: Json) -> int:
    return (await http.get(f"/v1/sessions/{session['session_id']}")).status_code


async def ended(http: httpx.AsyncClient, session: Json, timeout_s: float = 8.0) -> None:
    """Return when a session has ended."""
    deadline_s = time.monotonic() + timeout_s
    while await status_of(http, session) != 404:
        assert time.monotonic() < deadline_s, "expected the session to end, found it running"
        await asyncio.sleep(0.1)


async def freed(http: httpx.AsyncClient, timeout_s: float = 5.0) -> None:
    """Return when there is room for a session again: a host that ended one tells of it now and then."""
    deadline_s = time.monotonic() + timeout_s
    while (answer := await http.post("/v1/sessions", json={})).status_code != 200:
        assert answer.status_code == 429
        assert time.monotonic() < deadline_s, "expected room, found none"
        await asyncio.sleep(0.2)
    await http.post(f"/v1/sessions/{answer.json()['session']['session_id']}/end")


# --- speech --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hz", [16_000, 24_000, 48_000])
async def test_speech_of_any_rate_is_heard_and_seen_in_the_room(doors: Server, hz: int) -> None:
    said = speech(1.5, seed=hz)
    async with rest(doors) as http:
        session = await create(http, metadata={"user": 7})
        async with joined(session) as socket, seen_by(session) as viewer:
            assert abs(await socket.speak(resampled(said, hz), hz) - len(said)) < 40
            await rested(viewer, 40)
    heard = viewer.listener.find(said)
    assert heard.is_whole, heard.alike
    assert in_order(viewer.listener.indices())
    assert len(set(viewer.listener.indices())) > 0.75 * 45
    assert session["metadata"] == {"user": 7}


async def test_a_stream_of_pieces_is_one_speech(doors: Server) -> None:
    said = speech(2.0, seed=81)
    async with rest(doors) as http:
        session = await create(http)
        async with joined(session) as socket, seen_by(session) as viewer:
            for at in range(0, len(said), SPEECH_HZ // 10):
                await socket.speak(said[at : at + SPEECH_HZ // 10], SPEECH_HZ)
            await rested(viewer, 50)
    assert viewer.listener.find(said).is_whole
    assert len(set(viewer.listener.indices())) > 0.75 * 60


async def test_all_viewers_see_the_same(doors: Server) -> None:
    said = speech(1.5, seed=82)
    async with rest(doors) as http:
        session = await create(http)
        async with joined(session) as socket, seen_by(session) as one, seen_by(session) as other:
            await socket.speak(said, SPEECH_HZ)
            await asyncio.gather(rested(one, 40), rested(other, 40))
    for viewer in (one, other):
        assert viewer.listener.find(said).is_whole
        assert len(set(viewer.listener.indices())) > 0.75 * 45


async def test_an_interrupt_silences_and_the_next_speech_plays(doors: Server) -> None:
    said = speech(1.2, seed=84)
    async with rest(doors) as http:
        session = await create(http)
        async with joined(session) as socket, seen_by(session) as viewer:
            await socket.speak(speech(6.0, seed=83), SPEECH_HZ)
            await until(lambda: len(viewer.listener.indices()) > 20, 15)
            asked_s = time.monotonic()
            assert await socket.ask({"type": "agent.interrupt"}) == {"type": "agent.interrupt.confirmed"}
            await until(lambda: viewer.listener.pictures[-1].index is None)
            await asyncio.sleep(0.3)
            last_s = max(viewer.listener.last_voiced_s(), viewer.listener.last_speaking_s())
            viewer.listener.clear()
            await socket.speak(said, SPEECH_HZ)
            await rested(viewer, 30)
    assert last_s - asked_s < 0.4
    assert viewer.listener.find(said).is_whole


async def test_wrong_messages_have_the_documents_words(doors: Server) -> None:
    async with rest(doors) as http:
        session = await create(http)
        async with avatar_socket(session) as socket:
            for message, text in (
                ({"type": "agent.interrupt"}, "First message must be session.init"),
                ({"type": "session.init"}, "Missing session id"),
            ):
                assert await socket.ask(message) == {"type": "error", "error": text}
            assert (await socket.init(session))["type"] == "connection.established"
            assert await socket.ask({"type": "agent.sing"}) == {
                "type": "error",
                "error": "Unknown message type: agent.sing",
            }
            assert (await socket.ask({"type": "agent.speak", "audio": ""}))[
                "error"
            ] == "No audio data provided"


# --- lives ---------------------------------------------------------------------------------------------


async def test_a_session_that_is_ended_says_so_to_its_socket(doors: Server) -> None:
    async with rest(doors) as http:
        session = await create(http)
        path = f"/v1/sessions/{session['session_id']}"
        async with joined(session) as socket, seen_by(session) as viewer:
            end = (await http.post(f"{path}/end")).json()["session"]
            told = await socket.recv()
            assert "Session not found" in told["error"]
            assert await socket.closed() == 4408
            await until(lambda: viewer.peer.connectionState == "closed", 5)
        again = (await http.put(f"{path}/end")).json()["session"]
        assert await status_of(http, session) == 404
        async with avatar_socket(session) as socket:
            assert (await socket.init(session))["error"] == "Session not found"
    assert (end["status"], end["ended_at"] is not None) == ("ended", True)
    assert again == end


async def test_a_session_ends_with_the_goodbye_of_its_socket(doors: Server) -> None:
    async with rest(doors) as http:
        session = await create(http)
        async with joined(session):
            assert await status_of(http, session) == 200
        await ended(http, session, 2)


async def test_a_session_outlives_a_socket_that_is_cut_for_its_grace(doors: Server) -> None:
    said = speech(1.2, seed=85)
    async with rest(doors) as http:
        session = await create(http)
        async with joined(session) as socket, seen_by(session) as viewer:
            socket.cut()
            async with joined(session) as other:
                await other.speak(said, SPEECH_HZ)
                await rested(viewer, 30)
                other.cut()
            await ended(http, session)
    assert viewer.listener.find(said).is_whole


async def test_a_second_socket_takes_the_session_over(doors: Server) -> None:
    async with rest(doors) as http:
        session = await create(http)
        async with joined(session) as first, joined(session) as second:
            assert await first.closed() == 4409
            await second.speak(speech(1.2), SPEECH_HZ)


# --- rights --------------------------------------------------------------------------------------------


async def test_rest_needs_a_key(doors: Server) -> None:
    async with rest(doors, None) as nobody, rest(doors, "guess-0123456789") as stranger:
        for http in (nobody, stranger):
            for method, path in (("POST", "/v1/sessions"), ("GET", "/v1/usage"), ("GET", "/v1/avatars")):
                assert (await http.request(method, path, json={})).status_code == 401


async def test_a_token_opens_its_own_session_alone(doors: Server) -> None:
    async with rest(doors) as http:
        one, other = await create(http), await create(http)
        forged = jwt.encode({"sub": one["session_id"]}, "a guess of the secret, long enough", "HS256")
        for session, error in (
            ({**one, "session_token": other["session_token"]}, "server not assigned or session id mismatch"),
            ({**one, "session_token": forged}, "Failed to fetch video path"),
            ({**one, "session_token": ADA}, "Failed to fetch video path"),
        ):
            async with avatar_socket(one) as socket:
                assert error in (await socket.init(session))["error"]
        for token in (other["session_token"], forged, None):
            with pytest.raises(httpx.HTTPStatusError) as refused:
                async with watching(one["room"]["roomURL"], token):
                    pass
            assert refused.value.response.status_code == 401
        for session in (one, other):
            await http.post(f"/v1/sessions/{session['session_id']}/end")


async def test_sessions_of_another_key_are_not_there(doors: Server) -> None:
    async with rest(doors) as ada, rest(doors, BOB) as bob:
        session = await create(ada)
        path = f"/v1/sessions/{session['session_id']}"
        before = (await bob.get("/v1/usage")).json()["usage"]["active_sessions"]
        assert [(await bob.get(path)).status_code, (await bob.post(f"{path}/end")).status_code] == [404, 404]
        with pytest.raises(httpx.HTTPStatusError) as refused:
            async with watching(session["room"]["roomURL"], BOB):
                pass
        assert refused.value.response.status_code == 404
        assert (await ada.get(path)).status_code == 200
        assert (await ada.get("/v1/usage")).json()["usage"]["active_sessions"] >= 1
        assert before == (await bob.get("/v1/usage")).json()["usage"]["active_sessions"]
        await ada.post(f"{path}/end")


# --- limits --------------------------------------------------------------------------------------------


async def test_a_key_has_no_more_sessions_at_once_than_it_may(doors: Server) -> None:
    async with rest(doors, ONE) as http:
        session = await create(http)
        refused = await http.post("/v1/sessions", json={})
        usage = (await http.get("/v1/usage")).json()["usage"]
        await http.post(f"/v1/sessions/{session['session_id']}/end")
        again = await create(http)
        await http.post(f"/v1/sessions/{again['session_id']}/end")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "CONCURRENCY_LIMIT")
    assert "retry-after" in refused.headers
    assert usage["concurrency"] == {"current": 1, "max": 1, "available": 0}
    assert usage["used_minutes"] >= 0


async def test_a_key_without_minutes_is_told_so_and_its_session_ends(doors: Server) -> None:
    async with rest(doors, SPENT) as http:
        session = await create(http)
        async with joined(session) as socket:
            told = await asyncio.wait_for(socket.recv(), SPENT_S + 10)
            assert "quota" in told["error"]
            assert await socket.closed() == 4408
        refused = await http.post("/v1/sessions", json={})
        usage = (await http.get("/v1/usage")).json()["usage"]
        assert (refused.status_code, refused.json()["error"]["code"]) == (402, "INSUFFICIENT_MINUTES")
        assert usage["total_remaining"] == 0
        call = await http.post("/v1/realtime/client_secrets", json={})
        secret = call.json()["value"]
        offer = {"authorization": f"Bearer {secret}", "content-type": "application/sdp"}
        sdp = "v=0\r\ns=-\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n"
        call = await http.post("/v1/realtime/calls", content=sdp, headers=offer)
        assert (call.status_code, call.json()["error"]["code"]) == (429, "insufficient_quota")
    async with navtalk(doors, SPENT, name="navtalk.Leo") as client:
        assert await client.closed() == (1008, "Insufficient points")
    assert client.types() == ["conversation.connected.insufficient_balance"]


# --- rooms ---------------------------------------------------------------------------------------------


def agents_token() -> str:
    """A token as LiveKit's agents make it for an avatar: it speaks for the agent."""
    claims = {
        "sub": "avatar",
        "exp": int(time.time()) + 600,
        "video": {"roomJoin": True, "room": "r"},
        "attributes": {"lk.publish_on_behalf": "agent"},
    }
    return jwt.encode(claims, "a secret of a LiveKit server that is not there", "HS256")


@pytest.mark.parametrize("way", ["link", "provider"])
async def test_a_room_that_cannot_be_reached_ends_its_session_and_frees_its_place(
    doors: Server, way: str
) -> None:
    async with rest(doors, ONE) as http:
        if way == "link":
            async with rest(doors, None) as guest:
                answer = await guest.post("/v1/links/start-session", json={"link_id": "lnk_nobodyisthere"})
        else:
            room = {"livekit_url": "ws://127.0.0.1:9", "livekit_token": agents_token()}
            answer = await http.post("/v1/session", json=room)
        assert answer.status_code in {200, 201}, answer.text
        session_id = answer.json()["session_id"]
        assert (await http.post("/v1/sessions", json={})).status_code == 429
        await ended(http, {"session_id": session_id}, 20)
        await freed(http)
    assert f"session {session_id} closed: room" in doors.log.read_text()


async def test_a_link_that_is_not_known_opens_nothing(doors: Server) -> None:
    async with rest(doors, None) as http:
        answer = await http.post("/v1/links/start-session", json={"link_id": "lnk_guessed0123"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "SESSION_NOT_FOUND")
