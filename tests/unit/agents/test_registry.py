from __future__ import annotations

import pytest

from serve_app.agents.echo import EchoAgent
from serve_app.agents.registry import make_agent
from serve_app.agents.scripted import ScriptedAgent
from serve_app.agents.upstream import RealtimeAgent
from serve_app.config import AgentsConfig
from serve_app.errors import AgentFailed
from tests.unit.agents.fake_voice import FakeVoice

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("name", "kind"), [("echo", EchoAgent), ("scripted", ScriptedAgent), ("realtime", RealtimeAgent)]
)
def test_an_agent_is_made_by_its_name(name: str, kind: type) -> None:
    assert isinstance(make_agent(name, AgentsConfig(), FakeVoice()), kind)


def test_without_a_name_the_configured_agent_is_made() -> None:
    assert isinstance(make_agent(None, AgentsConfig(), FakeVoice()), EchoAgent)
    assert isinstance(make_agent(None, AgentsConfig(default="scripted"), FakeVoice()), ScriptedAgent)


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(AgentFailed, match="expected one of echo, realtime, scripted, got 'parrot'"):
        make_agent("parrot", AgentsConfig(), FakeVoice())
