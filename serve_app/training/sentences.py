"""Seeded sentences to speak: plain English by a small grammar, and words that no language has.

The grammar's words cover every phone of English; the invented words put every consonant before and after
every vowel, and the ones a mouth must not miss (m, b, p, f, v, w) more often than any language does.
"""

from __future__ import annotations

import random

_NAMES = (
    "Bob Emma Pamela Victor Faith Judge Theo Shirley Yvonne George Ruth Hugh Zoe Philip Maeve Wyatt Boris "
    "Fiona Jasmine Choi Kevin Naomi Oscar Quinn Ursula Abby Mabel Bram Piper Farouk"
).split()
_NOUNS = (
    "baby apple map pump bubble thumb lamp camp beef van fever wave leaf knife river window voyage measure "
    "treasure beach church judge bridge garage feather tooth weather mother father brother house "
    "mouse cow boy "
    "toy oil coin moon food book wood bird nurse word bear chair year ear fire flower tower power "
    "pool school "
    "queen week yard onion music cube ship fish bush shoe jam program problem member number summer paper "
    "supper copper ribbon rubber pebble movie oven glove shelf wolf giraffe elephant photograph microphone "
    "airport umbrella hamburger computer vegetable valley evening morning sofa coffee office"
).split()
_ADJECTIVES = (
    "big brave happy warm simple five seven fifty purple yellow obvious awful famous empty proper beautiful "
    "thirsty smooth rough thick thin loud proud royal noisy pure sure early absurd vivid serious funny heavy "
    "peaceful possible impossible important brown grey white bright cheap huge tiny old new weird"
).split()
_VERBS = (
    "moves buys pays believes proves finds forms opens moves jumps bumps watches pushes teaches measures "
    "washes weighs throws feeds leaves loves shaves robs helps chops wraps shows chews joins enjoys "
    "uses hears "
    "observes improves approves publishes remembers forgives photographs swims sings brings thinks breathes"
).split()
_PLACES = (
    "in the park|above the shop|behind my house|on a boat|near the village|at the museum|under the "
    "old bridge|"
    "by the river bank|for both of us|with your family|from top to bottom|before breakfast|after the film|"
    "without a map|over the bay|between two poppy fields|through the thick fog"
).split("|")
_OPENERS = (
    "well|however|maybe|of course|by the way|to be fair|in my opinion|if you ask me|on Monday|this February|"
    "hello|welcome back|sure|oh|I am afraid|please believe me"
).split("|")
_QUESTIONS = (
    "could you move the {n}?|why would {p} want a {a} {n}?|how many {n}s are there {w}?|who {v} the {n}?|"
    "have you ever been {w}?|what does the {a} {n} mean?|do we both have to pay for the {n}?"
).split("|")
_STATEMENTS = (
    "the {a} {n} {v} a {n} {w}.|{p} {v} my {n}.|{o}, {p} {v} the {a} {n}.|there are {d} {a} {n}s {w}.|"
    "{p} and {p} have a {n}, a {n} and a {a} {n}.|we would be {a} to give you {d} percent more.|"
    "{o}, I think that the {n} is very {a}.|my {n} never {v} the {n} {w}, but {p} always {v} it.|"
    "you may bring {d} {n}s, or leave them {w}.|yes.|no, thank you.|{o}!|it was {a}, {a}, and above all {a}.|"
    "they say the {n} of {p} {v} every {a} {n} in about {d} minutes."
).split("|")
_ONSETS = (
    "m b p f v w m b p f v t d n s z l r k g h j sh ch th y br pl fl sm sp st tr kw bl pr fr sl sw gr"
).split()
_VOWELS = "a e i o u aa ee oo ou ai oy ar or ea ah".split()
_CODAS = "m b p f v n t d s k l sh ch th ng mp ft ps st".split()


def sentence(rng: random.Random) -> str:
    """Return one sentence: three of four are English, the others have no meaning."""
    return invented(rng) if rng.random() < 0.25 else english(rng)


def english(rng: random.Random) -> str:
    """Return an English sentence of the grammar."""
    frame = rng.choice(_QUESTIONS if rng.random() < 0.25 else _STATEMENTS)
    words = {
        "{n}": _NOUNS, "{a}": _ADJECTIVES, "{v}": _VERBS, "{w}": _PLACES, "{p}": _NAMES, "{o}": _OPENERS,
    }  # fmt: skip
    for slot, choices in words.items():
        while slot in frame:
            frame = frame.replace(slot, rng.choice(choices), 1)
    while "{d}" in frame:
        frame = frame.replace("{d}", str(rng.randint(2, 999)), 1)
    return frame[0].upper() + frame[1:]


def invented(rng: random.Random) -> str:
    """Return three to seven words of one to three syllables that mean nothing."""
    return " ".join(_invented_word(rng) for _ in range(rng.randint(3, 7))) + "."


def _invented_word(rng: random.Random) -> str:
    syllables = (rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.randint(1, 3)))
    return "".join(syllables) + (rng.choice(_CODAS) if rng.random() < 0.4 else "")
