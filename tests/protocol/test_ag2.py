from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.websockets import WebSocketDisconnect

from serve_app.config import Ag2Config, AppConfig, GatewayConfig
from serve_app.errors import AdmissionRefused
from serve_app.gateway.ag2.functions import FunctionRegistry
from serve_app.gateway.door_socket import SocketLimits
from serve_app.gateway.ephemeral import Grant
from tests.fakes_keys import BEGIN_S
from tests.never_shown import NeverShown
from tests.protocol.realtime_door import KEY, OFFER, Doors, with_keys

pytestmark = pytest.mark.protocol

EXAMPLES = AppConfig(ag2=Ag2Config(functions=["serve_app.gateway.ag2.examples:functions"]))


@contextlib.contextmanager
def connected(doors: Doors, query: str = "", **options: Any) -> Iterator[Any]:
    with doors.http.websocket_connect(f"/session{query}", **options) as socket:
        yield socket


@contextlib.contextmanager
def talking(doors: Doors) -> Iterator[Any]:
    """Yield a socket whose first messages have been read."""
    with connected(doors) as socket:
        assert socket.receive_json()["type"] == "ag2.init"
        assert "instructions" in socket.receive_json()["session"]
        if doors.functions.tools():
            assert "tools" in socket.receive_json()["session"]
        yield socket


@contextlib.contextmanager
def slow_function() -> Iterator[tuple[Any, threading.Event]]:
    """Yield a socket whose function `slow` waits for an event, and that."""
    functions = FunctionRegistry()
    release = threading.Event()

    @functions.register(description="Waits")
    async def slow() -> str:
        await asyncio.to_thread(release.wait, 5)
        return "done"

    with talking(Doors(functions=functions)) as socket:
        yield socket, release


def ask(socket: Any, name: str, arguments: Any, call_id: str = "call_1") -> None:
    given = arguments if isinstance(arguments, str) else json.dumps(arguments)
    socket.send_json(
        {
            "type": "response.function_call_arguments.done",
            "event_id": "event_1",
            "response_id": "resp_1",
            "item_id": "item_1",
            "output_index": 0,
            "call_id": call_id,
            "name": name,
            "arguments": given,
        }
    )


def output(socket: Any, call_id: str = "call_1") -> str:
    """Return what the agent is told of a call."""
    message = socket.receive_json()
    text = message["item"].pop("output")
    assert message == {
        "type": "conversation.item.create",
        "item": {"type": "function_call_output", "call_id": call_id},
    }
    assert isinstance(text, str)
    return text


def settle(socket: Any) -> None:
    """Return when everything sent before has been read."""
    socket.send_text("[")
    assert socket.receive_json()["type"] == "ag2.error"


# The first messages.


def test_a_page_is_told_what_ag2_tells_it() -> None:
    doors = Doors(EXAMPLES)
    with connected(doors) as socket:
        init = socket.receive_json()
        config = init.pop("config")
        assert init == {
            "type": "ag2.init",
            "init": [
                {
                    "type": "session.update",
                    "session": {
                        "turn_detection": {"type": "server_vad"},
                        "voice": "alloy",
                        "modalities": ["audio", "text"],
                        "temperature": 0.8,
                    },
                }
            ],
        }
        assert config["client_secret"] == {"value": f"ek_{0:032d}", "expires_at": BEGIN_S + 60}
        assert config["model"] == "gpt-4o-mini-realtime-preview"
        assert (config["base_url"], config["video"]) == ("http://testserver/v1/realtime", True)
        assert socket.receive_json() == {
            "type": "session.update",
            "session": {"instructions": EXAMPLES.ag2.instructions},
        }
        tools = socket.receive_json()
        assert tools["session"]["tool_choice"] == "auto"
        assert tools["session"]["tools"][0] == {
            "type": "function",
            "description": "Get the current weather",
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"location": {"type": "string", "description": "city"}},
                "required": ["location"],
            },
        }
    [grant] = doors.keys.grants.values()
    assert grant == Grant(None, "beta", "gpt-4o-mini-realtime-preview", {"voice": "alloy"})


def test_the_key_of_a_page_opens_its_call() -> None:
    doors = Doors(with_keys(EXAMPLES))
    with connected(doors, f"?token={KEY}") as socket:
        config = socket.receive_json()["config"]
    headers = {
        "authorization": f"Bearer {config['client_secret']['value']}",
        "content-type": "application/sdp",
    }
    answer = doors.http.post(f"{config['base_url']}?model={config['model']}", content=OFFER, headers=headers)
    assert answer.status_code == 201
    assert doors.opened().key_id == "ada"


def test_without_functions_no_tools_are_told() -> None:
    with talking(Doors()) as socket:
        settle(socket)


@pytest.mark.parametrize(
    ("config", "headers", "failure", "code", "close_code"),
    [
        (with_keys(), {}, None, "invalid_api_key", 3000),
        (AppConfig(), {"origin": "https://page.example"}, None, "origin_not_allowed", 3000),
        (AppConfig(), {}, AdmissionRefused("too many", 3), "rate_limit_exceeded", 1013),
        (AppConfig(), {}, ZeroDivisionError("secret"), "internal_error", 1011),
    ],
)
def test_a_refused_page_is_told_why(
    config: AppConfig, headers: dict[str, str], failure: Exception | None, code: str, close_code: int
) -> None:
    doors = Doors(config)
    doors.keys.fail = failure
    with connected(doors, headers=headers) as socket:
        told = socket.receive_json()
        assert (told["type"], told["code"]) == ("ag2.error", code)
        assert "secret" not in told["message"]
        with pytest.raises(WebSocketDisconnect) as caught:
            socket.receive_json()
        assert caught.value.code == close_code


# Functions.


def test_a_call_is_answered_and_the_agent_goes_on() -> None:
    with talking(Doors(EXAMPLES)) as socket:
        ask(socket, "get_weather", {"location": "Rome"})
        assert output(socket) == "The weather is cloudy."
        assert socket.receive_json() == {"type": "response.create"}


@pytest.mark.parametrize(
    ("name", "arguments", "word"),
    [
        ("get_news", {}, "get_weather"),
        ("get_weather", {}, "location"),
        ("get_weather", {"location": 5}, "location"),
        ("get_weather", "{", "JSON"),
        ("get_weather", "[]", "arguments"),
        ("get_weather", "x" * 70_000, "65536"),
    ],
)
def test_a_call_that_cannot_be_made_is_answered_all_the_same(name: str, arguments: Any, word: str) -> None:
    with talking(Doors(EXAMPLES)) as socket:
        ask(socket, name, arguments)
        assert word in json.loads(output(socket))["error"]
        assert socket.receive_json() == {"type": "response.create"}


def test_calls_side_by_side_ask_for_one_response() -> None:
    functions = FunctionRegistry()
    both = threading.Barrier(2)

    @functions.register(description="Waits for the other")
    def meet(number: int) -> int:
        both.wait(5)
        return number

    with talking(Doors(functions=functions)) as socket:
        ask(socket, "meet", {"number": 1}, "call_1")
        ask(socket, "meet", {"number": 2}, "call_2")
        answers = [socket.receive_json() for _ in range(3)]
        settle(socket)
    outputs = {answer["item"]["call_id"]: answer["item"]["output"] for answer in answers[:2]}
    assert outputs == {"call_1": "1", "call_2": "2"}
    assert answers[2] == {"type": "response.create"}


def test_a_slow_function_does_not_hold_up_the_socket() -> None:
    with slow_function() as (socket, release):
        ask(socket, "slow", {})
        settle(socket)
        release.set()
        assert output(socket) == "done"


def test_a_call_is_made_once_however_often_it_is_told() -> None:
    with talking(Doors(EXAMPLES)) as socket:
        ask(socket, "get_weather", {"location": "Oslo"})
        ask(socket, "get_weather", {"location": "Oslo"})
        assert output(socket) == "The weather is sunny."
        assert socket.receive_json() == {"type": "response.create"}
        settle(socket)


def test_too_many_calls_at_once_are_told() -> None:
    with slow_function() as (socket, release):
        for number in range(40):
            ask(socket, "slow", {}, f"call_{number}")
        told = socket.receive_json()
        release.set()
    assert (told["type"], told["code"]) == ("ag2.error", "too_many_calls")


# Whatever a page sends.


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.function_call_arguments.delta", "delta": "{"},
        {"type": "session.created"},
        {"type": "input_audio_buffer.delta", "delta": "QUFB"},
        {"type": 5},
        {},
    ],
)
def test_events_that_ask_for_nothing_are_passed_over(event: Any) -> None:
    with talking(Doors(EXAMPLES)) as socket:
        socket.send_json(event)
        settle(socket)


@pytest.mark.parametrize(
    "event",
    [
        {"call_id": "c", "name": "get_weather"},
        {"call_id": "c", "arguments": "{}"},
        {"name": "get_weather", "arguments": "{}"},
        {"call_id": 5, "name": "get_weather", "arguments": "{}"},
        {"call_id": "c", "name": [], "arguments": "{}"},
        {"call_id": "c", "name": "get_weather", "arguments": {"location": "Rome"}},
        {"call_id": "c" * 300, "name": "get_weather", "arguments": "{}"},
    ],
)
def test_a_call_with_a_field_missing_or_wrong_is_told(event: dict[str, Any]) -> None:
    with talking(Doors(EXAMPLES)) as socket:
        socket.send_json({"type": "response.function_call_arguments.done", **event})
        told = socket.receive_json()
        assert (told["type"], told["code"]) == ("ag2.error", "invalid_message")
        settle(socket)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    frame=st.binary(max_size=60)
    | st.text(max_size=60)
    | st.fixed_dictionaries(
        {"type": st.just("response.function_call_arguments.done") | st.text(max_size=5)},
        optional={
            name: st.none() | st.integers() | st.text(max_size=10) | st.lists(st.integers(), max_size=3)
            for name in ("call_id", "name", "arguments")
        },
    )
)
def test_whatever_a_page_sends_its_socket_lives(frame: Any) -> None:
    with talking(Doors(EXAMPLES)) as socket:
        if isinstance(frame, bytes):
            socket.send_bytes(frame)
        else:
            socket.send_text(frame if isinstance(frame, str) else json.dumps(frame))
        ask(socket, "get_weather", {"location": "Rome"}, "the last")
        told: list[Any] = []
        while not told or told[-1]["type"] != "response.create" or "the last" not in json.dumps(told):
            told.append(socket.receive_json())
        assert {message["type"] for message in told} <= {
            "ag2.error",
            "conversation.item.create",
            "response.create",
        }


def test_too_many_messages_close_the_socket() -> None:
    limits = SocketLimits(messages_per_s=0.001, burst_messages=2)
    with talking(Doors(EXAMPLES, limits=limits)) as socket:
        for _ in range(3):
            socket.send_json({})
        assert socket.receive_json()["code"] == "rate_limit_exceeded"
        with pytest.raises(WebSocketDisconnect) as caught:
            socket.receive_json()
        assert caught.value.code == 1008


def test_what_was_said_and_keys_reach_no_log(caplog: pytest.LogCaptureFixture) -> None:
    functions = FunctionRegistry()

    @functions.register(description="Fails")
    def fail(word: Annotated[str, "any"]) -> str:
        raise ValueError

    doors = Doors(with_keys(), functions=functions)
    with (
        NeverShown(KEY, "Grandmother", f"ek_{0:032d}").in_logs(caplog),
        connected(doors, headers={"authorization": f"Bearer {KEY}"}) as socket,
    ):
        for _ in range(3):
            socket.receive_json()
        ask(socket, "fail", {"word": "Grandmother"})
        assert "ValueError" in output(socket)
    assert "function fail failed" in caplog.text


# The page.


def test_the_page_and_its_script_come_from_here() -> None:
    doors = Doors(AppConfig(gateway=GatewayConfig(public_url="https://seen.example")))
    page = doors.http.get("/start-chat/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "https://seen.example" in policy
    addresses = re.findall(r'(?:src|href)="(?!data:)([^"]+)"', page.text)
    assert addresses
    for address in addresses:
        assert address.startswith("../static/")
        assert doors.http.get(address.removeprefix("..")).status_code == 200
    assert doors.http.get("/start-chat", follow_redirects=True).status_code == 200


def test_no_address_is_written_into_the_script() -> None:
    script = Doors().http.get("/static/webrtc.js").text
    assert "://" not in script
    assert "localhost" not in script
