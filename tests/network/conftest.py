"""One small internet for the suite, made clear again for each test, and the suite's table at its end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.network.internet import Internet
from tests.network.namespaces import missing
from tests.network.report import Report
from tests.network.turn_server import Certificate

SEED = 20_260
REPORT = pytest.StashKey[Report]()


def pytest_configure(config: pytest.Config) -> None:
    """Start with an empty table."""
    config.stash[REPORT] = Report()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table and keep it as a file."""
    report = config.stash[REPORT]
    if report.rows:
        report.save()
        terminalreporter.section("networks")
        terminalreporter.write(report.table())


@pytest.fixture
def report(pytestconfig: pytest.Config) -> Report:
    """Where a test puts its figure."""
    return pytestconfig.stash[REPORT]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate of the TURN server, which the programs trust."""
    return Certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Internet]:
    """The namespaces and what runs in them."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    internet = Internet(tmp_path_factory.mktemp("internet"), SEED, certificate.trusted)
    yield internet
    internet.close()


@pytest.fixture
def internet(network: Internet) -> Iterator[Internet]:
    """The network without faults; whoever called is hung up at the end."""
    network.reset()
    yield network
    network.reset()
    network.client.ask("close")
    network.server.ask("hang_up")
