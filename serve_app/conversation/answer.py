"""Runs one response: what the agent yields goes into events and into the mouth, within limits."""

from __future__ import annotations

import asyncio
import logging

from serve_app.agents.base import Agent, Output, Request, SpeechDelta, ToolCall, TranscriptDelta
from serve_app.conversation.items import MAX_TEXT_CHARS
from serve_app.conversation.model import CHARACTERS_PER_TOKEN, TOKENS_PER_SECOND
from serve_app.conversation.mouth import Mouth, Utterance
from serve_app.conversation.responses import Response
from serve_app.errors import AgentFailed
from serve_app.nouns import Int16

logger = logging.getLogger("serve_app.conversation")

SLICE_S = 0.5
"""Speech handed on at once, so that no answer keeps the loop from other sessions."""


class Answer:
    """One run of an agent for one response.

    Args:
        session_id: for the log.
        response: takes what is said and called.
        request: what the agent is asked.
        agent: is asked.
        mouth: speaks.
        max_speech_s: longest speech; `max_output_tokens` may allow less.
    """

    def __init__(
        self,
        session_id: str,
        response: Response,
        request: Request,
        *,
        agent: Agent,
        mouth: Mouth,
        max_speech_s: float,
    ) -> None:
        self._session_id = session_id
        self._response = response
        self._request = request
        self._agent = agent
        self._mouth = mouth
        self._is_spoken: bool | None = None
        self._utterance: Utterance | None = None
        tokens = response.settings.session.max_output_tokens
        self._speech_left_s = max_speech_s
        self._characters_left = MAX_TEXT_CHARS
        if tokens != "inf":
            self._speech_left_s = min(max_speech_s, tokens / TOKENS_PER_SECOND)
            if not response.with_sound:
                self._characters_left = min(MAX_TEXT_CHARS, tokens * CHARACTERS_PER_TOKEN)

    async def run(self) -> None:
        """Run to the response's end; cancelling this closes the agent's iterator."""
        try:
            await self._run()
        except AgentFailed as error:
            logger.warning("session %s: the agent failed: %s", self._session_id, error)
            self._fail(str(error))
        except Exception:
            # Agents are other people's code: whatever they do, the client is owed a response.done and the
            # conversation goes on.
            logger.exception("session %s: the agent raised an error of its own", self._session_id)
            self._fail("The agent failed.")
        finally:
            self._close_mouth()

    async def _run(self) -> None:
        outputs = self._agent.respond(self._request)
        try:
            async for output in outputs:
                if self._response.is_done:
                    return
                if not await self._take(output):
                    self._close_mouth()
                    self._response.finish("incomplete", reason="max_output_tokens")
                    return
            self._close_mouth()
            self._response.finish("completed")
        finally:
            # Iterators in general have no aclose; generators do.
            if (close := getattr(outputs, "aclose", None)) is not None:
                await close()

    def _fail(self, text: str) -> None:
        self._close_mouth()
        error = {"type": "server_error", "code": AgentFailed.code, "message": text}
        self._response.finish("failed", error=error)

    def _close_mouth(self) -> None:
        if self._utterance is not None:
            self._mouth.close(self._utterance)

    async def _take(self, output: Output) -> bool:
        """Pass one output on; return False when the response has become too long."""
        match output:
            case SpeechDelta():
                return await self._speak(output) if self._response.with_sound else True
            case TranscriptDelta():
                text = output.text[: self._characters_left]
                self._characters_left -= len(text)
                self._response.say(text, output.at_s)
                return len(text) == len(output.text)
            case ToolCall():
                self._response.call(output)
            case _:
                self._response.count(output)
        return True

    async def _speak(self, speech: SpeechDelta) -> bool:
        allowed = round(self._speech_left_s * speech.hz)
        samples = speech.samples[:allowed]
        self._speech_left_s -= len(samples) / speech.hz
        length = round(SLICE_S * speech.hz)
        for start in range(0, len(samples), length):
            await self._speak_slice(samples[start : start + length], speech.hz)
        return len(samples) == len(speech.samples)

    async def _speak_slice(self, samples: Int16, hz: int) -> None:
        if self._is_spoken is None:
            self._is_spoken = self._mouth.is_used
        if self._is_spoken and self._utterance is None:
            self._utterance = await self._mouth.open(self._response)
        self._response.speak(samples, hz)
        if self._utterance is not None:
            await self._mouth.feed(self._utterance, samples, hz)
        # An agent that has all its speech at hand never waits for anything; other sessions need turns.
        await asyncio.sleep(0)
