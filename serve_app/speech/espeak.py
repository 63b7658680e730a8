"""The process that runs espeak-ng, started by `tts` as a program of its own.

espeak-ng crashes on some texts, and a crash in the server's process would take every session with it.
This file needs nothing but Python's standard library, and is run by its path.

Arguments: the number of an inherited socket, the path of the library, the path of its data. On the socket
are messages of multiprocessing.connection. The first is a JSON object {"hz"}. Each request is a JSON object

    {"text", "voices": [...], "rate", "pitch", "range", "pause": bool}

and has two answers: a JSON object {"status", "words": [[character from 1, milliseconds], ...]}, and the
sound, int16 mono. The first of the voices that espeak-ng knows speaks. The process ends when the
socket does.

The names and numbers are those of espeak-ng's speak_lib.h.
"""

from __future__ import annotations

import ctypes
import json
import resource
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_DONT_EXIT = 0x8000
POS_CHARACTER = 1
CHARS_UTF8 = 1
ENDPAUSE = 0x1000
EVENT_LIST_TERMINATED = 0
EVENT_WORD = 1
RATE, PITCH, RANGE = 1, 3, 4
EE_NOT_FOUND = 2
BUFFER_MS = 200


class EventId(ctypes.Union):
    """`id` of espeak_EVENT."""

    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class Event(ctypes.Structure):
    """espeak_EVENT."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", EventId),
    )


SynthCallback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event)
)


class Espeak:
    """The library, which is one global state.

    Args:
        library: path of libespeak-ng.
        data: path of espeak-ng-data.
    """

    def __init__(self, library: str, data: str) -> None:
        self._library = ctypes.CDLL(library)
        self._library.espeak_Synth.argtypes = [
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
            ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        self.hz: int = self._library.espeak_Initialize(
            AUDIO_OUTPUT_SYNCHRONOUS, BUFFER_MS, data.encode(), INITIALIZE_DONT_EXIT
        )
        self._sound: list[bytes] = []
        self._words: list[tuple[int, int]] = []
        # The library keeps only the address, so the callback must live as long as it does.
        self._callback = SynthCallback(self._take)
        self._library.espeak_SetSynthCallback(self._callback)

    def answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Return both answers to a request."""
        self._sound, self._words = [], []
        status = self._say(request)
        return {"status": status, "words": self._words}, b"".join(self._sound)

    def _say(self, request: dict[str, Any]) -> int:
        """Speak a request, and return the library's status."""
        names = (name.encode() for name in request["voices"])
        if all(self._library.espeak_SetVoiceByName(name) != 0 for name in names):
            return EE_NOT_FOUND
        for parameter, name in ((RATE, "rate"), (PITCH, "pitch"), (RANGE, "range")):
            self._library.espeak_SetParameter(parameter, request[name], 0)
        text = request["text"].encode()
        flags = CHARS_UTF8 | ENDPAUSE if request["pause"] else CHARS_UTF8
        status: int = self._library.espeak_Synth(text, len(text) + 1, 0, POS_CHARACTER, 0, flags, None, None)
        return status

    def _take(self, sound: ctypes._Pointer[ctypes.c_short], size: int, events: ctypes._Pointer[Event]) -> int:
        """Keep a buffer of sound and the words in it."""
        if sound and size > 0:
            self._sound.append(ctypes.string_at(sound, size * ctypes.sizeof(ctypes.c_short)))
        index = 0
        while (event := events[index]).type != EVENT_LIST_TERMINATED:
            if event.type == EVENT_WORD:
                self._words.append((event.text_position, event.audio_position))
            index += 1
        return 0


def main(descriptor: str, library: str, data: str) -> None:
    """Answer requests until the socket ends."""
    # The server decides when this ends, not the terminal; and a crash leaves nobody's text on disk.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = Connection(int(descriptor))
    espeak = Espeak(library, data)
    connection.send_bytes(json.dumps({"hz": espeak.hz}).encode())
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except (EOFError, ConnectionResetError):
            return
        head, sound = espeak.answer(request)
        connection.send_bytes(json.dumps(head).encode())
        connection.send_bytes(sound)


if __name__ == "__main__":
    main(*sys.argv[1:])
