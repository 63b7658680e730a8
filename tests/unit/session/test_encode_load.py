from __future__ import annotations

import pytest

from serve_app.session.encode_load import LEAST_PICTURES, LOOK_BACK_S, EncodeMeter

pytestmark = pytest.mark.unit

FPS = 30


class Machine:
    """An encoder thread whose pictures cost what a test says."""

    def __init__(self, threads: int = 1) -> None:
        self.now_s = self.thread_s = 0.0
        self.meter = EncodeMeter(threads, FPS, lambda: self.now_s, lambda: self.thread_s)

    def encode(self, pictures: int, cost_s: float) -> None:
        for _ in range(pictures):
            self.now_s += 1 / FPS
            self.thread_s += cost_s
            self.meter.encoded()


def test_nothing_is_known_before_the_first_pictures() -> None:
    machine = Machine()
    machine.encode(LEAST_PICTURES - 1, 0.002)
    assert machine.meter.load().session_share == 0


@pytest.mark.parametrize(("threads", "share"), [(1, 0.06), (2, 0.03)])
def test_a_session_costs_what_its_pictures_did(threads: int, share: float) -> None:
    machine = Machine(threads)
    machine.encode(round(LOOK_BACK_S * FPS) - 1, 0.002)
    load = machine.meter.load()
    assert load.session_share == pytest.approx(share)
    assert load.share == pytest.approx(share, rel=0.02)


def test_an_idle_host_has_no_load_and_still_knows_what_a_session_costs() -> None:
    machine = Machine()
    machine.encode(LEAST_PICTURES, 0.002)
    machine.meter.load()
    machine.now_s += LOOK_BACK_S + 1
    load = machine.meter.load()
    assert load.share == 0
    assert load.session_share == pytest.approx(0.06)
