"""When a reported path is checked, and how often, until its status is final."""

from __future__ import annotations

import os
import queue
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
from structlog.testing import capture_logs

from db import Database, DatabaseError, ErrorKind, Identity, open_database, sqlite_url
from storage import UploadCancelledError
from tests.support.peer_process import writer
from watcher.detection.completeness import (
    Busy,
    FileStatus,
    Finished,
    Missing,
    Observation,
    QuietPeriod,
    Refused,
    check_complete,
)
from watcher.detection.settler import (
    BUSY_BACKOFF,
    EVENT_AHEAD_SECONDS,
    MAX_CHANGES,
    MAX_OUTDATED_ITEMS,
    SECOND_NAME_DELAYS,
    Reading,
    ReadRequired,
    Settler,
    Source,
)
from watcher.filesystem.hashing import Rank
from watcher.filesystem.openat import RootUnavailableError
from watcher.filesystem.tree import Tree
from watcher.supervision.background_thread import Supervisor
from watcher.telemetry.metrics import Metrics

WAIT_SECONDS = 10
BARRIER = "barrier"
IDENTITY = Identity(1, 2, 3, 4)
FINISHED = Finished(IDENTITY, None)
BUSY = Busy("Some process has it open for writing.")
LOCKED = DatabaseError(ErrorKind.TRANSIENT, "write", "it is locked", "Wait.")
AWAY = RootUnavailableError("/completed", "It does not exist.")


@dataclass
class SettlerFixture:
    """A settler whose checks a test answers one by one, at times that it sets."""

    database: Database
    now: float = 100.0
    asked: queue.SimpleQueue[tuple[str, Observation | None]] = field(default_factory=queue.SimpleQueue)
    answers: defaultdict[str, queue.SimpleQueue[FileStatus | Exception]] = field(
        default_factory=lambda: defaultdict(queue.SimpleQueue)
    )
    refusals: list[Exception] = field(default_factory=list)
    reported: queue.SimpleQueue[tuple[str, FileStatus]] = field(default_factory=queue.SimpleQueue)
    new: set[str] = field(default_factory=set)
    found: int = 0
    large: dict[str, ReadRequired] = field(default_factory=dict)
    read: Callable[[str, Reading], None] = lambda _path, _reading: None

    def __post_init__(self) -> None:
        self.supervisor = Supervisor(Metrics(), session=self.database.session)

    def settler(self, threads: int = 1) -> Settler:
        self._settler = Settler(
            check_complete=self._check_complete,
            report=self._report,
            supervisor=self.supervisor,
            clock=lambda: self.now,
            threads=threads,
            count_found=self._count,
        )
        self._settler.start()
        return self._settler

    def expect(self, path: str) -> Observation | None:
        """Wait until a path is checked; returns the observation that was passed."""
        asked, previous = self.asked.get(timeout=WAIT_SECONDS)
        assert asked == path
        return previous

    def answer(self, path: str, *answers: FileStatus | Exception) -> None:
        for answer in answers:
            self.answers[path].put(answer)

    def expect_nothing_due(self) -> None:
        """What is due is checked before a path that a scan finds now, so only that one may be checked."""
        self._settler.check(BARRIER, Source.SCAN)
        self.answer(BARRIER, Missing())
        self.expect(BARRIER)
        assert self.reported.get(timeout=WAIT_SECONDS) == (BARRIER, Missing())

    def expect_nothing_due_after_report(self) -> None:
        self.reported.get(timeout=WAIT_SECONDS)
        self.expect_nothing_due()

    def advance(self, seconds: float) -> None:
        with self._settler._changed:
            self.now += seconds
        self._settler.wake()

    def stop(self) -> None:
        self._settler.request_stop()
        assert self._settler.join(WAIT_SECONDS)

    def _check_complete(self, path: str, previous: Observation | None, _now: float) -> FileStatus:
        self.asked.put((path, previous))
        answer = self.answers[path].get(timeout=WAIT_SECONDS)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _report(self, path: str, file_status: FileStatus, reading: Reading | None) -> ReadRequired | bool:
        if self.refusals and path != BARRIER:
            raise self.refusals.pop()
        if path in self.large and reading is None:
            return self.large[path]
        if path in self.large and reading is not None:
            self.read(path, reading)
        self.reported.put((path, file_status))
        return path in self.new and isinstance(file_status, Finished)

    def _count(self) -> None:
        self.found += 1


@pytest.fixture
def database(tmp_path: os.PathLike[str]) -> Iterator[Database]:
    database = open_database(sqlite_url(os.path.join(tmp_path, "ledger.sqlite3")))
    yield database
    database.close()


@pytest.fixture
def fixture(database: Database) -> Iterator[SettlerFixture]:
    fixture = SettlerFixture(database)
    yield fixture
    fixture.stop()


def test_a_new_file_that_only_a_scan_found_is_counted_when_it_is_recorded(fixture: SettlerFixture) -> None:
    settler = fixture.settler()
    fixture.new = {"a"}
    settler.check("a", Source.SCAN)
    fixture.expect("a")
    settler.check("a", Source.SCAN)
    fixture.answer("a", FINISHED)
    fixture.expect("a")
    fixture.answer("a", Missing())
    fixture.reported.get(timeout=WAIT_SECONDS)
    fixture.expect_nothing_due_after_report()
    assert fixture.found == 1


@pytest.mark.parametrize("order", [(Source.EVENT, Source.SCAN), (Source.SCAN, Source.EVENT)])
def test_a_file_that_an_event_reported_too_is_not_counted(
    fixture: SettlerFixture, order: tuple[Source, Source]
) -> None:
    """Many scans meet a file that is written for hours."""
    settler = fixture.settler()
    fixture.new = {"a"}
    settler.check("a", order[0])
    fixture.expect("a")
    fixture.answer("a", BUSY)
    assert fixture.reported.get(timeout=WAIT_SECONDS) == ("a", BUSY)
    settler.check("a", order[1])
    fixture.expect("a")
    fixture.answer("a", FINISHED)
    fixture.expect_nothing_due_after_report()
    assert fixture.found == 0


def test_what_a_scan_found_and_is_no_new_file_is_not_counted(fixture: SettlerFixture) -> None:
    settler = fixture.settler()
    settler.check("a", Source.SCAN)
    fixture.expect("a")
    fixture.answer("a", Refused("It has two names."))
    fixture.expect_nothing_due_after_report()
    assert fixture.found == 0


def test_what_an_event_reports_is_checked_before_what_a_scan_has_found(fixture: SettlerFixture) -> None:
    """Unless that has waited for so long that events would never let it through."""
    settler = fixture.settler()
    settler.check("first", Source.SCAN)
    fixture.expect("first")
    settler.check("old", Source.SCAN)
    fixture.now += EVENT_AHEAD_SECONDS + 1
    settler.check("found", Source.SCAN)
    settler.check("new")
    for path in ("first", "old", "new", "found"):
        if path != "first":
            fixture.expect(path)
        fixture.answer(path, Missing())


def test_a_path_is_checked_reported_and_forgotten(fixture: SettlerFixture) -> None:
    settler = fixture.settler()
    fixture.answer("a", Refused("It is a symbolic link."))
    settler.check("a")
    assert fixture.reported.get(timeout=WAIT_SECONDS) == ("a", Refused("It is a symbolic link."))
    fixture.expect("a")
    fixture.expect_nothing_due()
    fixture.advance(10_000)
    fixture.expect_nothing_due()
    assert len(settler) == 0


def test_a_busy_file_is_reported_once_and_checked_at_growing_intervals(fixture: SettlerFixture) -> None:
    settler = fixture.settler()
    settler.check("a")
    fixture.answer("a", BUSY)
    fixture.expect("a")
    assert fixture.reported.get(timeout=WAIT_SECONDS) == ("a", BUSY)
    delay = BUSY_BACKOFF.base
    for _ in range(8):
        fixture.expect_nothing_due()
        assert settler.waiting_for_writers() == ["a"]
        fixture.advance(delay * 0.75)
        fixture.expect_nothing_due()
        fixture.advance(delay * 0.25)
        fixture.expect("a")
        fixture.answer("a", BUSY)
        delay = min(BUSY_BACKOFF.cap, delay * 2)
    assert delay == BUSY_BACKOFF.cap == 30
    fixture.expect_nothing_due()
    assert fixture.reported.empty()


def test_an_event_ends_the_wait_for_a_writer_at_once(fixture: SettlerFixture) -> None:
    settler = fixture.settler()
    settler.check("a")
    fixture.answer("a", BUSY, FINISHED)
    fixture.expect("a")
    assert fixture.reported.get(timeout=WAIT_SECONDS) == ("a", BUSY)
    settler.check("a")
    fixture.expect("a")
    assert fixture.reported.get(timeout=WAIT_SECONDS) == ("a", FINISHED)


def test_a_quiet_file_is_checked_again_with_its_observation_after_the_quiet_period(
    fixture: SettlerFixture,
) -> None:
    settler = fixture.settler()
    observation = Observation(IDENTITY, fixture.now)
    settler.check("a")
    fixture.answer("a", QuietPeriod(observation, fixture.now + 8))
    assert fixture.expect("a") is None
    fixture.expect_nothing_due()
    fixture.advance(6)
    fixture.expect_nothing_due()
    fixture.advance(2)
    assert fixture.expect("a") == observation
    fixture.answer("a", FINISHED)
    assert fixture.reported.get(timeout=WAIT_SECONDS) == ("a", FINISHED)


def test_a_writer_restarts_the_quiet_period(fixture: SettlerFixture) -> None:
    settler = fixture.settler()
    settler.check("a")
    fixture.answer("a", QuietPeriod(Observation(IDENTITY, fixture.now), fixture.now + 8), BUSY, FINISHED)
    fixture.expect("a")
    settler.check("a")
    assert fixture.expect("a") is not None
    assert fixture.reported.get(timeout=WAIT_SECONDS) == ("a", BUSY)
    settler.check("a")
    assert fixture.expect("a") is None
    assert fixture.reported.get(timeout=WAIT_SECONDS) == ("a", FINISHED)


def test_a_path_is_checked_by_one_thread_at_a_time_and_once_more_if_reported_meanwhile(
    fixture: SettlerFixture,
) -> None:
    settler = fixture.settler(threads=2)
    settler.check("a")
    fixture.expect("a")
    for _ in range(3):
        settler.check("a")
    fixture.expect_nothing_due()
    fixture.answer("a", FINISHED)
    assert fixture.reported.get(timeout=WAIT_SECONDS) == ("a", FINISHED)
    fixture.expect("a")
    fixture.expect_nothing_due()
    fixture.answer("a", Missing())
    assert fixture.reported.get(timeout=WAIT_SECONDS) == ("a", Missing())
    fixture.expect_nothing_due()


@pytest.mark.parametrize("error", [AWAY, LOCKED])
def test_a_path_whose_check_fails_is_kept_and_that_is_logged_once(
    fixture: SettlerFixture, error: Exception
) -> None:
    settler = fixture.settler()
    with capture_logs() as logs:
        fixture.refusals += [error] * 3
        fixture.answer("a", FINISHED, FINISHED, FINISHED, FINISHED)
        settler.check("a")
        for delay in (2.0, 4.0, 8.0):
            fixture.expect("a")
            fixture.expect_nothing_due()
            assert settler.failure is not None
            assert len(settler) == 1
            fixture.advance(delay * 0.75)
            fixture.expect_nothing_due()
            fixture.advance(delay * 0.25)
        fixture.expect("a")
        assert fixture.reported.get(timeout=WAIT_SECONDS) == ("a", FINISHED)
        fixture.expect_nothing_due()
        assert settler.failure is None
        assert len(settler) == 0
    logged = [(log["event"], log["log_level"]) for log in logs]
    assert logged == [("settling_paused", "warning"), ("settling_resumed", "info")]


def test_a_path_that_needs_no_database_does_not_end_the_failure_of_one_that_does(
    fixture: SettlerFixture,
) -> None:
    settler = fixture.settler()
    settler.check("busy")
    fixture.answer("busy", BUSY)
    fixture.expect("busy")
    assert fixture.reported.get(timeout=WAIT_SECONDS) == ("busy", BUSY)
    with capture_logs() as logs:
        fixture.refusals.append(LOCKED)
        fixture.answer("a", FINISHED)
        settler.check("a")
        fixture.expect("a")
        fixture.answer("busy", BUSY)
        settler.check("busy")
        fixture.expect("busy")
        fixture.expect_nothing_due()
        assert settler.failure is not None
    assert [log["event"] for log in logs] == ["settling_paused"]


def test_a_check_that_finds_no_directory_keeps_the_path(fixture: SettlerFixture) -> None:
    settler = fixture.settler()
    settler.check("a")
    fixture.answer("a", AWAY, FINISHED)
    fixture.expect("a")
    fixture.expect_nothing_due()
    assert settler.failure is not None
    assert settler.failure.code == "root-unavailable"
    fixture.advance(2)
    fixture.expect("a")
    assert fixture.reported.get(timeout=WAIT_SECONDS) == ("a", FINISHED)


def test_a_burst_of_events_takes_no_memory(fixture: SettlerFixture) -> None:
    settler = fixture.settler()
    settler.check("held")
    fixture.expect("held")
    for _ in range(5 * MAX_OUTDATED_ITEMS):
        settler.check("a")
        settler.check("held")
    assert len(settler) == 2
    assert len(settler._queue) <= MAX_OUTDATED_ITEMS + 5
    fixture.answer("held", Missing(), Missing())
    fixture.answer("a", Missing())
    assert [fixture.reported.get(timeout=WAIT_SECONDS)[0] for _ in range(3)].count("a") == 1


def test_it_stops_at_once_while_paths_wait(fixture: SettlerFixture) -> None:
    settler = fixture.settler(threads=2)
    settler.check("a")
    fixture.answer("a", BUSY)
    fixture.expect("a")
    assert fixture.reported.get(timeout=WAIT_SECONDS) == ("a", BUSY)
    settler.request_stop()
    assert settler.join(WAIT_SECONDS)
    assert not any(thread.is_alive for thread in settler._threads)
    assert fixture.supervisor.liveness.stalled() == []


def test_a_check_under_way_is_finished_before_its_thread_ends(fixture: SettlerFixture) -> None:
    settler = fixture.settler()
    settler.check("a")
    settler.check("b")
    fixture.expect("a")
    settler.request_stop()
    settler.join(0.01)
    fixture.answer("a", FINISHED)
    assert fixture.reported.get(timeout=WAIT_SECONDS) == ("a", FINISHED)
    settler.request_stop()
    assert settler.join(WAIT_SECONDS)
    assert not any(thread.is_alive for thread in settler._threads)
    assert fixture.asked.empty()


def test_it_reports_when_only_writers_are_waited_for(fixture: SettlerFixture) -> None:
    settler = fixture.settler()
    assert settler.wait_until_only_writers_remain(lambda: False)
    fixture.answer("a", BUSY)
    settler.check("a")
    assert settler.wait_until_only_writers_remain(lambda: False)
    assert settler.waiting_for_writers() == ["a"]
    settler.check("b")
    fixture.answer("b", AWAY)
    assert not settler.wait_until_only_writers_remain(lambda: False)


def blocking(fixture: SettlerFixture, *paths: str) -> queue.SimpleQueue[tuple[str, Reading]]:
    """Have the reads of some paths go on until they are ended; returns where each is announced."""
    begun: queue.SimpleQueue[tuple[str, Reading]] = queue.SimpleQueue()

    def read(path: str, reading: Reading) -> None:
        begun.put((path, reading))
        while path in paths:
            if reading.stopped():
                raise UploadCancelledError(operation="read")
            time.sleep(0.001)

    fixture.read = read
    return begun


def test_a_file_that_must_be_read_holds_up_no_other_check(fixture: SettlerFixture) -> None:
    fixture.large = {"large": ReadRequired(Rank.COPY, 10**11)}
    begun = blocking(fixture, "large")
    settler = fixture.settler()
    fixture.answer("large", FINISHED, FINISHED)
    settler.check("large")
    assert begun.get(timeout=WAIT_SECONDS)[0] == "large"
    for number in range(3):
        fixture.answer(f"new-{number}", FINISHED)
        settler.check(f"new-{number}")
        assert fixture.reported.get(timeout=WAIT_SECONDS) == (f"new-{number}", FINISHED)
    settler.wait_until_only_writers_remain(lambda: settler.unsettled() == ["large"])
    assert (settler.unsettled(), settler.to_read) == (["large"], 1)


def test_what_must_be_read_is_read_in_order_of_rank_and_size(fixture: SettlerFixture) -> None:
    fixture.large = {
        "copy": ReadRequired(Rank.COPY, 7),
        "new, large": ReadRequired(Rank.NEW, 10**9),
        "again": ReadRequired(Rank.AGAIN, 1),
        "new, small": ReadRequired(Rank.NEW, 10),
    }
    begun = blocking(fixture)
    settler = fixture.settler()
    with settler._changed:
        for path, required in fixture.large.items():
            fixture.answer(path, FINISHED)
            settler.recheck(path, required.size)
            settler._schedule_read(path, settler._entries[path], required)
    order = [begun.get(timeout=WAIT_SECONDS)[0] for _ in fixture.large]
    assert order == ["new, small", "new, large", "again", "copy"]


def test_a_long_read_is_ended_for_a_sooner_one_and_continued_after_it(fixture: SettlerFixture) -> None:
    fixture.large = {"copy": ReadRequired(Rank.COPY, 10**11), "new": ReadRequired(Rank.NEW, 20_000)}
    begun = blocking(fixture, "copy")
    settler = fixture.settler()
    fixture.answer("copy", FINISHED, FINISHED)
    fixture.answer("new", FINISHED, FINISHED)
    settler.recheck("copy", 10**11)
    path, reading = begun.get(timeout=WAIT_SECONDS)
    assert path == "copy"
    reading.progress(IDENTITY).offset = 5
    settler.check("new")
    assert begun.get(timeout=WAIT_SECONDS)[0] == "new"
    assert fixture.reported.get(timeout=WAIT_SECONDS) == ("new", FINISHED)
    path, reading = begun.get(timeout=WAIT_SECONDS)
    assert (path, reading.progress(IDENTITY).offset) == ("copy", 5)
    assert reading.progress(replace(IDENTITY, ctime_ns=5)).offset == 5
    assert reading.progress(replace(IDENTITY, inode=5)).offset == 0


def test_a_report_of_the_file_that_is_read_ends_the_read_and_has_it_checked_at_once(
    fixture: SettlerFixture,
) -> None:
    fixture.large = {"copy": ReadRequired(Rank.COPY, 10**11)}
    begun = blocking(fixture, "copy")
    settler = fixture.settler()
    fixture.answer("copy", FINISHED, Missing())
    settler.recheck("copy", 10**11)
    begun.get(timeout=WAIT_SECONDS)
    del fixture.large["copy"]
    settler.check("copy")
    assert fixture.reported.get(timeout=WAIT_SECONDS) == ("copy", Missing())


def test_a_stop_ends_a_long_read(fixture: SettlerFixture) -> None:
    fixture.large = {"copy": ReadRequired(Rank.COPY, 10**11)}
    begun = blocking(fixture, "copy")
    settler = fixture.settler()
    fixture.answer("copy", FINISHED)
    settler.recheck("copy", 10**11)
    begun.get(timeout=WAIT_SECONDS)
    fixture.stop()
    assert settler.failure is None


def test_a_file_that_must_be_read_needs_no_second_quiet_period(fixture: SettlerFixture) -> None:
    fixture.large = {"large": ReadRequired(Rank.NEW, 10)}
    settler = fixture.settler()
    observation = Observation(IDENTITY, 100.0)
    fixture.answer("large", QuietPeriod(observation, 105.0))
    settler.check("large")
    assert fixture.expect("large") is None
    fixture.answer("large", FINISHED, FINISHED)
    fixture.advance(5)
    assert [fixture.expect("large"), fixture.expect("large")] == [observation, observation]
    assert fixture.reported.get(timeout=WAIT_SECONDS) == ("large", FINISHED)


def test_the_wait_for_the_end_of_settling_can_be_stopped(fixture: SettlerFixture) -> None:
    settler = fixture.settler()
    settler.check("a")
    fixture.expect("a")
    assert not settler.wait_until_only_writers_remain(lambda: True)
    fixture.answer("a", Missing())


def test_a_file_is_settled_when_its_real_writer_closes_it(place: str, tree: Tree, database: Database) -> None:
    found: queue.SimpleQueue[tuple[str, FileStatus]] = queue.SimpleQueue()

    settler = Settler(
        check_complete=partial(check_complete, tree, settle_seconds=0),
        report=lambda path, file_status, _: found.put((path, file_status)),
        supervisor=Supervisor(Metrics(), session=database.session),
        clock=time.monotonic,
    )
    settler.start()
    try:
        with writer(f"{place}/a.avi", os.O_WRONLY | os.O_CREAT) as process:
            process.expect("opened")
            settler.check("a.avi")
            assert isinstance(found.get(timeout=WAIT_SECONDS)[1], Busy)
            assert settler.wait_until_only_writers_remain(lambda: False)
            assert settler.waiting_for_writers() == ["a.avi"]
            process.go_on()
            process.expect("closed")
            settler.check("a.avi")
            assert isinstance(found.get(timeout=WAIT_SECONDS)[1], Finished)
    finally:
        settler.request_stop()
        assert settler.join(WAIT_SECONDS)


def test_a_second_name_is_checked_again_before_the_file_is_refused(fixture: SettlerFixture) -> None:
    settler = fixture.settler()
    refused = Refused("The file has 2 names.", may_pass=True)
    settler.check("a")
    for delay in SECOND_NAME_DELAYS:
        fixture.expect("a")
        fixture.answer("a", refused)
        fixture.expect_nothing_due()
        fixture.advance(delay + 0.001)
    fixture.expect("a")
    fixture.answer("a", refused)
    assert fixture.reported.get(timeout=WAIT_SECONDS) == ("a", refused)
    fixture.expect_nothing_due()


def test_a_file_that_is_moved_with_link_and_unlink_is_settled_at_the_next_check(
    fixture: SettlerFixture,
) -> None:
    settler = fixture.settler()
    settler.check("a")
    fixture.expect("a")
    fixture.answer("a", Refused("The file has 2 names.", may_pass=True))
    fixture.expect_nothing_due()
    fixture.advance(0.101)
    fixture.expect("a")
    fixture.answer("a", FINISHED)
    assert fixture.reported.get(timeout=WAIT_SECONDS) == ("a", FINISHED)


def test_another_refusal_is_final_at_once(fixture: SettlerFixture) -> None:
    settler = fixture.settler()
    refused = Refused("It is a symbolic link and is not followed.")
    settler.check("a")
    fixture.expect("a")
    fixture.answer("a", refused)
    assert fixture.reported.get(timeout=WAIT_SECONDS) == ("a", refused)


def test_a_file_that_changes_in_every_quiet_period_is_not_waited_for(fixture: SettlerFixture) -> None:
    """Its writer is not known to the kernel: on a network file system, it may be on another machine."""
    settler = fixture.settler()
    settler.check("a")
    for size in range(MAX_CHANGES + 1):
        assert settler.waiting_for_writers() == []
        fixture.expect("a")
        observation = Observation(Identity(1, 2, size, 4), fixture.now)
        fixture.answer("a", QuietPeriod(observation, fixture.now + 1))
        fixture.expect_nothing_due()
        fixture.advance(1.001 if size < MAX_CHANGES else 0)
    assert settler.waiting_for_writers() == ["a"]
    assert settler.unsettled() == []
    assert settler.wait_until_only_writers_remain(lambda: False, seconds=0.1)
