"""A platform for each test, and a table of how long ready rows waited."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.beside.platform import Platform, running_platform
from tests.beside.publication_watch import HEADER, PROPERTY, Waits
from tests.support.postgres import PostgresServer
from tests.support.s3_server import S3Server


@pytest.fixture(autouse=True)
def _isolated(no_aws_environment: None) -> None:
    """The AWS settings of this machine play no part."""


@pytest.fixture
def platform(place: str, postgres: PostgresServer, server: S3Server) -> Iterator[Platform]:
    """The compressor's database and directory, and an empty bucket."""
    with postgres.fresh_database() as url, running_platform(place, url, server) as running:
        yield running


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests have measured, from every worker process."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    measured = [
        Waits(**value)
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == PROPERTY and isinstance(value, dict)
    ]
    if measured:
        terminalreporter.section("how long ready rows waited")
        for line in (*HEADER, *sorted(waits.as_line() for waits in measured)):
            terminalreporter.line(line)
