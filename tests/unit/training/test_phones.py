"""Every phone of the synthesisers has a shape."""

from __future__ import annotations

from itertools import pairwise

import pytest

from serve_app.models.blendshapes import INDEX
from serve_app.training.phones import CLASSES, PAUSE, SHAPES, from_arpabet, from_ipa, phones_of
from serve_app.training.targets import targets

pytestmark = pytest.mark.unit

FLITE = (
    "aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw v w y z zh "
    "pau"
).split()


@pytest.mark.parametrize("name", FLITE)
def test_every_phone_of_flite_has_shapes(name: str) -> None:
    assert all(letter in SHAPES for letter in from_arpabet(name))


def test_a_phone_that_flite_has_not_is_an_error() -> None:
    with pytest.raises(ValueError, match="'qq'"):
        from_arpabet("qq")


@pytest.mark.parametrize(
    ("symbol", "letters"),
    [("ˈaɪ", "aɪ"), ("tʃ", "tʃ"), ("ɑː", "ɑ"), ("ɚ", "ɝ"), ("g", "ɡ"), ("ɲ", "nj"), ("ˌɔ̃", "ɔ"), ("", PAUSE)],
)
def test_ipa_is_read_without_stress_and_marks(symbol: str, letters: str) -> None:
    phones = phones_of(symbol, 1.0, 1.2)
    assert "".join(phone.ipa for phone in phones) == letters
    assert phones[0].start_s == 1.0
    assert phones[-1].end_s == pytest.approx(1.2)
    assert all(one.end_s == two.start_s for one, two in pairwise(phones))


def test_unknown_letters_are_a_pause() -> None:
    assert [phone.ipa for phone in phones_of("☃", 0.0, 0.1)] == [PAUSE]
    assert from_ipa(" ") == ""


def test_every_phone_is_in_one_class_of_the_table() -> None:
    listed = [phone for phones in CLASSES.values() for phone in phones]
    assert len(listed) == len(set(listed))
    assert set(listed) | {"β"} >= set(SHAPES) - {"ɥ"}


def test_shapes_fit_what_phoneticians_say() -> None:
    assert SHAPES["ɑ"].jaw > SHAPES["ɛ"].jaw > SHAPES["i"].jaw > SHAPES["s"].jaw
    assert SHAPES["u"].pucker > SHAPES["o"].pucker > SHAPES["i"].pucker
    assert targets([], 3).shape == (3, len(INDEX))
