"""What clients bring and say, and the server's own secrets, are in no log of the server or of Ray."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest
import websockets

from tests.integration.keys import ADA, SECRETS
from tests.integration.navtalk_client import navtalk
from tests.realtime_call import bearer, calling, mint
from tests.server import Server

pytestmark = pytest.mark.integration

SAID = "Nobody else may read this sentence"
WAIT_S = 20.0


async def test_no_log_holds_a_key_a_token_or_a_word(doors: Server) -> None:
    base = f"ws://127.0.0.1:{doors.port}"
    ephemeral = await mint(doors.http, key=ADA)
    async with httpx.AsyncClient(base_url=doors.http, headers=bearer(ADA), timeout=WAIT_S) as http:
        token = (await http.post("/v1/sessions", json={})).json()["session"]["session_token"]
    queries = (
        f"/webrtc?token={ADA}",
        f"/webrtc?token={ADA}&avatar=nobody",
        f"/session?token={ADA}",
        f"/v1/realtime?model=m&token={ADA}",
        f"/v1/realtime?model=m&token={ephemeral}",
        f"/wss/v2/realtime-chat?license={ADA}&avatarId=nobody",
    )
    for query in queries:
        async with websockets.connect(f"{base}{query}", proxy=None) as socket:
            await socket.recv()
    protocols = [websockets.Subprotocol(f"openai-insecure-api-key.{ephemeral}")]
    protocols.append(websockets.Subprotocol("realtime"))
    async with websockets.connect(
        f"{base}/v1/realtime?model=m", subprotocols=protocols, proxy=None
    ) as socket:
        await socket.recv()
    async with httpx.AsyncClient(base_url=doors.http, timeout=WAIT_S) as http:
        for path in ("/v1/usage", "/no/such/path", "/whep/sess_none", "/v1/realtime/ice-servers"):
            await http.get(path, params={"token": ADA})
        await http.get("/api/open/v1/avatar/getByName", params={"license": ADA, "name": "navtalk.Leo"})
    async with calling(doors.http, key=ADA, with_microphone=False) as call:
        call.type_text(SAID)
        await call.until("response.done")
        sdp = call.peer.localDescription.sdp
    password = next(line.partition(":")[2] for line in sdp.splitlines() if line.startswith("a=ice-pwd:"))
    async with navtalk(doors, ADA, name="navtalk.Leo") as client:
        await client.until("realtime.session.updated")
        await client.send("realtime.input_text", content=SAID)
        await client.until("realtime.response.audio_transcript.done")
        await client.send_bare({"type": "realtime.no_such_thing", "data": {"content": SAID}})
        await client.until("error")
    secrets = [ADA, ephemeral, token, password, SAID, *(value for value in SECRETS.values() if " " in value)]
    deadline_s = time.monotonic() + 5
    while not any("ice-servers" in text for text in _logs(doors).values()):
        assert time.monotonic() < deadline_s, "expected an access log, found none"
        await asyncio.sleep(0.2)
    await asyncio.sleep(0.5)
    found = [(path.name, text) for path, text in _logs(doors).items() for secret in secrets if secret in text]
    assert [name for name, _ in found] == []


def _logs(server: Server) -> dict[Path, str]:
    """Return everything that the server and Ray have logged."""
    paths = [path for path in server.folder.rglob("*.*") if path.suffix in {".log", ".err", ".out"}]
    return {path: path.read_text(errors="replace") for path in paths}
