"""What a call's echo must be: the same sound, as long as it was said, and the face in step with it."""

from __future__ import annotations

import numpy as np

from serve_app.media.pcm import Resampler
from serve_app.nouns import SOUND_HZ, SPEECH_HZ, Int16
from tests.integration.listener import Listener, Packet, find

FPS = 30

ALIKE = 0.75
"""Mean correlation of 0.2 s stretches from which a voice counts as echoed: it goes through Opus twice, which
leaves 0.9 of loud stretches and 0.5 of faint ones; other words have 0.3."""

SAME_S = 0.08
"""How much longer or shorter an echo may be: cut silence, and softly cut edges."""

IN_STEP_S = 0.08
"""How far the face may be from the sound, by arrival on a busy machine."""


def at_speech_rate(sound: Int16, hz: int = SOUND_HZ) -> Int16:
    """Return [S] int16 mono at `hz` as [S] at SPEECH_HZ."""
    resampler = Resampler(hz, SPEECH_HZ)
    return np.concatenate([resampler.push(sound), resampler.flush()])


def assert_echoed(listener: Listener, said: Int16, hz: int = SOUND_HZ) -> None:
    """Check that what was said came back whole, with a face that spoke it in step."""
    start_s = assert_heard(listener.sound(), said, hz)
    shown = {picture.index: picture.arrived_s for picture in reversed(listener.pictures)}
    shown.pop(None, None)
    length = len(said) / hz * FPS
    assert len(shown) > 0.7 * length, f"expected about {length:.0f} speaking frames, found {len(shown)}"
    began_s = np.median([packet.arrived_s - at_s for packet, at_s in _played(listener)]) + start_s
    lag_s = float(np.median([at_s - began_s - index / FPS for index, at_s in shown.items() if index]))
    assert abs(lag_s) < IN_STEP_S, f"the face is {lag_s * 1000:.0f} ms behind the sound"


def assert_heard(heard: Int16, said: Int16, hz: int = SOUND_HZ) -> float:
    """Check that what was said is in what was heard ([S] int16 at SPEECH_HZ); return where, in seconds."""
    match = find(at_speech_rate(said, hz), heard)
    assert match.alike, "expected something loud enough to be compared"
    assert np.mean(match.alike) > ALIKE, match
    assert abs(match.length_s - match.sent_s) < SAME_S, match
    return match.start_s


def _played(listener: Listener) -> list[tuple[Packet, float]]:
    origin = listener.packets[0].timestamp
    return [(packet, (packet.timestamp - origin) / SOUND_HZ) for packet in listener.packets]
