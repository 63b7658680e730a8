from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.gateway.realtime.client_json import MAX_BRACKETS, parse_object
from serve_app.gateway.realtime.errors import RealtimeRefused

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{}", {}),
        (' {"a": [1, 2.5, null, true]} ', {"a": [1, 2.5, None, True]}),
        ('{"a": "\\ud83d\\ude00"}', {"a": "😀"}),
        ('{"a": "\\\\ud800"}', {"a": "\\ud800"}),
        (b'{"a": "\xc3\xa4"}', {"a": "ä"}),
    ],
)
def test_objects_are_returned(text: str | bytes, value: dict[str, Any]) -> None:
    assert parse_object(text) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected JSON"),
        ("{", "line 1 column 2"),
        ("[]", "found an array"),
        ("3", "found an integer"),
        ('"secret"', "found a string"),
        ('{"a": Infinity}', "expected JSON"),
        ('{"a": ' + "9" * 5000 + "}", "expected JSON"),
        ('{"a": ' * 5000, "expected JSON"),
        ('{"a": "\\uD800"}', "surrogate"),
        ('{"\\udfff": 1}', "surrogate"),
        (b"\xff", "byte 0"),
        ("[" + "[]," * MAX_BRACKETS, "brackets"),
    ],
)
def test_what_is_no_object_is_refused_and_not_repeated(text: str | bytes, words: str) -> None:
    with pytest.raises(RealtimeRefused, match=words) as caught:
        parse_object(text)
    assert (caught.value.error.status, caught.value.error.code) == (400, "invalid_json")
    assert "secret" not in caught.value.error.message


def test_an_intricate_text_is_refused_before_it_is_parsed() -> None:
    text = "[" + "[]," * 2**21 + "1]"
    began_s = time.perf_counter()
    with pytest.raises(RealtimeRefused):
        parse_object(text)
    assert time.perf_counter() - began_s < 0.5, "parsing it takes more than a second"


@settings(max_examples=200)
@given(st.text(max_size=60) | st.binary(max_size=60))
def test_whatever_comes_is_an_object_or_refused(text: str | bytes) -> None:
    with contextlib.suppress(RealtimeRefused):
        json.dumps(parse_object(text), ensure_ascii=False).encode()
