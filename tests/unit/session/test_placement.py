from __future__ import annotations

import pytest
import ray

from serve_app.config import SessionConfig
from serve_app.session.placement import scheduling_of

pytestmark = pytest.mark.unit


def test_hosts_go_anywhere_unless_told() -> None:
    assert scheduling_of(SessionConfig()) == {}


def test_labels_are_preferred_in_a_way_that_ray_takes() -> None:
    options = scheduling_of(SessionConfig(host_labels={"role": "media"}))
    assert options["label_selector"] == {"role": "media"}
    assert options["fallback_strategy"] == [{"label_selector": {}}]
    ray.remote(type("Host", (), {})).options(**options)
