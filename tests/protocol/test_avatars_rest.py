"""`POST /v1/avatars/upload-face` and the avatars' pictures, as document 001's clients and pages call them."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import io
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.testclient import TestClient

from serve_app.avatars.bundle import pack
from serve_app.avatars.created import Created, Progress
from serve_app.avatars.creation import CreationFailed, Creations, Order
from serve_app.avatars.landmarks import ToolsMissing
from serve_app.avatars.photo import MAX_PHOTO_BYTES, PhotoRefused
from serve_app.avatars.store import AvatarStore
from serve_app.config import ApiKeyConfig, AppConfig, AuthConfig, AvatarsConfig, GatewayConfig
from serve_app.errors import AvatarError
from serve_app.gateway.auth import Keyring
from serve_app.gateway.avatar.avatars_rest import AvatarsDoor
from tests.avatar_tools import HOPPER, TOOLS, marked_face, needs_tools, video_file

pytestmark = pytest.mark.protocol

KEY = "ah_live_" + "k" * 32
PATH = "/v1/avatars/upload-face"
PHOTO = b"\xff\xd8\xff a photo"


class QuickCreations(Creations):
    """Makes the built-in avatar of every order, or fails."""

    def __init__(self, fault: Exception | None = None, max_waiting: int = 4) -> None:
        super().__init__(max_waiting=max_waiting)
        self.fault = fault
        self.orders: list[Order] = []
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def create(self, order: Order, progress: Progress = lambda number, text: None) -> Created:
        self.orders.append(order)
        await self.goes_on.wait()
        if self.fault is not None:
            raise self.fault
        default = AvatarStore(None).load("default")
        bundle = dataclasses.replace(default, avatar_id=order.avatar_id, name=order.name)
        return Created(bundle, pack(bundle), ())


class Server:
    """The door over a store of its own, and a client."""

    def __init__(self, folder: Path | None, creations: Creations | None = None, **config: Any) -> None:
        avatars = config.pop("avatars", AvatarsConfig(store=None if folder is None else str(folder)))
        self.config = AppConfig(avatars=avatars, **config)
        self.store = AvatarStore(self.config.avatars.store)
        self.creations = creations or QuickCreations()
        door = AvatarsDoor(Keyring(self.config.auth), self.config, self.store, self.creations)
        self.app = Starlette(routes=door.routes())
        self.client = TestClient(self.app)

    def uploaded(self) -> set[str]:
        """Return the ids of the avatars that are not built in."""
        return set(self.store.ids()) - set(AvatarStore(None).ids())


def file(content: bytes = PHOTO, name: str = "face.jpg") -> dict[str, Any]:
    return {"files": {"file": (name, content, "image/jpeg")}}


class Answer(Protocol):
    """What a client got, of whichever package."""

    @property
    def status_code(self) -> int: ...

    @property
    def text(self) -> str: ...

    def json(self) -> Any: ...


def refused(answer: Answer, status: int, code: str) -> str:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["success"] is False
    assert body["error"]["code"] == code
    assert set(body["error"]) <= {"message", "suggestion", "code", "details"}
    return str(body["error"]["message"])


def test_a_file_becomes_an_avatar_and_the_answer_is_the_documents(tmp_path: Path) -> None:
    server = Server(tmp_path)
    answer = server.client.post(PATH, **file(name="Ann Example.jpg"))
    assert answer.status_code == 200
    body = answer.json()
    avatar_id = body["avatar_id"]
    assert body == {
        "success": True,
        "preview_url": f"http://testserver/avatars/{avatar_id}/preview.png",
        "image_url": f"http://testserver/avatars/{avatar_id}/portrait.png",
        "avatar_id": avatar_id,
    }
    assert avatar_id.startswith("avat_")
    assert server.uploaded() == {avatar_id}
    assert server.store.card(avatar_id).name == "Ann Example"
    for name, side in (("preview", 256), ("image", 512)):
        picture = server.client.get(body[f"{name}_url"])
        assert picture.headers["content-type"] == "image/png"
        with Image.open(io.BytesIO(picture.content)) as image:
            assert image.size == (side, side)


@pytest.mark.parametrize(
    "sent",
    [
        {"json": {"image_base64": base64.b64encode(PHOTO).decode()}},
        {"json": {"image_base64": "data:image/jpeg;base64," + base64.b64encode(PHOTO).decode()}},
        {"json": {"image_base64": base64.urlsafe_b64encode(PHOTO).decode().rstrip("=")}},
        {"data": {"image_base64": base64.b64encode(PHOTO).decode()}},
        {"data": {"name": "x"}, **file()},
    ],
    ids=["base64", "data URL", "URL alphabet", "form", "multipart"],
)
def test_every_way_to_send_bytes_brings_them(tmp_path: Path, sent: dict[str, Any]) -> None:
    server = Server(tmp_path)
    assert server.client.post(PATH, **sent).status_code == 200
    assert isinstance(server.creations, QuickCreations)
    (order,) = server.creations.orders
    assert order.content == PHOTO
    assert order.url == ""


def test_a_url_is_left_to_the_process_that_fetches_it(tmp_path: Path) -> None:
    server = Server(tmp_path)
    sent = {"image_url": "https://pictures.example/a.png", "name": "A", "background": "green"}
    assert server.client.post(PATH, json=sent).status_code == 200
    assert isinstance(server.creations, QuickCreations)
    (order,) = server.creations.orders
    assert (order.url, order.content, order.name, order.background) == (sent["image_url"], b"", "A", "green")


def test_the_older_path_means_the_same(tmp_path: Path) -> None:
    assert Server(tmp_path).client.post("/avatars/upload", **file()).json()["success"] is True


@pytest.mark.parametrize(
    "sent",
    [
        {"json": {}},
        {"json": {"image_url": "https://x.example/", "image_base64": "aGk="}},
        {"json": ["a"]},
        {"json": {"image_url": 7}},
        {"content": b"{", "headers": {"content-type": "application/json"}},
        {"content": b"abc", "headers": {"content-type": "image/jpeg"}},
        {"content": b"abc"},
        {"content": b"abc", "headers": {"content-type": "multipart/form-data"}},
        {"content": b"--x\r\nbroken", "headers": {"content-type": "multipart/form-data; boundary=y"}},
        {"data": {"file": "text"}},
        {"files": {"image_base64": ("a.png", b"abc")}},
        {"files": [("file", ("a.png", b"a")), ("file", ("b.png", b"b"))]},
        {"json": {"image_base64": "aGk=", "name": "n" * 101}},
    ],
)
def test_bodies_without_exactly_one_picture_are_refused(tmp_path: Path, sent: dict[str, Any]) -> None:
    server = Server(tmp_path)
    assert refused(server.client.post(PATH, **sent), 400, "INVALID_REQUEST")
    assert server.uploaded() == set()


@pytest.mark.parametrize("text", ["not base64!", "aGk", "data:image/png,abc", "é"])
def test_text_that_is_no_base64_is_refused_or_decoded(tmp_path: Path, text: str) -> None:
    answer = Server(tmp_path).client.post(PATH, json={"image_base64": text})
    if text == "aGk":
        assert answer.status_code == 200
    else:
        assert "base64" in refused(answer, 400, "BAD_REQUEST")


def test_bodies_above_the_limit_are_refused(tmp_path: Path) -> None:
    server = Server(tmp_path)
    answer = server.client.post(PATH, **file(bytes(MAX_PHOTO_BYTES + 5_000_000)))
    assert answer.status_code == 413
    assert server.uploaded() == set()


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("no_face", 422), ("several_faces", 422), ("turned_away", 422), ("face_too_small", 422),
        ("too_large", 413), ("too_many_pixels", 413), ("not_an_image", 415), ("damaged", 422),
        ("bad_url", 400), ("fetch_failed", 422), ("mouth_open", 422),
    ],
)  # fmt: skip
def test_each_refusal_has_its_code_text_and_suggestion(tmp_path: Path, reason: str, status: int) -> None:
    server = Server(tmp_path, QuickCreations(PhotoRefused(reason, "expected this, found that", "Do so.")))
    answer = server.client.post(PATH, **file())
    assert refused(answer, status, reason.upper()) == "expected this, found that"
    assert answer.json()["error"]["suggestion"] == "Do so."
    assert server.uploaded() == set()


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (ToolsMissing("expected tools in /secret/place"), 501, "UPLOADS_UNAVAILABLE"),
        (CreationFailed("too slow"), 500, "INTERNAL"),
        (AvatarError("something"), 500, "INTERNAL"),
        (ZeroDivisionError(), 500, "INTERNAL"),
    ],
)
def test_faults_of_the_server_are_told_without_its_insides(
    tmp_path: Path, fault: Exception, status: int, code: str
) -> None:
    message = refused(Server(tmp_path, QuickCreations(fault)).client.post(PATH, **file()), status, code)
    assert "/secret" not in message


def test_a_closed_server_wants_a_key(tmp_path: Path) -> None:
    key = ApiKeyConfig(id="one", sha256=hashlib.sha256(KEY.encode()).hexdigest())
    server = Server(tmp_path, auth=AuthConfig(keys=[key], session_secret=SecretStr("s" * 40)))
    answer = server.client.post(PATH, **file())
    assert answer.status_code == 401
    assert answer.json() == {"error": "API key required"}
    assert server.client.post(PATH, headers={"x-api-key": KEY}, **file()).status_code == 200
    assert server.client.get("/avatars/default/preview.png").status_code == 200


def test_pages_of_other_sites_may_not_upload(tmp_path: Path) -> None:
    server = Server(tmp_path, gateway=GatewayConfig(allowed_origins=["https://ours.example"]))
    answer = server.client.post(PATH, headers={"origin": "https://evil.example"}, **file())
    assert answer.status_code == 401
    assert server.client.post(PATH, headers={"origin": "https://ours.example"}, **file()).status_code == 200


def test_a_server_without_a_store_or_uploads_says_so(tmp_path: Path) -> None:
    refused(Server(None).client.post(PATH, **file()), 403, "UPLOADS_DISABLED")
    closed = AvatarsConfig(store=str(tmp_path), uploads=False)
    refused(Server(None, avatars=closed).client.post(PATH, **file()), 403, "UPLOADS_DISABLED")


def test_a_full_store_takes_no_more(tmp_path: Path) -> None:
    most = len(AvatarStore(None).ids()) + 1
    server = Server(None, avatars=AvatarsConfig(store=str(tmp_path), max_stored=most))
    assert server.client.post(PATH, **file()).status_code == 200
    refused(server.client.post(PATH, **file()), 507, "STORE_FULL")
    assert len(server.uploaded()) == 1


def test_a_store_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("a file")
    answer = Server(tmp_path / "there").client.post(PATH, **file())
    refused(answer, 503, "STORE_UNREACHABLE")
    assert answer.headers["retry-after"]


async def test_more_uploads_than_may_wait_are_sent_away(tmp_path: Path) -> None:
    creations = QuickCreations(max_waiting=1)
    creations.goes_on.clear()
    server = Server(tmp_path, creations)
    transport = httpx.ASGITransport(server.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        first = [asyncio.create_task(client.post(PATH, **file())) for _ in range(2)]
        while len(creations.orders) < 2:  # noqa: ASYNC110 - turns of the loop, no time
            await asyncio.sleep(0)
        answer = await client.post(PATH, **file())
        refused(answer, 503, "NO_CAPACITY")
        assert int(answer.headers["retry-after"]) >= 1
        creations.goes_on.set()
        assert [one.status_code for one in await asyncio.gather(*first)] == [200, 200]
        assert (await client.post(PATH, **file())).status_code == 200


def test_pictures_are_cached_by_browsers_and_shown_to_other_pages() -> None:
    client = Server(None).client
    answer = client.get("/avatars/default/preview.png", headers={"origin": "https://page.example"})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "max-age" in answer.headers["cache-control"]
    again = client.get("/avatars/default/preview.png", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("path", ["/avatars/nobody/preview.png", "/avatars/..%2fdefault/portrait.png"])
def test_pictures_of_nobody_are_not_found(path: str) -> None:
    assert Server(None).client.get(path).status_code == 404


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=300),
    st.sampled_from(
        ["application/json", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"]
    ),
)
def test_any_body_is_answered(tmp_path: Path, body: bytes, kind: str) -> None:
    answer = Server(tmp_path).client.post(PATH, content=body, headers={"content-type": kind})
    assert answer.status_code in (200, 400)


@needs_tools
def test_a_real_photo_becomes_an_avatar_and_bad_ones_leave_the_store_as_it_was(tmp_path: Path) -> None:
    server = Server(tmp_path, Creations(TOOLS))
    landscape = io.BytesIO()
    Image.effect_noise((400, 300), 60).save(landscape, "PNG")
    for content, status, code in (
        (b"some text", 415, "NOT_AN_IMAGE"),
        (HOPPER.read_bytes()[:20_000], 422, "DAMAGED"),
        (landscape.getvalue(), 422, "NO_FACE"),
        (bytes(MAX_PHOTO_BYTES + 1), 413, "TOO_LARGE"),
        (video_file([marked_face()] * 5, 2), 415, "NOT_AN_IMAGE"),
    ):
        refused(server.client.post(PATH, **file(content)), status, code)
    refused(server.client.post(PATH, json={"image_url": "https://127.0.0.1/a.png"}), 400, "BAD_URL")
    assert server.uploaded() == set()
    answer = server.client.post(PATH, **file(HOPPER.read_bytes()))
    assert server.uploaded() == {answer.json()["avatar_id"]}
