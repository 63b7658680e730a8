"""The README's clients in Python and in the shell, as they stand there, against a real server."""

from __future__ import annotations

import asyncio
import os
import sys
import time

import jwt
import pytest

from tests.readme import Block, blocks, title_of
from tests.server import ROOT, Server

pytestmark = pytest.mark.integration

WAIT_S = 60.0

PYTHON = blocks("python")
SHELL = [block for block in blocks("sh") if "curl" in block.code]

SAID = {
    "Run it": "generation.completed",
    "Sessions and rooms": "agent.speak.confirmed",
    "OpenAI Realtime": "response.done",
}
"""What a client prints when it was served."""

ANSWERED = {"LiveKit Agents": '"session_id":"sess_', "OpenAI Realtime": '"value":"ek_'}


def agents_token() -> str:
    """Return a token as a LiveKit agent makes it for its avatar."""
    claims = {
        "iss": "key",
        "sub": "avatar",
        "exp": int(time.time()) + 600,
        "kind": "agent",
        "video": {"roomJoin": True, "room": "demo"},
        "attributes": {"lk.publish_on_behalf": "agent"},
    }
    return jwt.encode(claims, "a secret of a LiveKit server that is not there", algorithm="HS256")


async def output_of(*command: str) -> str:
    """Run a command in the repository and return what it prints; it must succeed."""
    # Nobody listens there: the avatar's session ends by itself.
    environ = {**os.environ, "LIVEKIT_URL": "ws://127.0.0.1:9", "AVATAR_ROOM_TOKEN": agents_token()}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        printed, complained = await asyncio.wait_for(process.communicate(), WAIT_S)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, complained.decode()[-2000:]
    return printed.decode()


def test_the_clients_are_found() -> None:
    assert {block.heading for block in PYTHON} == {*SAID, "AG2"}
    assert {block.heading for block in SHELL} == set(ANSWERED)


@pytest.mark.parametrize("block", PYTHON, ids=title_of)
async def test_python_client_is_served(server: Server, block: Block) -> None:
    printed = await output_of(sys.executable, "-c", block.against(server))
    assert SAID.get(block.heading, "") in printed


@pytest.mark.parametrize("block", SHELL, ids=title_of)
async def test_shell_client_is_served(server: Server, block: Block) -> None:
    printed = await output_of("bash", "-euc", block.against(server))
    assert ANSWERED[block.heading] in printed
