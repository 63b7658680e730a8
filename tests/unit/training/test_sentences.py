"""Texts are the same for the same seed, and rich in what a mouth must not miss."""

from __future__ import annotations

import random
import re

import pytest

from serve_app.training.sentences import english, sentence

pytestmark = pytest.mark.unit


def test_the_same_seed_says_the_same() -> None:
    one, other = random.Random(3), random.Random(3)
    assert [sentence(one) for _ in range(20)] == [sentence(other) for _ in range(20)]


def test_sentences_are_filled_in_and_differ() -> None:
    texts = [english(random.Random(seed)) for seed in range(300)]
    assert not [text for text in texts if re.search(r"[{}|]", text)]
    assert len(set(texts)) > 200


def test_lips_have_much_to_do() -> None:
    text = " ".join(sentence(random.Random(seed)) for seed in range(300)).lower()
    assert sum(text.count(letter) for letter in "mbpfv") / len(text) > 0.1
