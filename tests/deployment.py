"""Reads the files that put the server on other machines."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import yaml

from serve_app.config import AnimatorConfig, AppConfig

ROOT = Path(__file__).parent.parent

NO_SECRETS = {"AVATAR_PUBLIC_ADDRESS", "AVATAR_TOKENS", "AVATAR_RANDOM_WEIGHTS", "TURN_URLS"}
"""Variables whose names are like those of secrets."""


def text_of(name: str) -> str:
    """Return a file of the repository."""
    return (ROOT / name).read_text()


def yaml_of(name: str) -> dict[str, Any]:
    """Return a YAML file of the repository with one document."""
    loaded: dict[str, Any] = yaml.safe_load(text_of(name))
    return loaded


def app_config(name: str) -> AppConfig:
    """Return the application's arguments of a Serve configuration."""
    return AppConfig.model_validate(yaml_of(name)["applications"][0]["args"])


def project() -> dict[str, Any]:
    """Return pyproject.toml's table `project`."""
    table: dict[str, Any] = tomllib.loads(text_of("pyproject.toml"))["project"]
    return table


def secret_variables() -> set[str]:
    """Return the variables that hold secrets, and what goes with them; as the code names them."""
    code = text_of("serve_app/config.py") + text_of("serve_app/agents/upstream_link.py")
    return set(re.findall(r'"((?:AVATAR|TURN|LIVEKIT|OPENAI)_[A-Z_]+)"', code)) - NO_SECRETS


def shell_of(document: str) -> str:
    """Return every fenced shell block of a document."""
    return "\n".join(re.findall(r"```(?:sh|bash|shell)\n(.*?)```", text_of(document), re.DOTALL))


def ray_variables_of(text: str) -> dict[str, str]:
    """Return the variables of Ray that stand before a `ray start`."""
    found = re.findall(r"\b(RAY_[A-Z_]+)=('[^']*'|\S+)", text)
    return {name: value.strip("'") for name, value in found}


def replicas(animator: AnimatorConfig) -> tuple[int, int]:
    """Return how many replicas an Animator begins with, and the most it grows to."""
    if animator.autoscaling is None:
        number = animator.num_replicas or 1
        return number, number
    least = int(animator.autoscaling.get("min_replicas", 1))
    return max(least, int(animator.autoscaling.get("initial_replicas") or 0)), int(
        animator.autoscaling.get("max_replicas", 1)
    )


def gpu_animators(config: AppConfig) -> dict[str, AnimatorConfig]:
    """Return the Animators that ask for a GPU."""
    return {
        model: animator
        for model, animator in config.animators.items()
        if animator.ray_actor_options.get("num_gpus", 0) > 0
    }


def printed(*command: str) -> str:
    """Run a command in the repository and return what it prints."""
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout
