from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from starlette.requests import HTTPConnection

from serve_app.client.cli import main
from serve_app.config import AuthConfig
from serve_app.gateway.auth import Keyring

pytestmark = pytest.mark.unit


def test_help_names_the_commands_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, click.testing\n"
        "from serve_app.client.cli import main\n"
        "print(click.testing.CliRunner().invoke(main, ['--help']).output)\n"
        "print('heavy:', sorted({'ray', 'torch', 'aiortc', 'av', 'numpy'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(command in out for command in ("doctor", "key", "render", "speak"))
    assert "heavy: []" in out


def test_a_missing_file_is_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["speak", "no-such.wav"])
    assert result.exit_code == 2
    assert "no-such.wav" in result.output


def test_speech_that_is_no_sound_ends_with_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "notes.wav"
    path.write_text("no sound")
    result = CliRunner().invoke(main, ["speak", str(path)])
    assert result.exit_code == 1
    assert "notes.wav: expected a sound file" in result.output


def test_speaking_without_a_server_says_where_it_was_looked_for(tmp_path: Path) -> None:
    from serve_app.client.speech_file import wav_header

    path = tmp_path / "speech.wav"
    path.write_bytes(wav_header(16_000, 32_000) + bytes(32_000))
    result = CliRunner().invoke(main, ["speak", str(path), "--url", "ws://127.0.0.1:9/webrtc"])
    assert result.exit_code == 1
    assert "expected a door at ws://127.0.0.1:9/webrtc" in result.output


def test_a_key_goes_to_the_terminal_and_its_configuration_to_the_output() -> None:
    result = CliRunner().invoke(main, ["key", "acme"])
    assert result.exit_code == 0
    (entry,) = yaml.safe_load(result.stdout)
    (plain,) = re.findall(r"\bak_[A-Za-z0-9_-]{43}(?!\S)", result.stderr)
    keyring = Keyring(AuthConfig.model_validate({"keys": [entry]}))
    headers = [(b"x-api-key", plain.encode())]
    request = HTTPConnection({"type": "http", "headers": headers, "query_string": b""})
    assert keyring.authenticate(request).key_id == "acme"
    assert plain not in result.stdout
    assert CliRunner().invoke(main, ["key", "acme"]).stderr != result.stderr


@pytest.mark.parametrize("name", ["", "a b", "a:b", "-x", "a" * 65])
def test_a_keys_name_is_plain(name: str) -> None:
    result = CliRunner().invoke(main, ["key", "--", name])
    assert result.exit_code == 2
    assert "expected 1 to 64 of" in result.output
