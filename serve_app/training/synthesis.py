"""Speech whose phones are known to the millisecond, by flite and espeak-ng."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from serve_app.media.pcm import Resampler, decode_wav
from serve_app.nouns import SPEECH_HZ, Int16
from serve_app.speech.espeak import (
    AUDIO_OUTPUT_SYNCHRONOUS,
    BUFFER_MS,
    CHARS_UTF8,
    EVENT_LIST_TERMINATED,
    INITIALIZE_DONT_EXIT,
    PITCH,
    POS_CHARACTER,
    RATE,
    Event,
    SynthCallback,
)
from serve_app.training.phones import PAUSE, Phone, from_arpabet, phones_of

_PHONEME_EVENTS, _PHONEME_IPA = 1, 2
_EVENT_PHONEME = 7


@dataclass(frozen=True, slots=True)
class Spoken:
    """An utterance: [S] int16 at SPEECH_HZ, and its phones, in order and without gaps."""

    speech: Int16
    phones: tuple[Phone, ...]


class Synthesiser(Protocol):
    """Speaks a text."""

    def speak(self, text: str, *, rate: float, pitch: float) -> Spoken:
        """Return a text spoken `rate` times as fast and `pitch` times as high as the voice is by itself."""
        ...


class Flite:
    """The program flite, which prints each phone and its end.

    Args:
        voice: one that `flite -lv` lists.
    """

    def __init__(self, voice: str) -> None:
        self._voice = voice

    def speak(self, text: str, *, rate: float, pitch: float) -> Spoken:
        """Speak as the protocol says; only diphone voices can change their pitch.

        Raises:
            RuntimeError: flite failed.
        """
        pitch_hz = 110.0 * pitch
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "speech.wav"
            command = [
                "flite", "-voice", self._voice, "--setf", f"duration_stretch={1.0 / rate:.3f}",
                "--setf", f"int_f0_target_mean={pitch_hz:.1f}", "-psdur", "-t", text, "-o", str(path),
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0 or not path.exists():
                raise RuntimeError(f"flite failed with {done.returncode}: {done.stderr.strip()[:200]}")
            samples, hz = decode_wav(path.read_bytes())
        phones: list[Phone] = []
        start_s = 0.0
        for item in done.stdout.split():
            name, _, end = item.partition(":")
            phones += phones_of(from_arpabet(name), start_s, float(end))
            start_s = float(end)
        return Spoken(_resampled(samples, hz), tuple(phones))


class Espeak:
    """The library espeak-ng, one global state in a process.

    Args:
        voice: a language and a variant, such as "en-us+f3".

    Raises:
        ValueError: there is no such voice.
    """

    def __init__(self, voice: str) -> None:
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        self._library.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
            ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        self._hz: int = self._library.espeak_Initialize(
            AUDIO_OUTPUT_SYNCHRONOUS, BUFFER_MS, espeakng_loader.get_data_path().encode(),
            INITIALIZE_DONT_EXIT | _PHONEME_EVENTS | _PHONEME_IPA,
        )  # fmt: skip
        self._sound: list[bytes] = []
        self._marks: list[tuple[int, str]] = []
        # The library keeps only the address, so the callback must live as long as it does.
        self._callback = SynthCallback(self._take)
        self._library.espeak_SetSynthCallback(self._callback)
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"expected a voice of espeak-ng, found {voice!r}")

    def speak(self, text: str, *, rate: float, pitch: float) -> Spoken:
        """Speak as the protocol says."""
        self._sound, self._marks = [], []
        self._library.espeak_SetParameter(RATE, round(165 * rate), 0)
        self._library.espeak_SetParameter(PITCH, min(99, round(50 * pitch)), 0)
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, POS_CHARACTER, 0, CHARS_UTF8, None, None)
        samples = np.frombuffer(b"".join(self._sound), np.int16)
        return Spoken(_resampled(samples, self._hz), tuple(self._phones(samples)))

    def _take(self, sound: ctypes._Pointer[ctypes.c_short], size: int, events: ctypes._Pointer[Event]) -> int:
        """Keep a buffer of sound and the phonemes that begin in it."""
        if sound and size > 0:
            self._sound.append(ctypes.string_at(sound, size * ctypes.sizeof(ctypes.c_short)))
        index = 0
        while (event := events[index]).type != EVENT_LIST_TERMINATED:
            if event.type == _EVENT_PHONEME:
                name = event.id.string.decode(errors="ignore")
                # "(de)" says that another language's rules go on; it is no sound.
                if not name.startswith("("):
                    self._marks.append((event.sample, name))
            index += 1
        return 0

    def _phones(self, samples: Int16) -> list[Phone]:
        ends = [start for start, _ in self._marks[1:]] + [len(samples)]
        starts = [start for start, _ in self._marks]
        for number in range(1, len(starts)):
            if self._marks[number][1].strip("ˈˌ")[:1] in set("pbtdkɡg"):
                starts[number] = _silent_since(samples, starts[number - 1], starts[number], self._hz)
                ends[number - 1] = starts[number]
        first = [Phone(PAUSE, 0.0, starts[0] / self._hz)] if starts and starts[0] > 0 else []
        marked = zip(self._marks, starts, ends, strict=True)
        spoken = [
            phones_of(name, start / self._hz, end / self._hz)
            for (_, name), start, end in marked
            if end > start
        ]
        return first + [phone for phones in spoken for phone in phones]


def _silent_since(samples: Int16, low: int, high: int, hz: int) -> int:
    """Return where the silence before `high` begins: espeak-ng counts a closure to the phone before it."""
    step = hz // 200
    # Half of the phone before stays its own, whatever it sounds like; no closure lasts longer than 90 ms.
    low = max((low + high) // 2, high - round(0.09 * hz))
    at = high
    while at - step >= low and np.abs(samples[at - step : at]).max() < 100:
        at -= step
    return at


def _resampled(samples: Int16, hz: int) -> Int16:
    if hz == SPEECH_HZ:
        return samples
    resampler = Resampler(hz, SPEECH_HZ)
    return np.concatenate([resampler.push(samples), resampler.flush()])
