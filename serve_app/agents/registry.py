"""The agents by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from serve_app.agents.base import Agent
from serve_app.agents.echo import EchoAgent
from serve_app.agents.scripted import ScriptedAgent
from serve_app.agents.upstream import RealtimeAgent
from serve_app.agents.voice import Voice
from serve_app.config import AgentsConfig
from serve_app.errors import AgentFailed

AGENTS: Mapping[str, Callable[[AgentsConfig, Voice], Agent]] = MappingProxyType(
    {
        "echo": lambda config, voice: EchoAgent(voice),
        "scripted": lambda config, voice: ScriptedAgent(config.script, voice),
        "realtime": lambda config, voice: RealtimeAgent(config),
    }
)


def make_agent(name: str | None, config: AgentsConfig, voice: Voice) -> Agent:
    """Return a new agent, not yet opened.

    Args:
        name: which; None for the configured one.
        config: of all agents.
        voice: speaks texts for agents that make no sound themselves.

    Raises:
        AgentFailed: no agent has that name; lists those there are.
    """
    chosen = config.default if name is None else name
    if chosen not in AGENTS:
        raise AgentFailed(f"agent: expected one of {', '.join(sorted(AGENTS))}, got {chosen[:80]!r}")
    return AGENTS[chosen](config, voice)
