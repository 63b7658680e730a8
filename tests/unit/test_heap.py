"""Collections pass over what a process holds since its start."""

from __future__ import annotations

import gc
import weakref

import pytest

from serve_app.heap import freeze_heap

pytestmark = pytest.mark.unit


class Node:
    """Something that only a collection ends, once it refers to itself."""

    def __init__(self) -> None:
        self.me = self


def test_collections_pass_over_what_is_here() -> None:
    here = Node()
    assert any(one is here for one in gc.get_objects())
    freeze_heap()
    assert not any(one is here for one in gc.get_objects())


def test_what_comes_later_is_collected() -> None:
    freeze_heap()
    later = Node()
    watched = weakref.ref(later)
    del later
    gc.collect()
    assert watched() is None
