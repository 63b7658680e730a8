from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.agents.script import MAX_SCRIPT_BYTES, Script, filled, load_script, parse_script
from serve_app.errors import AgentFailed

pytestmark = pytest.mark.unit

EXAMPLE = Path(__file__).parents[3] / "configs" / "scripts" / "greeter.yaml"
HEAD = "greeting: Hi.\ndefault: Pardon?\n"


def parse(text: str) -> Script:
    return parse_script(text.encode(), "test.yaml")


def test_the_example_of_the_repository_is_a_script() -> None:
    script = load_script(EXAMPLE)
    assert script.greeting.startswith("Hello!")
    assert any(rule.call is not None for rule in script.rules)


def test_a_pattern_alone_is_a_condition_and_a_text_alone_a_reply() -> None:
    script = parse(HEAD + "rules:\n  - when: 'a(b)'\n    say: '{0} {1} {text}'\n")
    assert script.default.say == "Pardon?"
    assert script.rules[0].when.text == "a(b)"


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", "test.yaml", "expected YAML, got an empty file"),
        ("- a\n", "line 1", "valid dictionary or instance of Script"),
        ("greeting: [", "line 1", "expected YAML"),
        ("greeting: Hi.\n", "line 1, default", "Field required"),
        (HEAD + "colour: red\n", "line 3, colour", "Extra inputs are not permitted, got 'red'"),
        (HEAD + "greeting: Hi.\n", "line 3", "the key 'greeting' twice"),
        (HEAD + "? [a]\n: b\n", "line 3", "a key that is no text"),
        (HEAD + "rules: &r []\nmore: *r\n", "line 4", "an alias"),
        (HEAD + "rules: " + "[" * 20 + "]" * 20 + "\n", "line 3", "more than 16 levels"),
        (HEAD + "rules: {}\n", "line 3, rules", "valid list, got '{}'"),
        (HEAD + "rules:\n  - when: a\n", "line 4, rules.0", "expected say, call or both, got neither"),
        (HEAD + "rules:\n  - say: a\n", "line 4, rules.0.when", "Field required"),
        (HEAD + "rules:\n  - say: a\n    when: {}\n", "line 5, rules.0.when", "got none of them"),
        (HEAD + "rules:\n  - say: a\n    when: '('\n", "line 5", "expected a regular expression, got '('"),
        (
            HEAD + "rules:\n  - say: a\n    when: 'a{99999999999}'\n",
            "line 5",
            "expected a regular expression",
        ),
        (HEAD + "rules:\n  - say: a\n    when: {turn: 0}\n", "line 5, rules.0.when.turn", "greater than"),
        (HEAD + "rules:\n  - say: a\n    when: {turn: '1'}\n", "line 5, rules.0.when.turn", "valid integer"),
        (HEAD + "rules:\n  - say: a\n    when: {heard: 1}\n", "line 5, rules.0.when.heard", "valid boolean"),
        (HEAD + "rules:\n  - say: '{2}'\n    when: '(a)'\n", "line 4", "{0}, {1}, {output}, {text}, got {2}"),
        (HEAD + "rules:\n  - say: '{0}'\n    when: {turn: 1}\n", "line 4", "{output}, {text}, got {0}"),
        (HEAD + "rules:\n  - say: '{text!r}'\n    when: a\n", "line 4", "got {text}"),
        (HEAD + "rules:\n  - say: '{'\n    when: a\n", "line 4", "expected a template"),
        (HEAD + "rules:\n  - say: ''\n    when: a\n", "line 4, rules.0.say", "at least 1 character"),
        (
            HEAD + "rules:\n  - call: {name: 'a b'}\n    when: a\n",
            "line 4, rules.0.call.name",
            "match pattern",
        ),
        (
            HEAD + "rules:\n  - call: {name: f, arguments: {a: [{b: '{x}'}]}}\n    when: a\n",
            "line 4, rules.0",
            "got {x} in '{x}'",
        ),
        (
            HEAD + "rules:\n  - call: {name: f, arguments: {a: 2025-01-31}}\n    when: a\n",
            "line 4, rules.0.call.arguments",
            "expected values that JSON has",
        ),
        ("greeting: '{text}'\ndefault: a\n", "line 1", "expected no fields, got {text}"),
        ("greeting: 2025-99-99\n", "test.yaml", "expected YAML in UTF-8"),
        (HEAD + "say: !!python/object:os.system x\n", "line 3", "could not determine a constructor"),
    ],
)
def test_a_wrong_script_is_refused_with_the_place_and_what_was_expected(
    text: str, where: str, what: str
) -> None:
    with pytest.raises(AgentFailed) as failed:
        parse(text)
    assert where in str(failed.value)
    assert what in str(failed.value)


def test_bytes_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(AgentFailed, match="expected YAML in UTF-8"):
        parse_script(b"greeting: \xff\n", "test.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AgentFailed, match=r"missing\.yaml: expected a readable file, got No such file"):
        load_script(tmp_path / "missing.yaml")


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"#" * (MAX_SCRIPT_BYTES + 1))
    with pytest.raises(AgentFailed, match="expected at most 65536 bytes"):
        load_script(path)


def test_templates_are_filled_and_bounded() -> None:
    assert filled("{{{name}}} {text}", {"name": "Ada", "text": "{text}"}) == "{Ada} {text}"
    assert len(filled("{text}" * 3, {"text": "x" * 1_000})) == 2_000


lines = st.lists(
    st.sampled_from(
        [
            "greeting: a",
            "default: b",
            "rules:",
            "  - when: a",
            "    say: '{0}'",
            "    call:",
            "  - {when: {turn: 1}",
        ]
    )
    | st.text(max_size=12),
    max_size=8,
)


@given(lines)
@settings(max_examples=200, deadline=None)
def test_whatever_a_file_holds_the_error_is_the_agents(written: list[str]) -> None:
    with contextlib.suppress(AgentFailed):
        parse_script("\n".join(written).encode("utf-8", "surrogatepass"), "fuzz.yaml")


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_whatever_bytes_a_file_holds_the_error_is_the_agents(data: bytes) -> None:
    with pytest.raises(AgentFailed, match=r"fuzz\.yaml"):
        parse_script(data, "fuzz.yaml")
