from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from fractions import Fraction
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from serve_app.gateway.ag2.examples import functions as examples
from serve_app.gateway.ag2.functions import MAX_FUNCTIONS, FunctionRegistry, load_functions

pytestmark = pytest.mark.unit


class Place(BaseModel):
    city: str
    country: str = "IT"


def registry() -> FunctionRegistry:
    return FunctionRegistry()


def failure(output: str) -> str:
    """Return the error that an output tells."""
    told = json.loads(output)
    assert set(told) == {"error"}
    return str(told["error"])


# Descriptions.


def test_a_description_is_derived_from_the_annotations() -> None:
    functions = registry()

    @functions.register(description="Books a table", name="book-table")
    def book(
        place: Annotated[str, "name of the restaurant"],
        guests: Annotated[int, Field(ge=1, le=12, description="how many")] = 2,
        *,
        title: Literal["Ms", "Mr"] | None = None,
        copy: bool = False,
    ) -> str:
        return ""

    [tool] = functions.tools()
    assert (tool["type"], tool["name"], tool["description"]) == ("function", "book-table", "Books a table")
    parameters = tool["parameters"]
    assert parameters["required"] == ["place"]
    properties = parameters["properties"]
    assert properties["place"] == {"type": "string", "description": "name of the restaurant"}
    assert properties["guests"] == {
        "type": "integer",
        "description": "how many",
        "minimum": 1,
        "maximum": 12,
        "default": 2,
    }
    assert properties["title"]["anyOf"][0]["enum"] == ["Ms", "Mr"]
    assert properties["copy"] == {"type": "boolean", "default": False}


def test_a_function_without_parameters_has_an_empty_object() -> None:
    functions = registry()

    @functions.register(description="Tells the time")
    def now() -> str:
        return "noon"

    assert functions.tools()[0]["parameters"] == {"type": "object", "properties": {}}


def test_the_decorator_leaves_the_function_as_it_is() -> None:
    functions = registry()

    def double(number: int) -> int:
        return 2 * number

    assert functions.register(description="Doubles")(double) is double


def rest(*numbers: int) -> None: ...
def more(**numbers: int) -> None: ...
def positional(number: int, /) -> None: ...
def strange(number: Fraction | threading.Event) -> None: ...


@pytest.mark.parametrize("function", [rest, more, positional, strange, lambda number: number])
def test_what_cannot_be_described_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        registry().register(description="", name="f")(function)


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "ä"])
def test_a_name_that_the_wire_does_not_take_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected a name"):
        registry().register(description="", name=name or "-" * 70)(lambda: None)


def test_a_name_is_taken_once() -> None:
    functions = registry()
    functions.register(description="", name="same")(lambda: None)
    with pytest.raises(ValueError, match="found same twice"):
        functions.register(description="", name="same")(lambda: None)


def test_there_is_a_limit_to_functions() -> None:
    functions = registry()
    for number in range(MAX_FUNCTIONS):
        functions.register(description="", name=f"f{number}")(lambda: None)
    with pytest.raises(ValueError, match="at most 128"):
        functions.register(description="", name="one-more")(lambda: None)


# Calls.


async def test_arguments_arrive_under_their_names_and_types() -> None:
    functions = registry()
    given: list[Any] = []

    @functions.register(description="Remembers")
    def remember(place: Place, tags: list[str], copy: float = 0.5) -> str:
        given.append((place, tags, copy))
        return "yes"

    arguments = '{"place": {"city": "Rome"}, "tags": ["a"], "unknown": 1}'
    assert await functions.call("remember", arguments, 5) == "yes"
    assert given == [(Place(city="Rome"), ["a"], 0.5)]


@pytest.mark.parametrize(
    ("result", "output"),
    [
        ("text", "text"),
        (3, "3"),
        (None, "null"),
        ({"a": [1, "ä"]}, '{"a":[1,"ä"]}'),
        (Place(city="Rome"), '{"city":"Rome","country":"IT"}'),
    ],
)
async def test_results_become_text(result: Any, output: str) -> None:
    functions = registry()
    functions.register(description="", name="f")(lambda: result)
    assert await functions.call("f", "", 5) == output


async def test_a_result_that_is_no_json_or_too_long_is_told() -> None:
    functions = registry()
    functions.register(description="", name="odd")(object)
    functions.register(description="", name="long")(lambda: "x" * 70_000)
    assert "no JSON" in failure(await functions.call("odd", "", 5))
    assert "65536" in failure(await functions.call("long", "", 5))


async def test_coroutines_run_on_the_loop_and_others_beside_it() -> None:
    functions = registry()

    @functions.register(description="")
    async def on_loop() -> int:
        return threading.get_ident()

    @functions.register(description="")
    def beside() -> int:
        return threading.get_ident()

    here = str(threading.get_ident())
    assert await functions.call("on_loop", "{}", 5) == here
    assert await functions.call("beside", "{}", 5) != here


async def test_a_function_that_never_ends_is_told() -> None:
    functions = registry()
    release = threading.Event()

    @functions.register(description="")
    async def sleeper() -> None:
        await asyncio.Future()

    @functions.register(description="")
    def blocker() -> None:
        release.wait(10)

    assert failure(await functions.call("sleeper", "", 0.01)) == "sleeper gave no result within 0.01 s"
    assert failure(await functions.call("blocker", "", 0.01)) == "blocker gave no result within 0.01 s"
    release.set()


async def test_an_error_is_told_by_its_kind_alone() -> None:
    functions = registry()

    @functions.register(description="")
    def bad() -> None:
        raise RuntimeError("a secret")

    assert failure(await functions.call("bad", "", 5)) == "bad failed (RuntimeError)"


async def test_the_examples_are_the_same_every_time() -> None:
    assert await examples.call("get_weather", '{"location": " rome"}', 5) == "The weather is cloudy."
    first, again = [await examples.call("get_temperature", '{"location": "Oslo"}', 5) for _ in range(2)]
    assert first == again
    assert first.endswith("degrees Celsius.")


@settings(max_examples=100, deadline=None)
@given(name=st.text(max_size=8) | st.just("get_weather"), arguments=st.text(max_size=40))
def test_whatever_is_asked_the_answer_is_a_text(name: str, arguments: str) -> None:
    assert isinstance(asyncio.run(examples.call(name, arguments, 5)), str)


# Loading.


def test_registries_are_loaded_by_name() -> None:
    loaded = load_functions(["serve_app.gateway.ag2.examples:functions"])
    assert [tool["name"] for tool in loaded.tools()] == ["get_weather", "get_temperature"]
    assert load_functions([]).tools() == []


@pytest.mark.parametrize(
    "name",
    [
        "serve_app.gateway.ag2.examples",
        ":functions",
        "serve_app.gateway.never:functions",
        "serve_app.gateway.ag2.examples:never",
        "serve_app.gateway.ag2.examples:get_weather",
    ],
)
def test_what_is_no_registry_stops_the_start(name: str) -> None:
    with pytest.raises(ValueError, match=r"ag2\.functions"):
        load_functions([name])


def test_a_registry_named_twice_stops_the_start() -> None:
    with pytest.raises(ValueError, match="twice"):
        load_functions(["serve_app.gateway.ag2.examples:functions"] * 2)
