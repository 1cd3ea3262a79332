"""A pytest plugin: each fault test names the fault that it injects, and the run ends with a table of them.

``--each-fault-once`` runs one test of every fault; ``--fault-table FILE`` writes the table there,
if every fault of the catalogue was injected and nothing failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.catalogue import FAULTS
from tests.faults.files_at_stake import FilesAtStake
from tests.faults.outcomes import PROPERTY, Outcome, Outcomes, as_table, put_into
from tests.support.s3_server import S3Server

FAULT = "fault"
"""The property by which a test's report tells which fault it is about."""

ReportOutcome = Callable[[Outcome], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two options."""
    group = parser.getgroup("faults")
    group.addoption(
        "--each-fault-once", action="store_true", help="run one test of every fault, and no others"
    )
    group.addoption("--fault-table", metavar="FILE", help="write the table of faults into this file")


def pytest_configure(config: pytest.Config) -> None:
    """The marker, and who gathers outcomes."""
    config.addinivalue_line("markers", "fault(name): injects the fault of that name in the catalogue")
    config.pluginmanager.register(FaultTable(config))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse faults that the catalogue does not list; choose one test of each if asked to."""
    tests_of: dict[str, list[pytest.Item]] = {}
    for item in items:
        name = fault_of(item)
        if name is None:
            continue
        if name not in FAULTS:
            message = f"{item.nodeid}: tests/faults/catalogue.py knows no fault '{name}'"
            raise pytest.UsageError(message)
        item.user_properties.append((FAULT, name))
        tests_of.setdefault(name, []).append(item)
    if config.getoption("--each-fault-once"):
        # Not the first of each, or everything would be tried on the same database.
        kept = [tests[number % len(tests)] for number, tests in enumerate(tests_of.values())]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def fault_of(item: pytest.Item) -> str | None:
    """The name of the fault that a test injects."""
    marker = item.get_closest_marker("fault")
    return None if marker is None else str(marker.args[0])


@pytest.fixture
def report_outcome(request: pytest.FixtureRequest) -> ReportOutcome:
    """Takes the outcome of a test that does not use `files_at_stake`."""
    return lambda outcome: request.node.user_properties.append(outcome.as_property())


@pytest.fixture
def files_at_stake(
    request: pytest.FixtureRequest, report_outcome: ReportOutcome, server: S3Server
) -> FilesAtStake:
    """The files at stake in a test that is marked with a fault."""
    fault = fault_of(request.node)
    assert fault is not None, "a test of what is at stake is marked with the fault that it injects"
    return FilesAtStake(fault, server, report_outcome)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Fail a fault test that passes without a verdict: it has proven nothing."""
    result = yield
    if fault_of(pyfuncitem) is not None:
        verdicts = [name for name, _ in pyfuncitem.user_properties if name == PROPERTY]
        assert verdicts, "the test neither called files_at_stake.judge() nor reported an outcome of its own"
    return result


class FaultTable:
    """Collects the outcomes that tests report, from every worker process, and prints the table."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._outcomes = Outcomes()
        self._wanted: set[str] = set()
        self._skipped: dict[str, str] = {}
        self._is_good = True
        self._is_mixed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the outcomes out of one report."""
        fault = dict(report.user_properties).get(FAULT)
        self._is_good &= not report.failed
        if not isinstance(fault, str):
            self._is_mixed = True
            return
        self._wanted.add(fault)
        if report.skipped and isinstance(report.longrepr, tuple):
            self._skipped[fault] = report.longrepr[2].removeprefix("Skipped: ")
        if report.when == "teardown":
            self._outcomes.add_properties(report.user_properties)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """After tests of faults only, print the table and what is missing; write it where it is wanted."""
        if self._is_mixed or not self._wanted:
            return
        table = as_table(self._outcomes.in_order(FAULTS))
        terminalreporter.section("faults")
        for line in table:
            terminalreporter.line(line)
        missing = self._outcomes.missing(FAULTS)
        for fault in missing:
            if fault in self._wanted:
                reason = self._skipped.get(fault, "no verdict")
                terminalreporter.line(f"not injected: {fault} ({reason})")
        target: str | None = self._config.getoption("--fault-table")
        if target is None:
            return
        if missing or not self._is_good:
            terminalreporter.line(f"{target} keeps its table: not every fault was injected and survived.")
            return
        document = Path(target)
        document.write_text(put_into(document.read_text(), table))
        terminalreporter.line(f"The table is in {target}.")
