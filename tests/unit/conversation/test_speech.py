"""Which words were heard of an answer that was cut."""

from __future__ import annotations

import pytest

from serve_app.conversation.speech import Speech

pytestmark = pytest.mark.unit


def spoken(length_s: float, *words: tuple[str, float | None]) -> Speech:
    speech = Speech()
    for text, at_s in words:
        speech.say(text, at_s)
    speech.length_s = length_s
    return speech


def test_words_with_known_times_are_heard_when_they_begin_before_the_cut() -> None:
    speech = spoken(3.0, ("one ", 0.0), ("two ", 1.0), ("three", 2.0))
    assert [speech.until(s) for s in (0.0, 0.5, 1.0, 1.01, 2.5, 9.0)] == [
        "",
        "one",
        "one",
        "one two",
        "one two three",
        "one two three",
    ]


def test_within_a_sentence_words_pass_at_an_even_pace() -> None:
    speech = spoken(4.0, ("aa bb cc dd. ", 0.0), ("ee ff gg hh.", 3.0))
    assert speech.until(1.3) == "aa bb"
    assert speech.until(3.1) == "aa bb cc dd. ee"


def test_without_any_time_the_length_decides() -> None:
    speech = spoken(2.0, ("one two ", None), ("three four", None))
    assert speech.until(1.0) == "one two three"


def test_times_that_go_back_or_beyond_the_speech_do_no_harm() -> None:
    speech = spoken(1.0, ("a ", 0.5), ("b ", 0.2), ("c", 7.0))
    assert speech.until(0.6) == "a b"
    assert speech.until(8.0) == "a b c"


def test_a_cut_holds_for_words_that_come_later() -> None:
    speech = spoken(1.0, ("one ", 0.0))
    speech.cut_s = 0.9
    speech.say("two", 1.0)
    assert speech.heard == "one"
    assert speech.text == "one two"


def test_nothing_said_is_nothing_heard() -> None:
    assert spoken(1.0).until(0.5) == ""
