"""The Realtime and AG2 doors in front of fakes, for the tests of both."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.testclient import TestClient

from serve_app.config import ApiKeyConfig, AppConfig, AuthConfig
from serve_app.gateway.ag2.door import Ag2Door
from serve_app.gateway.ag2.functions import FunctionRegistry, load_functions
from serve_app.gateway.auth import Keyring
from serve_app.gateway.link import SessionFacts
from serve_app.gateway.realtime.door import RealtimeDoor
from serve_app.session.request import SessionRequest
from tests.fakes import FakeSessionLink, FakeSessionOpener
from tests.fakes_keys import FakeEphemeralKeys

__all__ = ["TestClient"]

KEY, OTHER_KEY = "key-of-ada-0123456789", "key-of-bob-0123456789"
BEARER = {"authorization": f"Bearer {KEY}"}
SDP = {"content-type": "application/sdp"}
OFFER = (
    "v=0\r\ns=-\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n"
)


def with_keys(config: AppConfig | None = None) -> AppConfig:
    """Return a configuration with two API keys, "ada" and "bob"."""
    keys = [
        ApiKeyConfig(id=name, sha256=hashlib.sha256(key.encode()).hexdigest())
        for name, key in (("ada", KEY), ("bob", OTHER_KEY))
    ]
    return (config or AppConfig()).model_copy(update={"auth": AuthConfig(keys=keys)})


class CallLink(FakeSessionLink):
    """A link to a session with a conversation, which may count against an API key."""

    def __init__(self, session_id: str = "sess_h1abc", *, key_id: str | None = None) -> None:
        super().__init__(session_id)
        self.key_id = key_id

    async def facts(self) -> SessionFacts:
        return replace(await super().facts(), speech_from="conversation")


class Doors:
    """Both doors, and what stands behind them.

    Args:
        config: the whole configuration.
        link: what `open` gives.
        functions: of the AG2 door.
    """

    def __init__(
        self,
        config: AppConfig | None = None,
        link: FakeSessionLink | None = None,
        functions: FunctionRegistry | None = None,
        **options: Any,
    ) -> None:
        config = config or AppConfig()
        self.link = link or CallLink()
        self.opener = FakeSessionOpener(self.link)
        self.keys = FakeEphemeralKeys()
        keyring = Keyring(config.auth)
        realtime = RealtimeDoor(self.opener, self.keys, keyring, config, **options)
        self.functions = load_functions(config.ag2.functions) if functions is None else functions
        ag2 = Ag2Door(self.keys, keyring, config, functions=functions, **options)
        self.app = Starlette(routes=[*realtime.routes(), *ag2.routes()])
        self.http = TestClient(self.app)

    def opened(self) -> SessionRequest:
        """Return the only request for a session there was."""
        [request] = [call.args[0] for call in self.opener.calls if call.name == "open"]
        assert isinstance(request, SessionRequest)
        return request

    def mint(self, dialect: str = "beta", *, headers: dict[str, str] | None = None, **body: Any) -> str:
        """Return a new ephemeral key."""
        path = {"beta": "sessions", "ga": "client_secrets"}[dialect]
        answer = self.http.post(f"/v1/realtime/{path}", json=body, headers=headers or BEARER)
        assert answer.status_code == 200, answer.text
        secret = answer.json().get("client_secret") or answer.json()
        assert isinstance(secret["value"], str)
        return secret["value"]
