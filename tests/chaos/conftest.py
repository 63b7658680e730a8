"""Prints how long recovery took, below the results."""

from __future__ import annotations

import pytest


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
