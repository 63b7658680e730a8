"""The rules of tests/conftest.py, run on small test folders."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.unit

RULES = Path(__file__).parents[1] / "conftest.py"


@pytest.fixture
def folder(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(RULES.read_text())
    pytester.makeini(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
        "markers =\n    unit: u\n    protocol: p\n"
    )
    return pytester


def test_module_with_one_category_is_collected(folder: pytest.Pytester) -> None:
    folder.makepyfile("import pytest\npytestmark = pytest.mark.unit\ndef test_a(): pass\n")
    folder.runpytest_inprocess().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("head", "found"),
    [
        ("", "found none"),
        ("import pytest\npytestmark = [pytest.mark.unit, pytest.mark.protocol]\n", "'protocol', 'unit'"),
    ],
)
def test_module_without_exactly_one_category_stops_collection_with_a_hint(
    folder: pytest.Pytester, head: str, found: str
) -> None:
    folder.makepyfile(test_it=head + "def test_a(): pass\n")
    result = folder.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = result.stderr.str()
    assert "test_it.py: expected exactly one of" in text
    assert found in text
    assert "pytestmark = pytest.mark.unit" in text


LEAK = """
import asyncio, pytest
pytestmark = pytest.mark.{category}

async def test_a():
    test_a.task = asyncio.create_task(asyncio.sleep(60), name="forgotten")
"""


def test_unit_test_that_leaves_a_task_running_fails_and_names_it(folder: pytest.Pytester) -> None:
    folder.makepyfile(LEAK.format(category="unit"))
    result = folder.runpytest_inprocess()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*still running: forgotten*"])


def test_tasks_of_other_categories_are_their_own_business(folder: pytest.Pytester) -> None:
    folder.makepyfile(LEAK.format(category="protocol"))
    folder.runpytest_inprocess().assert_outcomes(passed=1)


def test_task_that_a_fixture_ends_is_no_leak(folder: pytest.Pytester) -> None:
    folder.makepyfile(
        """
        import asyncio, pytest
        pytestmark = pytest.mark.unit

        @pytest.fixture
        async def owner():
            tasks = []
            yield tasks
            for task in tasks:
                task.cancel()

        async def test_a(owner):
            owner.append(asyncio.create_task(asyncio.sleep(60)))
        """
    )
    folder.runpytest_inprocess().assert_outcomes(passed=1)
