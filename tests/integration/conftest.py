"""Two servers for most tests of this folder: each takes a quarter of a minute to start."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import yaml

from serve_app.session.registry import NAMESPACE
from tests.integration import keys
from tests.server import DEV, Server, animator, running


@pytest.fixture(scope="package")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the server's recordings."""
    return tmp_path_factory.mktemp("recorded") / "here"


@pytest.fixture(scope="package")
def server(recordings: Path) -> Iterator[Server]:
    """A server with `portrait`, `tracer`, recording, and room for the sessions that earlier tests left."""
    args = {
        "animators": {"portrait": animator(), "tracer": animator()},
        "session": {"max_sessions_per_host": 64},
        "recording": {"enabled": True, "directory": str(recordings)},
    }
    with running(args) as server:
        yield server


@pytest.fixture(scope="package")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks for API keys, whose sessions warn two seconds before their end.

    It also writes Serve's access log, which the configurations that are shipped leave out.
    """
    document = yaml.safe_load(DEV.read_text())
    document["logging_config"]["enable_access_log"] = True
    config = tmp_path_factory.mktemp("doors") / "serve.yaml"
    config.write_text(yaml.safe_dump(document))
    args = {
        "model": "tracer",
        "animators": {"tracer": animator()},
        "auth": keys.auth(),
        "ag2": {"functions": ["serve_app.gateway.ag2.examples:functions"]},
        "session": {
            "max_sessions_per_host": 64,
            "resume_grace_s": 3.0,
            "retry_after_s": 1.0,
            "warn_before_end_s": 2.0,
        },
        "rooms": {"links": [{"id": "lnk_nobodyisthere", "key_id": "one"}]},
    }
    with running(args, config=config, environ=keys.SECRETS) as server:
        yield server


@pytest.fixture(scope="module")
def bare_ray() -> Iterator[None]:
    """Ray without Serve, in this process."""
    folder = tempfile.mkdtemp(prefix="avatar-", dir="/tmp")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        namespace=NAMESPACE,
        _temp_dir=folder,
        log_to_driver=False,
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
