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


class Stand:
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
def stand(tmp_path: os.PathLike[str]) -> Iterator[Stand]:
    database = open_database(sqlite_url(os.path.join(tmp_path, "ledger.sqlite3")))
    stand = Stand(database)
    yield stand
    stand.scan_scheduler.request_stop()
    assert stand.scan_scheduler.join(WAIT_SECONDS)
    database.close()


def test_the_first_scan_is_a_full_one_and_sets_first_scan_done(stand: Stand) -> None:
    stand.scan_scheduler.start()
    stand.expect("")
    assert not stand.scan_scheduler.first_scan_done.is_set()
    stand.answer(ScanReport())
    assert stand.scan_scheduler.first_scan_done.wait(WAIT_SECONDS)
    stand.expect_nothing_due()
    assert stand.supervisor.liveness.stalled() == []


def test_a_full_scan_comes_again_after_the_period_and_not_before(stand: Stand) -> None:
    stand.first_scan()
    for _ in range(2):
        stand.advance(PERIOD * 0.75)
        stand.expect_nothing_due()
        stand.advance(PERIOD * 0.25)
        stand.expect("")
        stand.answer(ScanReport(noticed=3))
    stand.expect_nothing_due()
    assert stand.sample("video_uploader_scans_total", scope="full") == 3


def test_repeated_lost_events_leave_a_rest_between_full_scans(stand: Stand) -> None:
    """A full scan that took ten seconds is followed by the next one twenty seconds later at the earliest."""
    stand.first_scan()
    stand.scan_scheduler.request("")
    stand.expect("")
    stand.advance(10)
    stand.scan_scheduler.request_after_lost_events()
    stand.answer(ScanReport())
    stand.expect_nothing_due()
    stand.advance(10 * REST_FACTOR - 1)
    stand.expect_nothing_due()
    stand.advance(1)
    stand.expect("")
    stand.answer(ScanReport())
    stand.expect_nothing_due()


def test_requests_that_come_during_a_scan_are_one_request(stand: Stand) -> None:
    stand.first_scan()
    stand.scan_scheduler.request("a")
    stand.expect("a")
    for directory in ("b", "c", "b", "c", "b"):
        stand.scan_scheduler.request(directory)
    stand.answer(ScanReport())
    scanned = set()
    for _ in range(2):
        scanned.add(stand.scanner.asked.get(timeout=WAIT_SECONDS))
        stand.answer(ScanReport())
    assert scanned == {"b", "c"}
    stand.expect_nothing_due()


@pytest.mark.parametrize("cause", ["request", "period"])
def test_a_full_scan_makes_the_waiting_directories_unnecessary(stand: Stand, cause: str) -> None:
    stand.first_scan()
    stand.scan_scheduler.request("a")
    stand.expect("a")
    stand.scan_scheduler.request("b")
    if cause == "request":
        stand.scan_scheduler.request("")
    else:
        stand.advance(PERIOD)
    stand.answer(ScanReport())
    stand.expect("")
    stand.answer(ScanReport())
    stand.expect_nothing_due()


def test_a_thousand_directories_are_scanned_as_a_whole(stand: Stand) -> None:
    stand.first_scan()
    stand.scan_scheduler.request("a")
    stand.expect("a")
    for number in range(MAX_DIRECTORIES + 1):
        stand.scan_scheduler.request(f"d{number}")
    stand.answer(ScanReport())
    stand.expect("")
    stand.answer(ScanReport())
    stand.expect_nothing_due()


def test_lost_events_are_counted_and_mean_a_full_scan(stand: Stand) -> None:
    stand.first_scan()
    with capture_logs() as logs:
        stand.scan_scheduler.request_after_lost_events()
    stand.expect("")
    stand.answer(ScanReport())
    assert [(log["event"], log["log_level"]) for log in logs] == [("events_lost", "warning")]
    assert stand.sample("video_uploader_event_queue_overflows_total") == 1


@pytest.mark.parametrize("error", [AWAY, LOCKED])
def test_a_failing_scan_is_repeated_soon_and_logged_once(stand: Stand, error: Exception) -> None:
    with capture_logs() as logs:
        stand.scan_scheduler.start()
        stand.expect("")
        for _ in range(3):
            stand.answer(error)
            stand.wait_until_failure_is_noted()
            assert stand.scan_scheduler.failure is not None
            assert not stand.scan_scheduler.first_scan_done.is_set()
            stand.advance(RETRY_SECONDS)
            stand.expect("")
        stand.answer(ScanReport())
        assert stand.scan_scheduler.first_scan_done.wait(WAIT_SECONDS)
        assert stand.scan_scheduler.failure is None
    logged = [(log["event"], log["log_level"]) for log in logs]
    assert logged == [("scan_failed", "error"), ("scan_recovered", "info"), ("scan_completed", "info")]


def test_the_callback_runs_before_the_first_full_scan_counts(stand: Stand) -> None:
    was_done: list[bool] = []
    stand.scan_scheduler.on_full_scan(
        lambda _: was_done.append(stand.scan_scheduler.first_scan_done.is_set())
    )
    stand.first_scan()
    stand.expect_nothing_due()
    stand.advance(PERIOD)
    stand.expect("")
    stand.answer(ScanReport())
    stand.expect_nothing_due()
    assert was_done == [False, True]


def test_a_first_scan_whose_callback_fails_does_not_count(stand: Stand) -> None:
    errors: list[Exception] = [AWAY]

    def follow(_: ScanReport) -> None:
        if errors:
            raise errors.pop()

    stand.scan_scheduler.on_full_scan(follow)
    stand.scan_scheduler.start()
    stand.expect("")
    stand.answer(ScanReport())
    stand.expect_nothing_due()
    assert not stand.scan_scheduler.first_scan_done.is_set()
    stand.advance(RETRY_SECONDS)
    stand.expect("")
    stand.answer(ScanReport())
    assert stand.scan_scheduler.first_scan_done.wait(WAIT_SECONDS)


def test_it_stops_in_the_middle_of_a_scan_which_then_does_not_count(stand: Stand) -> None:
    followed: list[ScanReport] = []
    stand.scan_scheduler.on_full_scan(followed.append)
    stand.scan_scheduler.start()
    stand.expect("")
    stand.answer(None)
    stand.scan_scheduler.request_stop()
    assert stand.scan_scheduler.join(WAIT_SECONDS)
    assert not stand.scan_scheduler._thread.is_alive
    assert not stand.scan_scheduler.first_scan_done.is_set()
    assert followed == []
    assert stand.supervisor.liveness.stalled() == []


def test_it_stops_at_once_while_it_waits_and_when_it_never_started(stand: Stand) -> None:
    stand.scan_scheduler.request_stop()
    assert stand.scan_scheduler.join(WAIT_SECONDS)
    stand.scan_scheduler.start()
    stand.scan_scheduler._thread.join(WAIT_SECONDS)
    assert not stand.scan_scheduler._thread.is_alive
