from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import SessionNotFound
from serve_app.session.registry import host_name, host_of, session_tag

pytestmark = pytest.mark.unit

SESSION = "sess_h0a1b2c" + "d" * 24


def test_a_session_names_its_host() -> None:
    assert session_tag(SESSION) == "h0a1b2c"
    assert host_of(SESSION) == host_name("h0a1b2c") == "session-host-h0a1b2c"


@pytest.mark.parametrize(
    "session_id",
    [
        "",
        "h0a1b2c-" + "d" * 24,
        SESSION[5:],
        SESSION[:-1],
        SESSION + "d",
        SESSION + "\n",
        SESSION.upper(),
        SESSION.replace("h", "g"),
        SESSION.replace("d", "٣"),
        "sess_registry-avatar",
    ],
)
def test_what_is_no_sessions_id_is_not_found(session_id: str) -> None:
    with pytest.raises(SessionNotFound, match="expected the id of a session of this server"):
        host_of(session_id)


@given(st.text(max_size=60))
def test_whatever_stands_for_a_session_is_not_found(session_id: str) -> None:
    with pytest.raises(SessionNotFound) as caught:
        session_tag(session_id)
    assert len(session_id) < 10 or session_id not in str(caught.value)
