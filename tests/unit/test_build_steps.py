"""Steps of the image's build, and the scripts around it, that are plain shell: run without an engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deployment import ROOT, text_of

pytestmark = pytest.mark.unit


def run_steps() -> list[str]:
    """The Dockerfile's RUN commands, continued lines joined."""
    joined = re.sub(r"\\\n\s*", " ", text_of("Dockerfile"))
    return re.findall(r"^RUN (.+)$", joined, re.MULTILINE)


def step(part: str) -> str:
    (found,) = [command for command in run_steps() if part in command]
    return found


def program(folder: Path, name: str, script: str) -> None:
    """Put a program on the way of a script's PATH."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def run_script(name: str, *arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    command = [str(ROOT / "scripts" / name), *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


# The Dockerfile


@pytest.mark.parametrize("command", run_steps())
def test_step_parses_as_shell(command: str) -> None:
    subprocess.run(["sh", "-n", "-c", command], check=True)


def test_dependencies_install_from_the_files_that_are_copied_before_the_code(tmp_path: Path) -> None:
    command = step("pip install")
    copied = next(line for line in text_of("Dockerfile").splitlines() if line.startswith("COPY pyproject"))
    for name in copied.split()[1:-1]:
        shutil.copy(ROOT / name, tmp_path)
    # What is installed is resolved from an index; that the package can be built is this machine's to say.
    pip = f"{sys.executable} -m pip install --dry-run --no-deps --no-build-isolation --quiet"
    command = command.replace("pip install", pip)
    environ = {**os.environ, "EXTRAS": "realtime", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "serve_app" / "__init__.py").exists()


def test_folders_to_write_to_are_made_for_their_owner(tmp_path: Path) -> None:
    command = step("install --directory")
    options, _, folders = command.partition("--group=avatar")
    here = [tmp_path / folder.lstrip("/") for folder in folders.split()]
    options = options.replace("--owner=avatar", f"--owner={os.getuid()}")
    subprocess.run(["sh", "-c", f"{options} {' '.join(map(str, here))}"], check=True)
    assert all(folder.is_dir() and folder.stat().st_uid == os.getuid() for folder in here)


def test_code_compiles_as_the_image_compiles_it(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "serve_app" / "media", tmp_path / "serve_app")
    command = step("compileall").replace("python", sys.executable, 1)
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    assert list(tmp_path.rglob("*.pyc"))


def test_health_check_fails_where_nobody_answers_and_is_quick_about_it() -> None:
    (check,) = re.findall(r"HEALTHCHECK [^\n]*\\\n\s*CMD (\[.*\])", text_of("Dockerfile"))
    words: list[str] = json.loads(check)
    assert words[0] == "python"
    code = words[2].replace("8765", "9")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=10, check=False)
    assert done.returncode != 0


# Audit and scan


def test_audit_asks_about_every_pin_and_takes_no_silence_for_an_answer(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin", "pip-audit", 'echo "$@"; exit 7')
    done = run_script("audit", str(tmp_path), path=tmp_path / "bin")
    assert done.returncode == 7, done.stderr
    assert "--strict" in done.stdout
    assert done.stdout.rstrip().endswith("--requirement constraints.txt")


def test_scan_refuses_an_image_that_runs_as_root(tmp_path: Path) -> None:
    program(tmp_path, "docker", 'case "$*" in *Config.User*) echo root;; esac')
    done = run_script("scan-image", "avatar", path=tmp_path)
    assert done.returncode != 0
    assert "does not run as root" in done.stderr


def test_scan_looks_for_flaws_and_secrets_and_fails_on_a_finding(tmp_path: Path) -> None:
    program(tmp_path, "docker", 'case "$*" in *Config.User*) echo avatar;; run*) echo "$@"; exit 1;; esac')
    done = run_script("scan-image", "avatar:cuda", path=tmp_path)
    assert done.returncode == 1
    assert "--scanners vuln,secret" in done.stdout
    assert "--exit-code 1" in done.stdout
    assert done.stdout.rstrip().endswith(" avatar:cuda")


def test_scan_says_which_image_is_missing(tmp_path: Path) -> None:
    program(tmp_path, "docker", "exit 1")
    done = run_script("scan-image", "avatar", path=tmp_path)
    assert "docker build -t avatar ." in done.stderr


def test_manifests_of_a_configuration_that_is_not_there_are_refused() -> None:
    command = [str(ROOT / "scripts" / "kuberay-manifests"), "configs/none.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "configs/none.yaml" in done.stderr
    assert done.stdout == ""
