"""Those who speak inside a host: the agents of conversations, and the agents in rooms.

Their speech enters where no socket is, so its windows are cut and dispatched from here, as a gateway does
for its sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serve_app.agents.registry import make_agent
from serve_app.animator.client import AnimatorClient
from serve_app.clock import Clock
from serve_app.config import AppConfig
from serve_app.conversation.engine import Conversation
from serve_app.conversation.spec import ConversationSpec
from serve_app.media.windower import WindowGrid
from serve_app.rooms.base import Room, RoomSpec
from serve_app.rooms.open import open_room
from serve_app.session.call import Call
from serve_app.session.session import Session
from serve_app.session.speaking import SessionSpeaker
from serve_app.speech import tts, vad
from serve_app.speech.dispatcher import CreditsOf, Deliver, Dispatcher, Route
from serve_app.speech.source import SpeechSource
from serve_app.speech.tts import Synthesizer
from serve_app.speech.turns import TurnDetector
from serve_app.speech.vad import SpeechDetector


class Residents:
    """Moves conversations and rooms into sessions, and carries what they say to the Animators.

    Args:
        config: the whole configuration.
        clock: the session clock.
        animator: returns the client of a model's Animator.
        deliver: the host's own delivery.
        credits_of: the host's own count; asking renews no lease, which is the sockets' to renew.
        rooms: makes a room, as `rooms.open.open_room` does.
    """

    def __init__(
        self,
        config: AppConfig,
        clock: Clock,
        animator: Callable[[str], AnimatorClient],
        deliver: Deliver,
        credits_of: CreditsOf,
        rooms: Callable[..., Room] = open_room,
    ) -> None:
        self._config = config
        self._new_room = rooms
        self._clock = clock
        self._animator = animator
        self._deliver = deliver
        self._credits_of = credits_of
        self._dispatcher = Dispatcher(config.speech, clock)
        self._sources: dict[str, SpeechSource] = {}
        self._voice = Synthesizer()

    async def warm_up(self) -> None:
        """Load what hears and speaks, so that the first conversation does not wait for it."""
        await asyncio.to_thread(vad.warm_up)
        await asyncio.to_thread(tts.warm_up)

    async def run(self) -> None:
        """Dispatch what is said, for ever."""
        await self._dispatcher.run()

    async def move_in(self, session: Session, grid: WindowGrid) -> None:
        """Give a session the speaker, the conversation and the room that its door asked for.

        Raises:
            AgentFailed: the conversation's agent cannot work.
            RoomFailed: the room cannot be joined with what was given.
        """
        room, spec = session.request.room, session.request.conversation
        if spec is not None or (room is not None and room.hears == "agent"):
            session.speaker = self._new_speaker(session, grid)
        try:
            if spec is not None:
                await self._start_conversation(session, spec)
            if room is not None:
                session.enter(self._open_room(session, room))
        except BaseException:
            self.move_out(session)
            if session.call is not None and session.call.conversation is not None:
                await session.call.conversation.close()
            raise

    def move_out(self, session: Session) -> None:
        """Forget what a session still had to say."""
        source = self._sources.pop(session.session_id, None)
        if source is not None:
            self._dispatcher.detach(source)

    def _open_room(self, session: Session, spec: RoomSpec) -> Room:
        return self._new_room(
            spec,
            session.room_source(),
            session.speaker,
            self._clock,
            self._config.rooms,
            session.room_changed,
            None if session.call is None else session.call.sound,
        )

    def _new_speaker(self, session: Session, grid: WindowGrid) -> SessionSpeaker:
        source = SpeechSource(session.session_id, session.avatar_id, grid, self._config.speech)
        self._sources[session.session_id] = source
        submit = self._animator(session.model).submit
        self._dispatcher.attach(source, Route(session.model, submit, self._deliver, self._credits_of))
        return SessionSpeaker(
            source,
            session.playout,
            session.broadcast,
            silence=session.interrupt,
            kick=self._dispatcher.kick,
            clock=self._clock,
            max_buffered_s=self._config.speech.max_buffered_s,
        )

    async def _start_conversation(self, session: Session, spec: ConversationSpec) -> None:
        assert session.speaker is not None, "a conversation speaks"
        call = Call(session.session_id, session.log.append, lambda: session.peer)
        conversation = Conversation(
            session.session_id,
            spec,
            agent=make_agent(spec.agent, self._config.agents, self._voice),
            speaker=session.speaker,
            emit=call.emit,
            turns=lambda settings: TurnDetector(settings, SpeechDetector()),
            config=self._config.agents,
            clock=self._clock,
        )
        await conversation.open()
        call.hold(conversation, begins_when_followed=spec.sound_in == "events")
        session.call = call
        session.speaker.listener = conversation
