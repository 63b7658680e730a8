from __future__ import annotations

import hashlib
import io

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from serve_app.avatars.store import AvatarStore
from serve_app.config import ApiKeyConfig, AppConfig, AuthConfig, GatewayConfig, NavTalkConfig
from serve_app.gateway.auth import Keyring
from serve_app.gateway.navtalk.door import NavTalkDoor
from tests.fakes import FakeSessionOpener

pytestmark = pytest.mark.protocol

LICENSE = "sk_navtalk_test"
KEYS = AuthConfig(keys=[ApiKeyConfig(id="shop", sha256=hashlib.sha256(LICENSE.encode()).hexdigest())])

KNOWN = ", ".join(AvatarStore(None).ids())
BY_NAME = "/api/open/v1/avatar/getByName"
BY_ID = "/api/open/v1/avatar/detail"


def client(config: AppConfig | None = None) -> TestClient:
    config = config or AppConfig()
    door = NavTalkDoor(FakeSessionOpener(), Keyring(config.auth), config)
    return TestClient(Starlette(routes=door.routes()), base_url="http://avatars.example")


def test_an_avatar_is_described_by_its_name() -> None:
    answer = client().get(BY_NAME, params={"license": LICENSE, "name": "navtalk.Alex"})

    picture = "http://avatars.example/avatars/default/thumbnail.jpg"
    assert answer.status_code == 200
    assert answer.json() == {
        "code": 200,
        "message": "SUCCESS",
        "data": {
            "id": "default",
            "name": "navtalk.Alex",
            "url": picture,
            "thumbnailUrl": picture,
            "providerId": "OpenAIRealtime",
            "providerName": "OpenAIRealtime",
            "model": "gpt-realtime",
            "voice": "alloy",
            "firstMessage": "",
            "prompt": "",
            "videoFile": "",
            "status": "active",
        },
    }


def test_an_avatar_is_described_by_its_id() -> None:
    data = client().get(BY_ID, params={"avatarId": "default"}).json()["data"]

    assert (data["id"], data["name"]) == ("default", "Mara")


def test_the_provider_is_configured() -> None:
    config = AppConfig(navtalk=NavTalkConfig(provider_name="openai"))

    data = client(config).get(BY_ID, params={"avatarId": "default"}).json()["data"]

    assert (data["providerId"], data["providerName"]) == ("openai", "openai")


@pytest.mark.parametrize(
    ("config", "headers", "expected"),
    [
        (AppConfig(), {"x-forwarded-proto": "https"}, "https://avatars.example"),
        (AppConfig(), {"host": "other.example:8443"}, "http://other.example:8443"),
        (AppConfig(gateway=GatewayConfig(public_url="https://a.example")), {}, "https://a.example"),
    ],
)
def test_a_picture_is_named_where_clients_reach_it(
    config: AppConfig, headers: dict[str, str], expected: str
) -> None:
    data = client(config).get(BY_ID, params={"avatarId": "default"}, headers=headers).json()["data"]

    assert data["thumbnailUrl"] == f"{expected}/avatars/default/thumbnail.jpg"


@pytest.mark.parametrize(
    ("params", "headers", "status"),
    [
        ({"license": LICENSE}, {}, 200),
        ({}, {"license": LICENSE}, 200),
        ({"license": "wrong"}, {}, 401),
        ({}, {}, 401),
    ],
)
def test_a_licence_is_asked_for(params: dict[str, str], headers: dict[str, str], status: int) -> None:
    answer = client(AppConfig(auth=KEYS)).get(
        BY_ID, params={"avatarId": "default", **params}, headers=headers
    )

    assert (answer.status_code, answer.json()["code"]) == (status, status)
    assert "wrong" not in answer.text


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        (f"{BY_NAME}?name=Nobody", 404, f"expected the name of an avatar of: {KNOWN}; found another"),
        (BY_NAME, 400, "expected ?name=, found none"),
        (f"{BY_ID}?avatarId=nobody", 404, f"expected an avatar of: {KNOWN}; found 'nobody'"),
        (f"{BY_ID}?avatarId=../../etc", 404, "expected the id of an avatar, found other text"),
        (BY_ID, 400, "expected ?avatarId=, found none"),
    ],
)
def test_what_is_not_found_is_told(path: str, status: int, message: str) -> None:
    answer = client().get(path)

    assert answer.status_code == status
    assert answer.json() == {"code": status, "message": message, "data": None}


@pytest.mark.parametrize(
    ("origins", "origin", "expected"),
    [
        ([], "https://shop.example", "*"),
        (["https://shop.example"], "https://shop.example", "https://shop.example"),
        (["https://shop.example"], "https://other.example", None),
    ],
)
def test_pages_may_read_the_answers(origins: list[str], origin: str, expected: str | None) -> None:
    config = AppConfig(auth=KEYS, gateway=GatewayConfig(allowed_origins=origins))
    headers = {
        "origin": origin,
        "access-control-request-method": "GET",
        "access-control-request-headers": "license",
    }

    preflight = client(config).options(BY_ID, headers=headers)
    answer = client(config).get(
        BY_ID, params={"avatarId": "default", "license": LICENSE}, headers={"origin": origin}
    )

    assert answer.headers.get("access-control-allow-origin") == expected
    assert preflight.headers.get("access-control-allow-origin") == expected
    assert (preflight.status_code == 200) is (expected is not None)


@pytest.mark.parametrize(("kind", "media"), [("png", "image/png"), ("jpg", "image/jpeg")])
def test_a_picture_is_served_without_a_licence_and_kept_by_browsers(kind: str, media: str) -> None:
    served = client(AppConfig(auth=KEYS))

    answer = served.get(f"/avatars/default/thumbnail.{kind}")
    again = served.get(
        f"/avatars/default/thumbnail.{kind}", headers={"if-none-match": answer.headers["etag"]}
    )

    assert answer.headers["content-type"] == media
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.size == (512, 512)
    assert again.status_code == 304


@pytest.mark.parametrize("path", ["/avatars/nobody/thumbnail.png", "/avatars/default/thumbnail.gif"])
def test_a_picture_that_is_not_there_is_not_found(path: str) -> None:
    assert client().get(path).status_code == 404
