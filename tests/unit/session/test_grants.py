from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serve_app.errors import AdmissionRefused, Unauthorized
from serve_app.session.grants import GrantStore, digest_of, new_key
from tests.clocks import SetClock
from tests.never_shown import NeverShown

pytestmark = pytest.mark.unit


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def store(clock: SetClock) -> GrantStore[str]:
    return GrantStore(clock, max_grants=4, max_of_owner=2, max_bytes=100)


def mint(store: GrantStore[str], grant: str, *, lifetime_s: float = 60.0, owner: str | None = None) -> bytes:
    digest = digest_of(new_key())
    store.mint(digest, grant, lifetime_s=lifetime_s, owner=owner, size_bytes=10)
    return digest


def test_keys_are_like_openais_and_never_twice_the_same() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"ek_[A-Za-z0-9_-]{43}", key) for key in keys)


def test_a_key_is_used_once_and_checked_often(store: GrantStore[str]) -> None:
    digest = mint(store, "call")
    assert [store.check(digest), store.check(digest), store.redeem(digest)] == ["call"] * 3
    with pytest.raises(Unauthorized, match="found one that opened a call"):
        store.redeem(digest)
    assert store.check(digest) == "call"


def test_a_key_whose_call_was_not_answered_is_usable_again(store: GrantStore[str]) -> None:
    digest = mint(store, "call")
    store.redeem(digest)
    store.restore(digest)
    assert store.redeem(digest) == "call"
    store.restore(digest_of("ek_unknown"))


def test_a_key_expires_used_or_not(store: GrantStore[str], clock: SetClock) -> None:
    used, unused = mint(store, "call"), mint(store, "call", lifetime_s=61)
    store.redeem(used)
    clock.s += 60
    for digest in (used, digest_of("ek_unknown")):
        with pytest.raises(Unauthorized, match="found one that is unknown or has expired"):
            store.check(digest)
    assert store.check(unused) == "call"
    store.restore(used)
    with pytest.raises(Unauthorized):
        store.redeem(used)
    clock.s += 1
    assert len(store) == 0


def test_a_full_store_refuses_and_says_when_to_come_again(store: GrantStore[str], clock: SetClock) -> None:
    for lifetime_s in (40.0, 20.0, 30.0, 10.0):
        mint(store, "call", lifetime_s=lifetime_s)
    with pytest.raises(AdmissionRefused) as caught:
        mint(store, "call")
    assert caught.value.retry_after_s == 10.0
    clock.s += 10
    mint(store, "call")


def test_one_client_does_not_take_the_room_of_all(store: GrantStore[str], clock: SetClock) -> None:
    mint(store, "call", owner="greedy", lifetime_s=10)
    mint(store, "call", owner="greedy")
    with pytest.raises(AdmissionRefused):
        mint(store, "call", owner="greedy")
    mint(store, "call", owner="modest")
    clock.s += 10
    mint(store, "call", owner="greedy")


def test_grants_take_a_bounded_memory(store: GrantStore[str], clock: SetClock) -> None:
    store.mint(b"1", "big", lifetime_s=10, owner=None, size_bytes=95)
    with pytest.raises(AdmissionRefused):
        mint(store, "call")
    clock.s += 10
    mint(store, "call")


def test_the_same_digest_again_changes_nothing(store: GrantStore[str]) -> None:
    # Ray repeats a call whose answer was lost.
    for _ in range(3):
        store.mint(b"1", "call", lifetime_s=10, owner="acme", size_bytes=40)
    assert len(store) == 1
    mint(store, "call", owner="acme")


def test_a_store_keeps_no_key(store: GrantStore[str]) -> None:
    key = new_key()
    store.mint(digest_of(key), "call", lifetime_s=10, owner=None, size_bytes=10)
    NeverShown(key, key[3:]).check(vars(store))


@given(st.text(max_size=60))
def test_whatever_stands_for_a_key_is_refused(key: str) -> None:
    store: GrantStore[str] = GrantStore(SetClock())
    mint(store, "call")
    with pytest.raises(Unauthorized):
        store.redeem(digest_of(key))
    assert len(digest_of("\ud800")) == 32


class Minting(RuleBasedStateMachine):
    """The store against a list of what was minted, in any order of time and use."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = SetClock()
        self.store: GrantStore[int] = GrantStore(self.clock, max_grants=5, max_of_owner=3, max_bytes=1000)
        self.minted: dict[bytes, tuple[int, float]] = {}
        self.used: set[bytes] = set()

    @rule(lifetime_s=st.integers(1, 20), owner=st.sampled_from([None, "a", "b"]))
    def mint(self, lifetime_s: int, owner: str | None) -> None:
        number = len(self.minted)
        digest = digest_of(str(number))
        try:
            self.store.mint(digest, number, lifetime_s=lifetime_s, owner=owner, size_bytes=1)
        except AdmissionRefused:
            assert len(self.alive()) >= 3
            number = -1
        self.minted[digest] = (number, self.clock.s + lifetime_s if number >= 0 else 0.0)

    @rule(wait_s=st.integers(0, 10))
    def wait(self, wait_s: int) -> None:
        self.clock.s += wait_s

    @rule(number=st.integers(0, 12))
    def redeem(self, number: int) -> None:
        digest = digest_of(str(number))
        try:
            assert self.store.redeem(digest) == number
        except Unauthorized:
            assert digest in self.used or digest not in self.alive()
        else:
            assert digest in self.alive() - self.used
            self.used.add(digest)

    @rule(number=st.integers(0, 12))
    def restore(self, number: int) -> None:
        self.store.restore(digest_of(str(number)))
        self.used.discard(digest_of(str(number)))

    @invariant()
    def keeps_what_is_alive(self) -> None:
        assert len(self.store) == len(self.alive()) <= 5

    def alive(self) -> set[bytes]:
        return {digest for digest, (_, end_s) in self.minted.items() if end_s > self.clock.s}


TestMinting = Minting.TestCase
