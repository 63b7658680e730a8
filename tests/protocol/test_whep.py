"""The WHEP door against the behaviours of draft-ietf-wish-whep-04 (protocols, section 7)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import pytest
from httpx2 import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.testclient import TestClient

from serve_app.config import ApiKeyConfig, AppConfig, AuthConfig, GatewayConfig, IceConfig, IceServer
from serve_app.errors import AdmissionRefused, HostLost, InvalidCandidate, InvalidDescription, SessionNotFound
from serve_app.gateway.auth import Keyring
from serve_app.gateway.tokens import SessionTokens
from serve_app.gateway.whep.door import WhepDoor
from serve_app.session.facts import SessionFacts, Viewing
from tests.fakes import Call, FakeSessionLink, FakeSessionOpener

pytestmark = pytest.mark.protocol

ID = "sess_1"
KEY, OTHER_KEY = "key-of-the-shop", "key-of-the-lab"
CLOSED = AppConfig(
    auth=AuthConfig(
        keys=[
            ApiKeyConfig(id="shop", sha256=hashlib.sha256(KEY.encode()).hexdigest()),
            ApiKeyConfig(id="lab", sha256=hashlib.sha256(OTHER_KEY.encode()).hexdigest()),
        ]
    )
)
TURN = AppConfig(
    auth=CLOSED.auth,
    ice=IceConfig(
        servers=[
            IceServer(urls=["stun:a.example"]),
            IceServer(urls=["turn:b.example"], username="u", credential=SecretStr("c")),
        ]
    ),
)
TURN_LINK = '<turn:b.example>; rel="ice-server"; username="u"; credential="c"; credential-type="password"'
OFFER = "v=0\r\na=ice-ufrag:EsAw\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=recvonly\r\n"
CANDIDATE = "candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host"
FRAGMENT = f"a=ice-ufrag:EsAw\r\na=ice-pwd:p\r\nm=video 9 RTP/AVP 0\r\na=mid:1\r\na={CANDIDATE}\r\n"
FRAGMENT_TYPE = "application/trickle-ice-sdpfrag"


@dataclass
class Player:
    """A player: what it sends, and the session and opener behind the door."""

    http: TestClient
    link: FakeSessionLink
    opener: FakeSessionOpener
    tokens: SessionTokens
    authorization: str | None = None

    def request(self, method: str, path: str, content: str | bytes = b"", **headers: str | None) -> Response:
        given = {"authorization": self.authorization} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        present = {name: value for name, value in given.items() if value is not None}
        return self.http.request(method, path, content=content, headers=present)

    def post(self, offer: str | bytes = OFFER, session_id: str = ID, **headers: str | None) -> Response:
        return self.request(
            "POST", f"/whep/{session_id}", offer, **{"content_type": "application/sdp"} | headers
        )

    def patch(
        self, etag: str | None, body: str = FRAGMENT, path: str | None = None, **headers: str
    ) -> Response:
        return self.request(
            "PATCH",
            path or f"/whep/{ID}/viewer-1",
            body,
            **{"content_type": FRAGMENT_TYPE, "if_match": etag} | headers,
        )


def player(
    config: AppConfig | None = None,
    *,
    authorization: str | None = None,
    opener: FakeSessionOpener | None = None,
    key_id: str | None = None,
) -> Player:
    config = config or AppConfig()
    link = FakeSessionLink(ID)
    link.key_id = key_id
    opener = opener or FakeSessionOpener(link)
    opener.resumable[ID] = link
    tokens = SessionTokens(config.auth)
    door = WhepDoor(opener, Keyring(config.auth), tokens, config)
    http = TestClient(Starlette(routes=door.routes()), base_url="http://avatars.example")
    return Player(http, link, opener, tokens, authorization)


# Watching.


def test_a_player_watches_a_running_session() -> None:
    watching = player()

    answer = watching.post()

    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/sdp"
    assert answer.text.startswith("v=0")
    assert answer.headers["location"] == f"http://avatars.example/whep/{ID}/viewer-1"
    assert answer.headers["etag"].startswith('"')
    assert answer.headers["accept-patch"] == FRAGMENT_TYPE
    assert watching.opener.calls == [Call("attach", (ID, False))]
    assert watching.link.names() == ["facts", "view", "detach"]
    assert not watching.link.closed.is_set(), "the session goes on"


def test_the_location_names_the_address_that_clients_reach() -> None:
    config = AppConfig(gateway=GatewayConfig(public_url="https://avatars.example"))

    assert player(config).post().headers["location"] == f"https://avatars.example/whep/{ID}/viewer-1"


def test_an_answer_muxes_rtcp_only() -> None:
    class Link(FakeSessionLink):
        async def view(self, offer_sdp: str) -> Viewing:
            viewing = await super().view(offer_sdp)
            return replace(viewing, answer_sdp="v=0\r\nm=video 9\r\na=rtcp-mux\r\na=sendonly\r\n")

    watching = player()
    watching.opener.resumable[ID] = Link(ID)

    assert watching.post().text == "v=0\r\nm=video 9\r\na=rtcp-mux\r\na=rtcp-mux-only\r\na=sendonly\r\n"


def test_ice_servers_are_told_with_the_answer() -> None:
    answer = player(TURN, authorization=f"Bearer {KEY}", key_id="shop").post()

    assert answer.headers.get_list("link") == ['<stun:a.example>; rel="ice-server"', TURN_LINK]


def test_a_player_leaves() -> None:
    watching = player()
    url = watching.post().headers["location"]

    assert watching.request("DELETE", url).status_code == 200
    assert watching.link.viewers == set()
    assert watching.request("DELETE", url).status_code == 404
    assert not watching.link.closed.is_set()


# Trickling.


def test_a_player_trickles() -> None:
    watching = player()
    etag = watching.post().headers["etag"]

    answer = watching.patch(etag, FRAGMENT + "a=end-of-candidates\r\n")

    assert (answer.status_code, answer.content, answer.headers.get("etag")) == (204, b"", None)
    assert [call for call in watching.link.calls if call.name == "add_viewer_candidate"] == [
        Call("add_viewer_candidate", ("viewer-1", {"candidate": CANDIDATE, "sdpMid": "1"})),
        Call("add_viewer_candidate", ("viewer-1", None)),
    ]


@pytest.mark.parametrize(
    ("case", "status"),
    [
        ("missing", 428),
        ("stale", 412),
        ("another player's", 412),
        ("any", 422),
        ("another generation", 422),
        ("list", 204),
        ("no ufrag", 204),
    ],
)
def test_a_patch_matches_the_players_own_generation(case: str, status: int) -> None:
    watching = player()
    etag = watching.post().headers["etag"]
    other = watching.post().headers["etag"]
    answers = {
        "missing": lambda: watching.patch(None),
        "stale": lambda: watching.patch('"0123"'),
        "another player's": lambda: watching.patch(other),
        "any": lambda: watching.patch("*"),
        "another generation": lambda: watching.patch(etag, FRAGMENT.replace("EsAw", "restarted")),
        "list": lambda: watching.patch(f'"0123", {etag}'),
        "no ufrag": lambda: watching.patch(etag, f"a=mid:0\r\na={CANDIDATE}\r\n"),
    }

    answer = answers[case]()

    assert answer.status_code == status
    if status != 204:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status
        assert "add_viewer_candidate" not in watching.link.names()


def test_a_player_that_is_gone_cannot_be_patched() -> None:
    watching = player()
    answer = watching.post()
    watching.request("DELETE", answer.headers["location"])

    assert watching.patch(answer.headers["etag"]).status_code == 404


# Refusals.


@pytest.mark.parametrize(
    ("method", "path", "status", "content", "kind"),
    [
        ("POST", "/whep/sess_2", 404, OFFER, "application/sdp"),
        ("POST", f"/whep/{ID}", 415, OFFER, "application/json"),
        ("POST", f"/whep/{ID}", 415, OFFER, None),
        ("POST", f"/whep/{ID}", 400, "{}", "application/sdp"),
        ("POST", f"/whep/{ID}", 400, b"v=0\r\n\xff", "application/sdp"),
        ("POST", f"/whep/{ID}", 413, "v=0\r\n" + "a" * 65_536, "application/sdp"),
        ("PATCH", f"/whep/{ID}/viewer-1", 415, OFFER, "application/sdp"),
        ("PATCH", f"/whep/{ID}/viewer-1", 400, "{}", FRAGMENT_TYPE),
        ("PATCH", f"/whep/{ID}/viewer-1", 413, "a=" + "a" * 16_384, FRAGMENT_TYPE),
        ("DELETE", f"/whep/{ID}/viewer-9", 404, "", None),
        ("DELETE", "/whep/sess_2/viewer-1", 404, "", None),
        ("PUT", f"/whep/{ID}", 405, OFFER, "application/sdp"),
        ("PATCH", f"/whep/{ID}", 405, FRAGMENT, FRAGMENT_TYPE),
        ("DELETE", f"/whep/{ID}", 405, "", None),
        ("POST", f"/whep/{ID}/viewer-1", 405, OFFER, "application/sdp"),
        ("GET", f"/whep/{ID}/viewer-1", 405, "", None),
    ],
)
def test_what_cannot_be_served_has_its_status(
    method: str, path: str, status: int, content: str | bytes, kind: str | None
) -> None:
    answer = player().request(method, path, content, content_type=kind)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert ("allow" in answer.headers) is (status == 405)


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (AdmissionRefused("8 players watch", 4.2), 503, "5"),
        (InvalidDescription("expected a video line"), 400, None),
        (SessionNotFound("it has just ended"), 404, None),
        (HostLost("gone"), 404, None),
        (RuntimeError("secret"), 500, None),
    ],
)
def test_a_session_that_cannot_take_a_player_says_why(
    error: Exception, status: int, retry_after: str | None
) -> None:
    watching = player()
    watching.link.fail["view"] = error

    answer = watching.post()

    assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry_after)
    assert "secret" not in answer.text
    assert watching.link.names()[-1] == "detach"


def test_a_candidate_that_cannot_be_used_is_refused() -> None:
    watching = player()
    etag = watching.post().headers["etag"]
    watching.link.fail["add_viewer_candidate"] = InvalidCandidate("expected a candidate")

    assert watching.patch(etag).status_code == 400


class Starting(FakeSessionOpener):
    """Knows a session that cannot be joined yet."""

    async def attach(self, session_id: str, *, take_over: bool) -> FakeSessionLink:
        raise SessionNotFound("no such session")

    async def facts(self, session_id: str) -> SessionFacts:
        return await self.resumable[session_id].facts()


def test_a_session_that_is_not_live_yet_asks_for_patience() -> None:
    answer = player(opener=Starting()).post()

    assert (answer.status_code, answer.headers["retry-after"]) == (409, "2")


@pytest.mark.parametrize("opener", [FakeSessionOpener(), Starting()])
def test_a_session_that_has_ended_is_not_found(opener: FakeSessionOpener) -> None:
    watching = player(opener=opener)
    watching.link.closed.set()

    assert watching.post().status_code == 404


# Entrance.


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {KEY}", 201),
        (f"bearer {KEY}", 201),
        (f"Bearer {OTHER_KEY}", 404),
        ("Bearer wrong", 401),
        ("Bearer a.b.c", 401),
        ("Basic d3Jvbmc=", 401),
        (None, 401),
    ],
)
def test_an_api_key_opens_its_own_sessions(authorization: str | None, status: int) -> None:
    answer = player(CLOSED, authorization=authorization, key_id="shop").post()

    assert answer.status_code == status
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert "wrong" not in answer.text


@pytest.mark.parametrize(
    ("session_id", "lifetime_s", "status"), [(ID, 60, 201), ("sess_2", 60, 401), (ID, -60, 401)]
)
def test_a_session_token_opens_its_session(session_id: str, lifetime_s: float, status: int) -> None:
    watching = player(CLOSED, key_id="shop")
    watching.authorization = f"Bearer {watching.tokens.issue(session_id, 'shop', lifetime_s)}"

    assert watching.post().status_code == status


def test_every_request_of_a_player_is_checked() -> None:
    watching = player(CLOSED, authorization=f"Bearer {KEY}", key_id="shop")
    answer = watching.post()
    watching.authorization = None

    assert watching.patch(answer.headers["etag"]).status_code == 401
    assert watching.request("DELETE", answer.headers["location"]).status_code == 401
    assert watching.link.viewers == {"viewer-1"}


@pytest.mark.parametrize(
    ("config", "status"),
    [
        (AppConfig(), 403),
        (AppConfig(gateway=GatewayConfig(allowed_origins=["https://shop.example"])), 201),
        (AppConfig(gateway=GatewayConfig(allowed_origins=["https://a.example"])), 403),
    ],
)
def test_a_page_of_another_origin_needs_a_place_in_the_list(config: AppConfig, status: int) -> None:
    assert player(config).post(origin="https://shop.example").status_code == status


# What the endpoint says of itself.


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_endpoint_says_what_it_takes(method: str) -> None:
    answer = player(CLOSED).request(method, f"/whep/{ID}")

    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "application/sdp"


@pytest.mark.parametrize(("authorization", "links"), [(f"Bearer {KEY}", 2), (None, 0)])
def test_options_tell_credentials_to_who_may_enter(authorization: str | None, links: int) -> None:
    answer = player(TURN, authorization=authorization, key_id="shop").request("OPTIONS", f"/whep/{ID}")

    assert (answer.status_code, answer.headers["accept-post"]) == (204, "application/sdp")
    assert len(answer.headers.get_list("link")) == links


def test_options_of_a_player_say_how_to_trickle() -> None:
    answer = player().request("OPTIONS", f"/whep/{ID}/viewer-1")

    assert (answer.status_code, answer.headers["accept-patch"]) == (204, FRAGMENT_TYPE)


@pytest.mark.parametrize(
    ("origins", "expected"),
    [
        ([], "*"),
        (["https://shop.example"], "https://shop.example"),
        (["https://a.example"], None),
        (["*"], "*"),
    ],
)
def test_pages_may_read_what_players_need(origins: list[str], expected: str | None) -> None:
    config = CLOSED.model_copy(update={"gateway": GatewayConfig(allowed_origins=origins)})
    watching = player(config, authorization=f"Bearer {KEY}", key_id="shop")
    origin = "https://shop.example"

    preflight = watching.request(
        "OPTIONS",
        f"/whep/{ID}",
        authorization=None,
        origin=origin,
        access_control_request_method="POST",
        access_control_request_headers="authorization, content-type",
    )
    answer = watching.post(origin=origin)

    assert preflight.headers.get("access-control-allow-origin") == expected
    assert answer.headers.get("access-control-allow-origin") == expected
    if expected is not None:
        exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
        assert exposed >= {"Location", "Link", "ETag", "Retry-After"}
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "If-Match" in preflight.headers["access-control-allow-headers"]


# Whatever arrives.


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["POST", "PATCH", "DELETE", "PUT"]),
    st.sampled_from([f"/whep/{ID}", f"/whep/{ID}/viewer-1", "/whep/%00/%ff", "/whep/a%2Fb"]),
    st.binary(max_size=200) | st.sampled_from([OFFER.encode(), FRAGMENT.encode()]),
    st.sampled_from(["application/sdp", FRAGMENT_TYPE, "text/plain", ""]),
    st.sampled_from(["*", '"a"', "", ",", '"' * 40]),
)
def test_whatever_arrives_is_answered(method: str, path: str, body: bytes, kind: str, match: str) -> None:
    answer = player().request(method, path, body, content_type=kind, if_match=match)

    assert answer.status_code in {200, 201, 204, 400, 404, 405, 412, 413, 415, 422, 428}
