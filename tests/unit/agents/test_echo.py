from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.agents.base import AGENT_HZ, Heard, Request, SpeechDelta, TranscriptDelta
from serve_app.agents.echo import FADE_S, GREETING, IMAGE_SEEN, NOTHING_TO_REPEAT, EchoAgent, trimmed
from serve_app.errors import AgentFailed
from serve_app.nouns import Int16
from tests.unit.agents.fake_voice import (
    HZ,
    FakeVoice,
    called,
    outputs_of,
    said,
    sound_of,
    spoken,
    tool,
    tool_call,
    tool_output,
    user,
)

pytestmark = pytest.mark.unit

PLACE = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}


def tone(seconds: float, loudness: int = 8_000) -> Int16:
    at = np.arange(round(seconds * AGENT_HZ))
    return (loudness * np.sin(2 * np.pi * 220 * at / AGENT_HZ)).astype(np.int16)


def silence(seconds: float) -> Int16:
    return np.random.default_rng(0).integers(-20, 20, round(seconds * AGENT_HZ)).astype(np.int16)


def turn(*parts: Int16) -> Request:
    return Request(items=(spoken("s1"),), heard=Heard("s1", np.concatenate(parts)))


async def test_a_spoken_turn_is_repeated_without_the_silence_around_it() -> None:
    speech = tone(1.2)
    outputs = await outputs_of(EchoAgent(FakeVoice()), turn(silence(0.3), speech, silence(0.5)))
    assert all(isinstance(output, SpeechDelta) and output.hz == AGENT_HZ for output in outputs)
    echoed = sound_of(outputs)
    assert 1.2 <= len(echoed) / AGENT_HZ <= 1.35
    start = round(0.03 * AGENT_HZ)
    np.testing.assert_array_equal(echoed[start : start + len(speech)], speech)


async def test_the_first_piece_is_small_and_none_is_long() -> None:
    outputs = await outputs_of(EchoAgent(FakeVoice()), turn(tone(1.7)))
    lengths = [len(output.samples) / AGENT_HZ for output in outputs if isinstance(output, SpeechDelta)]
    assert lengths[0] == 0.1
    assert lengths[1:-1] == [0.5] * (len(lengths) - 2)
    assert max(lengths) <= 0.5


def test_cut_sound_begins_and_ends_softly() -> None:
    cut = trimmed(tone(0.5), AGENT_HZ)
    fade = round(FADE_S * AGENT_HZ)
    assert cut[0] == 0
    assert abs(int(cut[-1])) < 200
    assert np.abs(cut[:fade]).max() < np.abs(cut[fade : 3 * fade]).max()


def test_trimming_leaves_what_was_given_untouched() -> None:
    speech = tone(0.5)
    before = speech.copy()
    trimmed(speech, AGENT_HZ)
    np.testing.assert_array_equal(speech, before)


@pytest.mark.parametrize("sound", [silence(0.4), np.zeros(0, np.int16), np.zeros(100, np.int16)])
def test_sound_that_is_all_silence_comes_back_whole(sound: Int16) -> None:
    np.testing.assert_array_equal(trimmed(sound, AGENT_HZ), sound)


def test_quiet_speech_is_kept_next_to_loud_speech() -> None:
    cut = trimmed(np.concatenate([silence(0.2), tone(0.3, 1_000), tone(0.3, 20_000), silence(0.2)]), AGENT_HZ)
    assert len(cut) / AGENT_HZ >= 0.6


@given(st.lists(st.integers(-32_768, 32_767), max_size=2_000))
def test_whatever_is_trimmed_gets_no_longer(samples: list[int]) -> None:
    sound = np.array(samples, np.int16)
    assert len(trimmed(sound, AGENT_HZ)) <= len(sound)


async def test_a_spoken_turn_has_no_transcript_and_text_tells_its_length() -> None:
    agent = EchoAgent(FakeVoice())
    assert await agent.transcribe(Heard("s1", tone(1))) is None
    request = turn(tone(1.0))
    text = Request(items=request.items, heard=request.heard, with_sound=False)
    assert await said(agent, text) == "I heard 1.0 seconds of sound."


async def test_a_text_is_spoken_word_by_word_in_the_voice_asked_for() -> None:
    voice = FakeVoice()
    request = Request(items=(user("old"), user("Say this twice.")), voice="verse", speed=1.5)
    outputs = await outputs_of(EchoAgent(voice), request)
    assert voice.asked == [("Say this twice.", "verse", 1.5)]
    words = [(output.text, output.at_s) for output in outputs if isinstance(output, TranscriptDelta)]
    assert words == [("Say ", 0.0), ("this ", 0.01), ("twice.", 0.02)]
    assert {output.hz for output in outputs if isinstance(output, SpeechDelta)} == {HZ}
    assert voice.closed == 1


async def test_a_text_is_repeated_as_text_where_no_sound_is_wanted() -> None:
    voice = FakeVoice()
    outputs = await outputs_of(EchoAgent(voice), Request(items=(user("Hi."),), with_sound=False))
    assert outputs == [TranscriptDelta("Hi.")]
    assert voice.asked == []


async def test_closing_the_response_stops_the_voice() -> None:
    voice = FakeVoice()
    outputs = EchoAgent(voice).respond(Request(items=(user("one two three"),)))
    await anext(outputs)
    await outputs.aclose()
    assert voice.closed == 1


@pytest.mark.parametrize(
    ("items", "answer"),
    [
        ((), GREETING),
        (({"id": "x", "type": "message", "role": "system", "content": []},), GREETING),
        ((spoken("s1", "a transcript"),), "a transcript"),
        ((spoken("s1"),), NOTHING_TO_REPEAT),
        ((user("look") | {"content": [{"type": "input_image", "image_url": "data:,"}]},), IMAGE_SEEN),
        ((user("x") | {"content": "broken"},), NOTHING_TO_REPEAT),
        ((tool_call("get_weather"), tool_output("sunny")), "get_weather says: sunny"),
        ((tool_call("get_weather"), tool_output('"sunny"')), "get_weather says: sunny"),
        ((tool_call("get_weather"), tool_output('{"t": 3}')), 'get_weather says: {"t": 3}'),
        ((tool_output("sunny"),), "The function says: sunny"),
        ((tool_output(""),), "The function says: nothing."),
    ],
)
async def test_without_a_spoken_turn_words_are_said(
    items: tuple[dict[str, object], ...], answer: str
) -> None:
    assert await said(EchoAgent(FakeVoice()), Request(items=items, instructions="Be brief.")) == answer


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "name": "get_weather"},
        {"type": "function", "function": {"name": "get_weather"}},
    ],
)
async def test_a_named_function_is_called_with_the_users_text(choice: dict[str, object]) -> None:
    tools = (tool("other"), tool("get_weather", PLACE))
    request = Request(items=(user("Rome"),), tools=tools, tool_choice=choice)
    call = await called(EchoAgent(FakeVoice()), request)
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"place": "Rome"})
    assert call.call_id.startswith("call_")
    assert len(call.call_id) <= 32


async def test_required_calls_what_the_text_names_or_else_the_first() -> None:
    tools = (tool("first", {"type": "object", "properties": []}), tool("second"))
    for text, name in [("whatever", "first"), ("do second", "second")]:
        request = Request(items=(user(text),), tools=tools, tool_choice="required")
        assert (await called(EchoAgent(FakeVoice()), request)).name == name


async def test_a_spoken_turn_calls_a_required_function() -> None:
    speech = turn(tone(1))
    request = Request(
        items=speech.items, heard=speech.heard, tools=(tool("go", PLACE),), tool_choice="required"
    )
    assert json.loads((await called(EchoAgent(FakeVoice()), request)).arguments) == {"place": "text"}


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('/call get_weather {"place": "Oslo"}', {"place": "Oslo"}),
        ("  /call get_weather", {"place": "text"}),
        ('/call get_weather\n{"days": 3}', {"place": "text", "days": 3}),
        ("Please run get_weather.", {"place": "Please run get_weather."}),
        ("get_weather", {"place": "get_weather"}),
    ],
)
async def test_a_text_calls_a_function(text: str, arguments: dict[str, object]) -> None:
    request = Request(items=(user(text),), tools=(tool("get_weather", PLACE),))
    assert json.loads((await called(EchoAgent(FakeVoice()), request)).arguments) == arguments


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("/call nothing {}", "Expected one of the functions get_weather, got nothing."),
        ("/call get_weather {broken", "Expected a JSON object after /call get_weather."),
        ('/call get_weather {"a": NaN}', "Expected a JSON object after /call get_weather."),
        ("/call get_weather [1]", "Expected a JSON object after /call get_weather."),
        ("the get_weathers of today", "the get_weathers of today"),
    ],
)
async def test_a_text_that_calls_nothing_is_answered(text: str, answer: str) -> None:
    request = Request(items=(user(text),), tools=(tool("get_weather", PLACE),))
    assert await said(EchoAgent(FakeVoice()), request) == answer


async def test_without_tools_a_command_is_answered_with_what_is_wrong() -> None:
    request = Request(items=(user("/call f"),), tool_choice="required")
    answer = "Expected one of the functions (none), got f."
    assert await said(EchoAgent(FakeVoice()), request) == answer


async def test_the_choice_none_calls_nothing() -> None:
    request = Request(items=(user("get_weather"),), tools=(tool("get_weather"),), tool_choice="none")
    assert await said(EchoAgent(FakeVoice()), request) == "get_weather"


async def test_a_result_is_said_even_where_a_call_is_required() -> None:
    items = user("go"), tool_call("go"), tool_output("gone")
    request = Request(items=items, tools=(tool("go"),), tool_choice="required")
    assert await said(EchoAgent(FakeVoice()), request) == "go says: gone"


async def test_a_function_that_is_not_offered_fails() -> None:
    choice = {"type": "function", "name": "nothing"}
    with pytest.raises(AgentFailed, match="expected one of the functions go, got 'nothing'"):
        await outputs_of(EchoAgent(FakeVoice()), Request(tools=(tool("go"),), tool_choice=choice))


async def test_tools_without_a_usable_name_are_passed_over() -> None:
    tools = ({"type": "function"}, {"type": "mcp", "name": "server"}, {"name": 3}, tool("go"))
    request = Request(items=(user("x"),), tools=tools, tool_choice="required")
    assert (await called(EchoAgent(FakeVoice()), request)).name == "go"
