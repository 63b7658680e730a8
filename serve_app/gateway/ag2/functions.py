"""Functions in Python that a conversation's agent may call.

    functions = FunctionRegistry()

    @functions.register(description="Get the current weather")
    def get_weather(location: Annotated[str, "city"]) -> str: ...

A text in an annotation describes the argument, as in AG2 (document 003, "Register and implement real-time
functions"); pydantic's `Field` works as well. Functions may be coroutines; others run in threads.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import logging
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, Field, PydanticUserError, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from pydantic_core import CoreSchema, PydanticSerializationError, to_json

logger = logging.getLogger("serve_app.gateway")

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])

MAX_FUNCTIONS = 128
MAX_ARGUMENTS_CHARS = 65_536
MAX_RESULT_CHARS = 65_536
MAX_THREADS = 8

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class _Registered:
    """A function, its tool description on the wire, and the model that checks its arguments."""

    function: Callable[..., Any]
    tool: dict[str, Any]
    arguments: type[BaseModel]
    names: dict[str, str]


class FunctionRegistry:
    """Names functions, describes them as tools, and runs them within limits."""

    def __init__(self) -> None:
        self._registered: dict[str, _Registered] = {}
        self._threads: ThreadPoolExecutor | None = None

    def register(self, *, description: str, name: str | None = None) -> Callable[[AnyFunction], AnyFunction]:
        """Return a decorator that registers a function under its own name or `name`.

        Raises (the decorator):
            ValueError: the name is taken or cannot be used, or a parameter cannot be described.
        """

        def decorate(function: AnyFunction) -> AnyFunction:
            self._add(_described(function, name or function.__name__, description))
            return function

        return decorate

    def include(self, other: FunctionRegistry) -> None:
        """Take over another registry's functions.

        Raises:
            ValueError: a name is taken.
        """
        for registered in other._registered.values():
            self._add(registered)

    def tools(self) -> list[dict[str, Any]]:
        """Return the functions as `tools` of a session (protocols, section 4.2), in order of registration."""
        return [registered.tool for registered in self._registered.values()]

    async def call(self, name: str, arguments: str, timeout_s: float) -> str:
        """Run a function and return its output for the agent; what went wrong is an output, too.

        Args:
            name: of the function.
            arguments: a JSON object; empty for none.
            timeout_s: longest wait. A function in a thread goes on after it, and its result is dropped.
        """
        registered = self._registered.get(name)
        if registered is None:
            return _failure(f"expected one of {sorted(self._registered)}, found a function that is not known")
        if len(arguments) > MAX_ARGUMENTS_CHARS:
            return _failure(f"expected arguments of at most {MAX_ARGUMENTS_CHARS} characters, found more")
        try:
            checked = registered.arguments.model_validate_json(arguments or "{}")
        except ValidationError as error:
            faults = error.errors(include_url=False, include_input=False, include_context=False)[:5]
            places = [".".join(map(str, fault["loc"])) or "arguments" for fault in faults]
            return _failure(
                "; ".join(f"{place}: {fault['msg']}" for place, fault in zip(places, faults, strict=True))
            )
        given = {name: getattr(checked, attribute) for attribute, name in registered.names.items()}
        try:
            async with asyncio.timeout(timeout_s):
                result = await self._run(registered.function, given)
            return _output(result)
        except TimeoutError:
            logger.warning("function %s: no result within %g s", name, timeout_s)
            return _failure(f"{name} gave no result within {timeout_s:g} s")
        except Exception as error:
            # An application's function may raise anything; the conversation goes on, told of the kind alone.
            logger.exception("function %s failed", name)
            return _failure(f"{name} failed ({type(error).__name__})")

    async def _run(self, function: Callable[..., Any], given: dict[str, Any]) -> Any:  # noqa: ANN401
        if inspect.iscoroutinefunction(function):
            return await function(**given)
        if self._threads is None:
            # Of its own: a function that never returns must not take the loop's threads from everybody.
            self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="ag2-function")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(**given))

    def _add(self, registered: _Registered) -> None:
        name = registered.tool["name"]
        if name in self._registered:
            raise ValueError(f"expected each function once, found {name} twice")
        if len(self._registered) >= MAX_FUNCTIONS:
            raise ValueError(f"expected at most {MAX_FUNCTIONS} functions, found more")
        self._registered[name] = registered


def load_functions(names: Sequence[str]) -> FunctionRegistry:
    """Return one registry with the functions of all that are named as "package.module:name".

    Raises:
        ValueError: a name has another form, cannot be imported, or is no FunctionRegistry.
    """
    everything = FunctionRegistry()
    for name in names:
        module, _, attribute = name.partition(":")
        if not module or not attribute:
            raise ValueError(f"ag2.functions: expected package.module:name, found {name!r}")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"ag2.functions: {name!r} cannot be imported ({error})") from error
        if not isinstance(found, FunctionRegistry):
            kind = type(found).__name__
            raise ValueError(f"ag2.functions: expected {name!r} to be a FunctionRegistry, found a {kind}")
        everything.include(found)
    return everything


class _PlainSchema(GenerateJsonSchema):
    """JSON schema without the titles that repeat the names."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ANN401 - pydantic's union of schemas
        return False

    def generate(self, schema: CoreSchema, mode: JsonSchemaMode = "validation") -> dict[str, Any]:
        json_schema = super().generate(schema, mode)
        json_schema.pop("title", None)
        return json_schema


def _described(function: Callable[..., Any], name: str, description: str) -> _Registered:
    if not _NAME.fullmatch(name):
        raise ValueError(f"expected a name of 1 to 64 letters, digits, _ and -, found {name!r}")
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    names: dict[str, str] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ValueError(f"{name}: expected parameters that have names, found {parameter}")
        if parameter.name not in hints:
            raise ValueError(f"{name}: expected an annotation of {parameter.name}, found none")
        # Not the parameter's own name: one like `copy` would hide a method of the model.
        attribute = f"argument_{len(fields)}"
        names[attribute] = parameter.name
        fields[attribute] = _field(hints[parameter.name], parameter)
    try:
        arguments = create_model(f"{name}_arguments", **fields)
        schema = arguments.model_json_schema(by_alias=True, schema_generator=_PlainSchema)
    except PydanticUserError as error:
        raise ValueError(f"{name}: expected parameters that JSON can hold ({error.message})") from error
    schema.setdefault("properties", {})
    tool = {"type": "function", "name": name, "description": description, "parameters": schema}
    return _Registered(function, tool, arguments, names)


def _field(annotation: Any, parameter: inspect.Parameter) -> tuple[Any, FieldInfo]:  # noqa: ANN401
    described = None
    if get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
        described = next((item for item in metadata if isinstance(item, str)), None)
        for item in metadata:
            if not isinstance(item, str):
                annotation = Annotated[annotation, item]
    default = ... if parameter.default is parameter.empty else parameter.default
    if described is None:
        return annotation, Field(default, alias=parameter.name)
    return annotation, Field(default, alias=parameter.name, description=described)


def _output(result: Any) -> str:  # noqa: ANN401 - whatever an application's function returns
    try:
        text = result if isinstance(result, str) else to_json(result).decode()
    except (PydanticSerializationError, ValueError) as error:
        return _failure(f"the result is no JSON ({type(error).__name__})")
    if len(text) > MAX_RESULT_CHARS:
        return _failure(f"expected a result of at most {MAX_RESULT_CHARS} characters, found {len(text)}")
    return text


def _failure(message: str) -> str:
    return json.dumps({"error": message})
