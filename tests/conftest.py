"""Rules for every test: one category a module, and no task left behind by a unit test.

What tests recorded of themselves is printed below the results.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from serve_app.heap import freeze_heap

CATEGORIES = frozenset({"unit", "protocol", "golden", "network", "integration", "browser", "chaos"})
GRACE_S = 0.2
"""Tasks that were cancelled as a test's last act may need a few turns of the loop."""


@pytest_asyncio.fixture
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Fail the test when a task that was born in it still runs after its other fixtures are gone."""
    before = asyncio.all_tasks()
    yield
    leaked = asyncio.all_tasks() - before - {asyncio.current_task()}
    if leaked:
        _, leaked = await asyncio.wait(leaked, timeout=GRACE_S)
    if leaked:
        names = ", ".join(sorted(f"{task.get_name()} ({task.get_coro()!r})" for task in leaked))
        pytest.fail(f"expected every task to have ended with the test, still running: {names}")


def pytest_collection_finish() -> None:
    """Keep what imports left out of later collections: they stop clients that play in real time for 0.9 s."""
    freeze_heap()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse modules without exactly one category, and watch the tasks of unit tests."""
    found: dict[str, set[str]] = defaultdict(set)
    for item in items:
        categories = CATEGORIES & {marker.name for marker in item.iter_markers()}
        found[item.location[0]] |= categories
        if "unit" in categories and pytest_asyncio.is_async_test(item) and isinstance(item, pytest.Function):
            item.fixturenames.insert(0, "no_leaked_tasks")
    faults = [
        f"{path}: expected exactly one of {sorted(CATEGORIES)}, found {sorted(categories) or 'none'}"
        for path, categories in sorted(found.items())
        if len(categories) != 1
    ]
    if faults:
        hint = "start each test module with a line like: pytestmark = pytest.mark.unit"
        raise pytest.UsageError("\n".join([*faults, hint]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests recorded of themselves."""
    lines = [
        f"{report.nodeid.rpartition('::')[2]}: {name} {value}"
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
    ]
    if lines:
        terminalreporter.section("measured")
        terminalreporter.write("\n".join(sorted(lines)) + "\n")
