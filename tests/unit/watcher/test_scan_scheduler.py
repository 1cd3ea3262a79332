"""When the directory is scanned, by a clock that the test moves."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterator

import pytest
from structlog.testing import capture_logs

from db import Database, DatabaseError, ErrorKind, open_database, sqlite_url
from watcher.detection.scan_scheduler import MAX_DIRECTORIES, REST_FACTOR, RETRY_SECONDS, ScanScheduler
from watcher.detection.scanner import Scanner, ScanReport
from watcher.filesystem.openat import RootUnavailableError
from watcher.supervision.background_thread import Supervisor
from watcher.telemetry.metrics import Metrics

WAIT_SECONDS = 10
PERIOD = 300.0
BARRIER = "barrier"
AWAY = RootUnavailableError("/completed", "It is not there.")
LOCKED = DatabaseError(ErrorKind.TRANSIENT, "read", "it is locked", "Wait.")


class ScriptedScanner(Scanner):
    """Reports what it is asked to scan, and returns what the test says."""

    def __init__(self) -> None:
        self.asked: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[ScanReport | Exception | None] = queue.SimpleQueue()

    def scan(self, below: str = "", *, stopped: Callable[[], bool] = lambda: False) -> ScanReport:
        self.asked.put(below)
        answer = self.answers.get(timeout=WAIT_SECONDS)
        if isinstance(answer, Exception):
            raise answer
        while answer is None and not stopped():
            os.sched_yield()
        return answer or ScanReport()


class ScanSchedulerFixture:
    """A scan scheduler, its scanner, and its clock."""

    def __init__(self, database: Database) -> None:
        self.now = 1_000.0
        self.scanner = ScriptedScanner()
        self.metrics = Metrics()
        self.supervisor = Supervisor(self.metrics, session=database.session)
        self.scan_scheduler = ScanScheduler(
            self.scanner,
            period=lambda: PERIOD,
            supervisor=self.supervisor,
            metrics=self.metrics,
            clock=lambda: self.now,
        )

    def expect(self, directory: str) -> None:
        """Wait for the start of the next scan, which lasts until it is answered."""
        assert self.scanner.asked.get(timeout=WAIT_SECONDS) == directory

    def answer(self, answer: ScanReport | Exception | None) -> None:
        self.scanner.answers.put(answer)

    def expect_nothing_due(self) -> None:
        """A full scan comes first, and directories in any order: only this request may wait."""
        self.scan_scheduler.request(BARRIER)
        self.expect(BARRIER)
        assert not self.scan_scheduler._directories
        self.answer(ScanReport())

    def wait_until_failure_is_noted(self) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while self.scan_scheduler._full_scan_due_at != self.now + RETRY_SECONDS:
            assert time.monotonic() < deadline
            os.sched_yield()

    def advance(self, seconds: float) -> None:
        with self.scan_scheduler._lock:
            self.now += seconds
        self.scan_scheduler.wake()

    def first_scan(self) -> None:
        self.scan_scheduler.start()
        self.expect("")
        self.answer(ScanReport(files=2, noticed=2))
        assert self.scan_scheduler.first_scan_done.wait(WAIT_SECONDS)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def fixture(tmp_path: os.PathLike[str]) -> Iterator[ScanSchedulerFixture]:
    database = open_database(sqlite_url(os.path.join(tmp_path, "ledger.sqlite3")))
    fixture = ScanSchedulerFixture(database)
    yield fixture
    fixture.scan_scheduler.request_stop()
    assert fixture.scan_scheduler.join(WAIT_SECONDS)
    database.close()


def test_the_first_scan_is_a_full_one_and_sets_first_scan_done(fixture: ScanSchedulerFixture) -> None:
    fixture.scan_scheduler.start()
    fixture.expect("")
    assert not fixture.scan_scheduler.first_scan_done.is_set()
    fixture.answer(ScanReport())
    assert fixture.scan_scheduler.first_scan_done.wait(WAIT_SECONDS)
    fixture.expect_nothing_due()
    assert fixture.supervisor.liveness.stalled() == []


def test_a_full_scan_comes_again_after_the_period_and_not_before(fixture: ScanSchedulerFixture) -> None:
    fixture.first_scan()
    for _ in range(2):
        fixture.advance(PERIOD * 0.75)
        fixture.expect_nothing_due()
        fixture.advance(PERIOD * 0.25)
        fixture.expect("")
        fixture.answer(ScanReport(noticed=3))
    fixture.expect_nothing_due()
    assert fixture.sample("video_uploader_scans_total", scope="full") == 3


def test_repeated_lost_events_leave_a_rest_between_full_scans(fixture: ScanSchedulerFixture) -> None:
    """A full scan that took ten seconds is followed by the next one twenty seconds later at the earliest."""
    fixture.first_scan()
    fixture.scan_scheduler.request("")
    fixture.expect("")
    fixture.advance(10)
    fixture.scan_scheduler.request_after_lost_events()
    fixture.answer(ScanReport())
    fixture.expect_nothing_due()
    fixture.advance(10 * REST_FACTOR - 1)
    fixture.expect_nothing_due()
    fixture.advance(1)
    fixture.expect("")
    fixture.answer(ScanReport())
    fixture.expect_nothing_due()


def test_requests_that_come_during_a_scan_are_one_request(fixture: ScanSchedulerFixture) -> None:
    fixture.first_scan()
    fixture.scan_scheduler.request("a")
    fixture.expect("a")
    for directory in ("b", "c", "b", "c", "b"):
        fixture.scan_scheduler.request(directory)
    fixture.answer(ScanReport())
    scanned = set()
    for _ in range(2):
        scanned.add(fixture.scanner.asked.get(timeout=WAIT_SECONDS))
        fixture.answer(ScanReport())
    assert scanned == {"b", "c"}
    fixture.expect_nothing_due()


@pytest.mark.parametrize("cause", ["request", "period"])
def test_a_full_scan_makes_the_waiting_directories_unnecessary(
    fixture: ScanSchedulerFixture, cause: str
) -> None:
    fixture.first_scan()
    fixture.scan_scheduler.request("a")
    fixture.expect("a")
    fixture.scan_scheduler.request("b")
    if cause == "request":
        fixture.scan_scheduler.request("")
    else:
        fixture.advance(PERIOD)
    fixture.answer(ScanReport())
    fixture.expect("")
    fixture.answer(ScanReport())
    fixture.expect_nothing_due()


def test_a_thousand_directories_are_scanned_as_a_whole(fixture: ScanSchedulerFixture) -> None:
    fixture.first_scan()
    fixture.scan_scheduler.request("a")
    fixture.expect("a")
    for number in range(MAX_DIRECTORIES + 1):
        fixture.scan_scheduler.request(f"d{number}")
    fixture.answer(ScanReport())
    fixture.expect("")
    fixture.answer(ScanReport())
    fixture.expect_nothing_due()


def test_lost_events_are_counted_and_mean_a_full_scan(fixture: ScanSchedulerFixture) -> None:
    fixture.first_scan()
    with capture_logs() as logs:
        fixture.scan_scheduler.request_after_lost_events()
    fixture.expect("")
    fixture.answer(ScanReport())
    assert [(log["event"], log["log_level"]) for log in logs] == [("events_lost", "warning")]
    assert fixture.sample("video_uploader_event_queue_overflows_total") == 1


@pytest.mark.parametrize("error", [AWAY, LOCKED])
def test_a_failing_scan_is_repeated_soon_and_logged_once(
    fixture: ScanSchedulerFixture, error: Exception
) -> None:
    with capture_logs() as logs:
        fixture.scan_scheduler.start()
        fixture.expect("")
        for _ in range(3):
            fixture.answer(error)
            fixture.wait_until_failure_is_noted()
            assert fixture.scan_scheduler.failure is not None
            assert not fixture.scan_scheduler.first_scan_done.is_set()
            fixture.advance(RETRY_SECONDS)
            fixture.expect("")
        fixture.answer(ScanReport())
        assert fixture.scan_scheduler.first_scan_done.wait(WAIT_SECONDS)
        assert fixture.scan_scheduler.failure is None
    logged = [(log["event"], log["log_level"]) for log in logs]
    assert logged == [("scan_failed", "error"), ("scan_recovered", "info"), ("scan_completed", "info")]


def test_the_callback_runs_before_the_first_full_scan_counts(fixture: ScanSchedulerFixture) -> None:
    was_done: list[bool] = []
    fixture.scan_scheduler.on_full_scan(
        lambda _: was_done.append(fixture.scan_scheduler.first_scan_done.is_set())
    )
    fixture.first_scan()
    fixture.expect_nothing_due()
    fixture.advance(PERIOD)
    fixture.expect("")
    fixture.answer(ScanReport())
    fixture.expect_nothing_due()
    assert was_done == [False, True]


def test_a_first_scan_whose_callback_fails_does_not_count(fixture: ScanSchedulerFixture) -> None:
    errors: list[Exception] = [AWAY]

    def follow(_: ScanReport) -> None:
        if errors:
            raise errors.pop()

    fixture.scan_scheduler.on_full_scan(follow)
    fixture.scan_scheduler.start()
    fixture.expect("")
    fixture.answer(ScanReport())
    fixture.expect_nothing_due()
    assert not fixture.scan_scheduler.first_scan_done.is_set()
    fixture.advance(RETRY_SECONDS)
    fixture.expect("")
    fixture.answer(ScanReport())
    assert fixture.scan_scheduler.first_scan_done.wait(WAIT_SECONDS)


def test_it_stops_in_the_middle_of_a_scan_which_then_does_not_count(fixture: ScanSchedulerFixture) -> None:
    followed: list[ScanReport] = []
    fixture.scan_scheduler.on_full_scan(followed.append)
    fixture.scan_scheduler.start()
    fixture.expect("")
    fixture.answer(None)
    fixture.scan_scheduler.request_stop()
    assert fixture.scan_scheduler.join(WAIT_SECONDS)
    assert not fixture.scan_scheduler._thread.is_alive
    assert not fixture.scan_scheduler.first_scan_done.is_set()
    assert followed == []
    assert fixture.supervisor.liveness.stalled() == []


def test_it_stops_at_once_while_it_waits_and_when_it_never_started(fixture: ScanSchedulerFixture) -> None:
    fixture.scan_scheduler.request_stop()
    assert fixture.scan_scheduler.join(WAIT_SECONDS)
    fixture.scan_scheduler.start()
    fixture.scan_scheduler._thread.join(WAIT_SECONDS)
    assert not fixture.scan_scheduler._thread.is_alive
