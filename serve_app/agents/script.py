r"""Scripts of the agent `scripted`: YAML files that say what is answered to what.

    greeting: Hello! Ask me about the weather.
    rules:
      - when: 'weather in (?P<city>\w+)'     # a regular expression, searched in the user's text
        say: Let me look.
        call: {name: get_weather, arguments: {location: '{city}'}}
      - when: {result: get_weather}           # a function's result came back
        say: 'It is {output}.'
      - when: {turn: 3}                       # the user's third turn
        say: We talk a lot.
      - when: {heard: true}                   # a spoken turn
        say: I hear you, but I do not know words.
    default: I did not understand {text}.

The first rule that fits answers; a result without such a rule is said as it is. Texts may hold `{text}`
(what the user wrote), `{output}` (the last result of a function) and, with a regular expression, `{0}` (what
it matched), `{1}` ... and `{name}` (its groups); `{{` is a brace. `call` needs a function that the client
offers; where it does not, only `say` is done.

Regular expressions see at most MAX_TEXT_CHARS characters. Python's engine backtracks, so an expression such
as `(a+)+$` can still take very long: scripts are written by who runs the server, never by clients.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from serve_app.errors import AgentFailed

MAX_SCRIPT_BYTES = 65_536
MAX_RULES = 500
MAX_TEXT_CHARS = 2_000
MAX_PATTERN_CHARS = 500
MAX_DEPTH = 16
"""Levels of lists and mappings within each other."""

_ALWAYS = frozenset({"text", "output"})

Template = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]
Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class ScriptPart(BaseModel):
    """A part of a script: no unknown keys, no conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Call(ScriptPart):
    """A function to call; strings anywhere in `arguments` are templates."""

    name: Name
    arguments: dict[str, Any] = {}

    @field_validator("arguments")
    @classmethod
    def _is_json(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(arguments, allow_nan=False)
        except (TypeError, ValueError) as error:  # YAML has dates and infinities
            raise ValueError(f"expected values that JSON has, got others: {error}") from error
        return arguments


class Reply(ScriptPart):
    """What is said, called, or both."""

    say: Template | None = None
    call: Call | None = None

    @model_validator(mode="after")
    def _does_something(self) -> Reply:
        if self.say is None and self.call is None:
            raise ValueError("expected say, call or both, got neither")
        return self

    def templates(self) -> Iterator[str]:
        """Yield every template in it."""
        if self.say is not None:
            yield self.say
        if self.call is not None:
            yield from strings_in(self.call.arguments)


class When(ScriptPart):
    """When a rule fits: everything that is given must be so."""

    text: Annotated[str, Field(min_length=1, max_length=MAX_PATTERN_CHARS)] | None = None
    turn: Annotated[int, Field(ge=1)] | None = None
    heard: bool | None = None
    result: Name | None = None

    @field_validator("text")
    @classmethod
    def _compiles(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                re.compile(text, re.IGNORECASE)
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"expected a regular expression, got {text!r}: {error}") from error
        return text

    @model_validator(mode="after")
    def _asks_something(self) -> When:
        if all(condition is None for condition in (self.text, self.turn, self.heard, self.result)):
            raise ValueError("expected text, turn, heard or result, got none of them")
        return self

    @cached_property
    def pattern(self) -> re.Pattern[str] | None:
        """The compiled `text`; case does not matter."""
        return None if self.text is None else re.compile(self.text, re.IGNORECASE)


class Rule(Reply):
    """A reply and when it is given."""

    when: When

    @field_validator("when", mode="before")
    @classmethod
    def _text_alone(cls, when: object) -> object:
        return {"text": when} if isinstance(when, str) else when

    @model_validator(mode="after")
    def _fields_exist(self) -> Rule:
        pattern = self.when.pattern
        groups = {} if pattern is None else pattern.groupindex
        numbers = () if pattern is None else range(pattern.groups + 1)
        check_templates(self, _ALWAYS | set(groups) | {str(number) for number in numbers})
        return self


class Script(ScriptPart):
    """A whole script; see the module."""

    greeting: Template
    rules: Annotated[list[Rule], Field(max_length=MAX_RULES)] = []
    default: Reply

    @field_validator("default", mode="before")
    @classmethod
    def _say_alone(cls, default: object) -> object:
        return {"say": default} if isinstance(default, str) else default

    @model_validator(mode="after")
    def _fields_exist(self) -> Script:
        check_templates(Reply(say=self.greeting), frozenset())
        check_templates(self.default, _ALWAYS)
        return self


def strings_in(value: object) -> Iterator[str]:
    """Yield every string value within lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings_in(inner)


def check_templates(reply: Reply, known: frozenset[str] | set[str]) -> None:
    """Check that a reply's templates name only fields that exist.

    Raises:
        ValueError: one does not; the message says which there are.
    """
    for template in reply.templates():
        try:
            fields = [(field, spec, how) for _, field, spec, how in string.Formatter().parse(template)]
        except ValueError as error:
            raise ValueError(f"expected a template, got {template!r}: {error}") from error
        for field, spec, how in fields:
            if field is not None and (field not in known or spec or how):
                names = ", ".join(f"{{{name}}}" for name in sorted(known)) or "no fields"
                raise ValueError(f"expected {names}, got {{{field}}} in {template!r}")


def filled(template: str, fields: dict[str, str]) -> str:
    """Return a template that `check_templates` has passed, with its fields' values in place, bounded."""
    words = []
    for literal, field, _, _ in string.Formatter().parse(template):
        words.append(literal + (fields.get(field, "") if field is not None else ""))
    return "".join(words)[:MAX_TEXT_CHARS]


def load_script(path: Path) -> Script:
    """Read and check a script.

    Raises:
        AgentFailed: it cannot be read or is none; says where, what was expected and what was found.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SCRIPT_BYTES + 1)
    except OSError as error:
        raise AgentFailed(f"script {path}: expected a readable file, got {error.strerror}") from error
    if len(data) > MAX_SCRIPT_BYTES:
        raise AgentFailed(f"script {path}: expected at most {MAX_SCRIPT_BYTES} bytes, got more")
    return parse_script(data, str(path))


def parse_script(data: bytes, name: str) -> Script:
    """Check a script's text; `name` is what errors call it.

    Raises:
        AgentFailed: as in `load_script`.
    """
    try:
        root = _compose(data)
        content = yaml.SafeLoader("").construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise AgentFailed(f"script {name}{where}: expected YAML, got {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # not UTF-8; dates and numbers that are none
        raise AgentFailed(f"script {name}: expected YAML in UTF-8, got {str(error)[:200]}") from error
    try:
        return Script.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        line, path = _place(root, first["loc"])
        detail = first["msg"].removeprefix("Value error, ")
        if first["type"] not in ("value_error", "missing"):
            detail += f", got {str(first['input'])[:80]!r}"
        raise AgentFailed(f"script {name}, line {line}, {path or 'top'}: {detail}") from error


def _refused(found: str, mark: Any) -> yaml.MarkedYAMLError:  # noqa: ANN401 - PyYAML has two classes of marks
    return yaml.MarkedYAMLError(problem=found, problem_mark=mark)


def _compose(data: bytes) -> yaml.Node:
    """Return the document's nodes; refuses what a script needs not: aliases, deep nesting, repeated keys."""
    depth = 0
    for event in yaml.parse(data, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise _refused("an alias, which scripts have not", event.start_mark)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _refused(f"more than {MAX_DEPTH} levels", event.start_mark)
    root = yaml.compose(data, yaml.SafeLoader)
    if root is None:
        raise _refused("an empty file", None)
    _check_keys(root)
    return root


def _check_keys(node: yaml.Node) -> None:
    if isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_keys(value)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused("a key that is no text", key.start_mark)
            if key.value in seen:
                raise _refused(f"the key {key.value!r} twice", key.start_mark)
            seen.add(key.value)
            _check_keys(value)


def _place(root: yaml.Node, location: tuple[int | str, ...]) -> tuple[int, str]:
    """Return the line (from 1) and the path of where a validation error is, as near as the file goes."""
    node, path = root, []
    for step in location:
        inner = _child(node, step)
        if inner is None:
            break
        node = inner
        path.append(str(step))
    missing = [str(step) for step in location[len(path) :][:1]]
    return node.start_mark.line + 1, ".".join(path + missing)


def _child(node: yaml.Node, step: int | str) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
        return node.value[step] if step < len(node.value) else None
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == step), None)
    return None
