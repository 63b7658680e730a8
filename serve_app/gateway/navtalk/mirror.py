"""NavTalk's `model=transparency`: the avatar speaks exactly the sound it is sent, and nobody answers.

An utterance begins with the first sound and ends when none has come for a while, or with
`input_audio_buffer.commit` or `response.create`. `input_audio_buffer.clear`, `output_audio_buffer.clear`
and `response.cancel` interrupt it. Settings and history have no meaning here and are taken in silence,
because the SDKs send them whatever the model.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Protocol

from serve_app.clock import Clock
from serve_app.errors import InvalidAudio, InvalidMessage
from serve_app.gateway.navtalk.messages import CallOutput, ClientEvent, Say, Settings, told
from serve_app.gateway.open_ended import OpenEndedSpeech, SpeechSink
from serve_app.media.pcm import PcmStream
from serve_app.session.events import SessionEvent, UtteranceCompleted

SOUND_HZ = 24_000
"""Sample rate of NavTalk's sound (document 002's API pages)."""

_ENDS = frozenset({"input_audio_buffer.commit", "response.create"})
_INTERRUPTS = frozenset({"input_audio_buffer.clear", "output_audio_buffer.clear", "response.cancel"})


class MirrorSink(SpeechSink, Protocol):
    """The part of a SessionLink that takes speech."""

    async def interrupt(self) -> None:
        """Drop everything that is queued or playing."""
        ...


class Mirror:
    """Turns one socket's sound into utterances.

    Args:
        sink: the session.
        clock: the time.
        silence_s: without sound for so long an utterance ends.
    """

    def __init__(self, sink: MirrorSink, clock: Clock, silence_s: float) -> None:
        self._sink = sink
        self._speech = OpenEndedSpeech(sink, clock, silence_s)
        self._pcm = PcmStream(SOUND_HZ)

    def opening(self) -> list[dict[str, Any]]:
        """Return what to tell before anything is said: the events that open a client's microphone."""
        return [told("session.created"), told("session.updated")]

    async def receive(self, message: ClientEvent | Settings | Say | CallOutput) -> list[dict[str, Any]]:
        """Take a client's message; return what to tell it at once.

        Raises:
            InvalidAudio: sound that is not base64.
            InvalidMessage: a message that only a conversation could answer.
            SpeechOverrun: the session holds too much unplayed speech; this sound was not taken.
        """
        if isinstance(message, Say) and message.reply:
            raise InvalidMessage("expected sound: with model=transparency nobody answers; found a question")
        if isinstance(message, ClientEvent):
            if message.kind == "input_audio_buffer.append":
                self._speak(message.event["audio"])
            elif message.kind in _ENDS:
                self._pcm = PcmStream(SOUND_HZ)
                self._speech.end()
            elif message.kind in _INTERRUPTS:
                self._pcm = PcmStream(SOUND_HZ)
                self._speech.interrupted()
                await self._sink.interrupt()
        return []

    def tell(self, event: SessionEvent) -> list[dict[str, Any]]:
        """Return what a client is told of a session's event."""
        if isinstance(event, UtteranceCompleted):
            return [told("response.audio.done", id=str(event.client_index))]
        return []

    async def end_by_silence(self) -> None:
        """End utterances whose sound has stopped coming; runs until cancelled."""
        await self._speech.run()

    def _speak(self, audio: str) -> None:
        try:
            sound = base64.b64decode(audio, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidAudio("audio: expected base64, found other text") from None
        samples = self._pcm.push(sound)
        if len(samples):
            self._speech.feed(samples, SOUND_HZ)
