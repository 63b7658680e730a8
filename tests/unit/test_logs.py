from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from serve_app.logs import APPLICATION, configure_logs

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    application = logging.getLogger(APPLICATION)
    before = application.handlers, application.level
    yield
    application.handlers, application.level = before


def test_json_lines_have_the_session_as_a_field(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("json")
    logging.getLogger("serve_app.host").info("session %s opened: model %s", "h1-abc", "portrait")
    line = json.loads(capsys.readouterr().err)
    assert line["session_id"] == "h1-abc"
    assert line["message"] == "session h1-abc opened: model portrait"
    assert line["level"] == "INFO"
    assert line["time"].endswith("+00:00")


def test_an_exception_stays_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("json")
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        logging.getLogger("serve_app.host").exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ZeroDivisionError" in json.loads(line)["exception"]


def test_configuring_twice_writes_once_and_libraries_keep_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("text")
    configure_logs("text")
    logging.getLogger("serve_app.gateway").info("once")
    logging.getLogger("aiortc.rtcpeerconnection").info("v=0")
    written = capsys.readouterr().err
    assert written.count("once") == 1
    assert "v=0" not in written
