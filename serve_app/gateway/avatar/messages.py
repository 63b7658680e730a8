"""The messages of document 001's avatar socket, and its error texts, which clients match word for word."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from serve_app.errors import ClientError, InvalidAudio
from serve_app.media.pcm import check_hz, container_of, decode_pcm16, is_wav
from serve_app.nouns import Int16

NOT_INIT_FIRST = "First message must be session.init"
MISSING_SESSION_ID = "Missing session id"
NOT_ASSIGNED = "Invalid session id - server not assigned or session id mismatch"
NO_CONFIG = "Failed to fetch video path"
SESSION_NOT_FOUND = "Session not found"
INVALID_JSON = "Invalid JSON format"
NO_AUDIO = "No audio data provided"
AUDIO_FAILED = "Failed to process audio: "
UNKNOWN_TYPE = "Unknown message type: "

MAX_AUDIO_BYTES = 10 * 1_048_576
"""Of one agent.speak, decoded (document 001's client messages)."""

DEFAULT_HZ = 16_000


class DocumentError(ClientError):
    """An error of this door; its text is the document's."""

    code = "document_error"


class ServerMessage(BaseModel):
    """What the server sends: the document's fields and no others."""

    model_config = ConfigDict(frozen=True)


class ConnectionEstablished(ServerMessage):
    """The answer to session.init."""

    type: Literal["connection.established"] = "connection.established"
    session_id: str


class SpeakConfirmed(ServerMessage):
    """Speech was queued: samples after resampling to 16 kHz."""

    type: Literal["agent.speak.confirmed"] = "agent.speak.confirmed"
    audio_samples: int = Field(ge=0)


class InterruptConfirmed(ServerMessage):
    """Generation and playback have stopped."""

    type: Literal["agent.interrupt.confirmed"] = "agent.interrupt.confirmed"


class ErrorMessage(ServerMessage):
    """Something failed."""

    type: Literal["error"] = "error"
    error: str


class SessionEndingMessage(ServerMessage):
    """Additive: the session ends in `in_s` seconds."""

    type: Literal["session.ending"] = "session.ending"
    reason: str
    in_s: float


def parse(text: str | None) -> dict[str, Any]:
    """Return a frame's JSON object; None stands for a binary frame.

    Raises:
        DocumentError: it is no JSON object.
    """
    try:
        message = json.loads(text) if text is not None else None
    except (ValueError, RecursionError) as error:
        raise DocumentError(INVALID_JSON) from error
    if not isinstance(message, dict):
        raise DocumentError(INVALID_JSON)
    return message


def type_of(message: dict[str, Any]) -> str:
    """Return a message's type, cut to what an error may repeat."""
    return str(message.get("type"))[:64]


def init_of(message: dict[str, Any]) -> tuple[str, str]:
    """Return the session id and token of a session.init.

    Raises:
        DocumentError: it is another message, or names no session.
    """
    if message.get("type") != "session.init":
        raise DocumentError(NOT_INIT_FIRST)
    session_id, token = message.get("session_id"), message.get("session_token")
    if not isinstance(session_id, str) or not session_id:
        raise DocumentError(MISSING_SESSION_ID)
    return session_id, token if isinstance(token, str) else ""


def speech_of(message: dict[str, Any]) -> tuple[Int16, int]:
    """Return the sound of an agent.speak, [S] int16 mono, and its rate.

    Raises:
        DocumentError: there is none, or it is not 16-bit mono PCM of a usable rate.
    """
    audio, hz = message.get("audio"), message.get("sample_rate", DEFAULT_HZ)
    if not isinstance(audio, str) or not audio:
        raise DocumentError(NO_AUDIO)
    if not isinstance(hz, int) or isinstance(hz, bool):
        raise DocumentError(f"{AUDIO_FAILED}expected sample_rate to be a whole number of Hz")
    if len(audio) > MAX_AUDIO_BYTES * 4 / 3 + 4:
        raise DocumentError(f"{AUDIO_FAILED}expected at most {MAX_AUDIO_BYTES} bytes of audio, got more")
    try:
        data = base64.b64decode(audio, validate=True)
    except (ValueError, binascii.Error) as error:
        raise DocumentError(f"{AUDIO_FAILED}expected base64, found other text") from error
    if (container := "WAV" if is_wav(data) else container_of(data)) is not None:
        raise DocumentError(f"{AUDIO_FAILED}expected raw 16-bit mono PCM, found a {container} file")
    try:
        samples = decode_pcm16(data)
        check_hz(hz)
    except InvalidAudio as error:
        raise DocumentError(f"{AUDIO_FAILED}{error}") from error
    if not len(samples):
        raise DocumentError(NO_AUDIO)
    return np.ascontiguousarray(samples), hz
