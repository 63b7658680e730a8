from __future__ import annotations

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.agents.arguments import MAX_VALUES, arguments_for

pytestmark = pytest.mark.unit


def made(parameters: object, text: str = "") -> Any:
    return json.loads(arguments_for(parameters, text), parse_constant=pytest.fail)


def schema(**properties: object) -> dict[str, object]:
    return {"type": "object", "properties": properties, "required": list(properties)}


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ({"type": "string"}, "text"),
        ({"type": "string", "enum": ["celsius", "kelvin"]}, "celsius"),
        ({"type": "string", "enum": ["a", "b"], "default": "b"}, "b"),
        ({"type": "string", "examples": ["Rome", "Oslo"]}, "Rome"),
        ({"const": 7}, 7),
        ({"type": "string", "minLength": 6}, "text.."),
        ({"type": "string", "maxLength": 2}, "te"),
        ({"type": "string", "format": "date"}, "2025-01-31"),
        ({"type": ["null", "string"]}, "text"),
        ({"type": "null"}, None),
        ({"type": "boolean"}, True),
        ({"type": "integer"}, 1),
        ({"type": "integer", "minimum": 10}, 10),
        ({"type": "integer", "minimum": 10, "multipleOf": 4}, 12),
        ({"type": "integer", "maximum": -3}, -3),
        ({"type": "integer", "exclusiveMaximum": 0}, -1),
        ({"type": "integer", "minimum": 2.5}, 3),
        ({"type": "number", "exclusiveMinimum": 1, "exclusiveMaximum": 2}, 1.5),
        ({"type": "number", "minimum": 0.25, "maximum": 0.5}, 0.5),
        ({"type": "array"}, []),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [1, 1]),
        (schema(city={"type": "string"}), {"city": "text"}),
        ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, 1),
        ({"oneOf": [{"type": "boolean"}, {"type": "integer"}]}, True),
        ({"allOf": [{"type": "integer"}, {"minimum": 5}]}, 5),
        ({"$ref": "#/$defs/place"}, {"lat": 1}),
        ({}, "text"),
        (True, "text"),
    ],
)
def test_a_required_property_gets_a_value_of_its_schema(described: object, expected: object) -> None:
    root = schema(it=described) | {"$defs": {"place": schema(lat={"type": "number"})}}
    assert made(root) == {"it": expected}
    jsonschema.validate(made(root), root)


def test_only_what_is_required_is_given() -> None:
    parameters = schema(a={"type": "string"}, b={"type": "string"}) | {"required": ["b"]}
    assert made(parameters) == {"b": "text"}


def test_strings_are_the_users_text_where_it_fits() -> None:
    described = {"type": "string"}
    parameters = schema(all=described, short=described | {"maxLength": 5}, fixed=described | {"default": "x"})
    assert made(parameters, "weather in Rome") == {"all": "weather in Rome", "short": "text", "fixed": "x"}


def test_given_values_stay_and_missing_ones_are_made() -> None:
    parameters = schema(a={"type": "integer"}, b={"type": "integer"})
    assert json.loads(arguments_for(parameters, "", {"b": 5, "c": "é"})) == {"a": 1, "b": 5, "c": "é"}


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        [],
        "object",
        {},
        {"type": "object", "properties": []},
        {"type": "object", "properties": None, "required": None},
        {"type": "object", "properties": {}, "required": "name"},
        {"type": "string"},
        {"$ref": "#"},
        {"$ref": "#/nowhere"},
        {"$ref": "https://example.org/schema"},
        {"allOf": [{"$ref": "#"}] * 20},
        {"anyOf": [{"$ref": "#"}]},
    ],
)
def test_malformed_schemas_give_an_empty_object(parameters: object) -> None:
    assert made(parameters) == {}


def test_required_names_without_a_property_get_a_value() -> None:
    assert made({"required": ["name", 3, None], "properties": []}) == {"name": "text"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "x" * 20_000])
def test_values_that_json_cannot_hold_or_are_too_long_are_not_taken_over(value: object) -> None:
    assert made(schema(it={"type": "string", "default": value})) == {"it": "text"}
    assert made(schema(it={"type": "integer", "minimum": value})) == {"it": 1}


def test_a_schema_that_refers_to_itself_ends() -> None:
    node = schema(next={"$ref": "#/$defs/node"}, other={"$ref": "#/$defs/node"})
    text = arguments_for(schema(root={"$ref": "#/$defs/node"}) | {"$defs": {"node": node}})
    assert text.count("next") <= MAX_VALUES


keywords = st.sampled_from(
    [
        "type",
        "properties",
        "required",
        "items",
        "enum",
        "default",
        "anyOf",
        "allOf",
        "$ref",
        "minimum",
        "maxLength",
    ]
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["object", "string", "#", "#/items"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(keywords | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(values, st.text(max_size=10))
@settings(max_examples=300, deadline=None)
def test_whatever_stands_for_a_schema_the_arguments_are_a_json_object(parameters: object, text: str) -> None:
    assert isinstance(made(parameters, text), dict)


numbers = st.integers(-20, 20)


@given(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["integer", "number"])},
        optional={"minimum": numbers, "exclusiveMinimum": numbers, "multipleOf": st.integers(1, 7)},
    )
)
@settings(deadline=None)
def test_numbers_keep_their_lower_limits(described: dict[str, object]) -> None:
    jsonschema.validate(made(schema(it=described)), schema(it=described))
