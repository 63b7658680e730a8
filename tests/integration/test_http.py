"""What a browser and an operator ask over HTTP."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.server import Server

pytestmark = pytest.mark.integration


def get(server: Server, path: str) -> httpx.Response:
    return httpx.get(server.http + path, timeout=10)


def test_page_and_everything_it_names_is_served(server: Server) -> None:
    page = get(server, "/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    named = re.findall(r'(?:src|href)="(?:\./|/)?(web/[^"]+)"', page.text)
    assert named
    for path in named:
        answer = get(server, f"/{path}")
        assert answer.status_code == 200, path
        assert answer.content


def test_modules_come_as_javascript(server: Server) -> None:
    scripts = re.findall(r'src="(?:\./|/)?(web/[^"]+\.js)"', get(server, "/").text)
    assert scripts
    assert all("javascript" in get(server, f"/{path}").headers["content-type"] for path in scripts)


def test_no_file_outside_the_page_is_served(server: Server) -> None:
    for path in ("/web/../app.py", "/web/%2e%2e/app.py", "/web/..%2fapp.py"):
        assert get(server, path).status_code == 404


def test_settings_say_what_the_page_must_know(server: Server) -> None:
    settings = get(server, "/config.json").json()
    assert settings["model"] == "portrait"
    assert settings["video"] == {"width": 512, "height": 512, "fps": 30}
    assert settings["default_avatar"] in [avatar["avatar_id"] for avatar in settings["avatars"]]
    assert settings["ice_servers"] == []
    assert settings["token_required"] is False


def test_health_and_readiness(server: Server) -> None:
    assert get(server, "/healthz").json() == {"status": "ok"}
    assert get(server, "/readyz").json() == {"status": "ready", "hosts": 1}


def test_unknown_path_is_not_found(server: Server) -> None:
    assert get(server, "/nowhere").status_code == 404
