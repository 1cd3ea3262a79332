"""Threads that write to a SQLite file at a time commit together, and none goes on before its commit."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

import pytest

from db import Database, DatabaseError, ErrorKind, Ledger, LedgerError, migrate
from tests.support.databases import DatabaseAddress, enqueue
from tests.support.source_tree import ROOT

COMMIT, JOIN = "COMMIT", "SAVEPOINT member"
SECONDS = 20.0
"""How long anything is waited for that happens at once unless something is broken."""


@pytest.fixture
def database(sqlite_address: DatabaseAddress) -> Iterator[Database]:
    with closing(sqlite_address.open()) as database:
        migrate(database)
        with database.session():
            yield database


class Writers:
    """Threads that write one after the other: each in its turn, in the order in which they were started."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.peewee: Any = database._peewee
        self.ledger = Ledger(database, "main")
        self.done: list[str] = []
        self.errors: dict[str, BaseException] = {}
        self._threads: list[threading.Thread] = []

    def start(self, path: str, action: Callable[[], object] = lambda: None) -> None:
        """Have a thread add an upload and call `action` in the same transaction; wait until it waits."""

        def write() -> None:
            try:
                with self.database.transaction("write in a thread"):
                    enqueue(self.ledger, path)
                    action()
            except (DatabaseError, LedgerError, LookupError) as exc:
                self.errors[path] = exc
            else:
                self.done.append(path)

        waiting = len(self.peewee._waiting)
        thread = threading.Thread(target=write)
        self._threads.append(thread)
        thread.start()
        if self.peewee._is_taken:
            wait_until(lambda: len(self.peewee._waiting) > waiting)

    def join(self) -> None:
        """Wait for the end of all threads."""
        for thread in self._threads:
            thread.join(SECONDS)
            assert not thread.is_alive()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def paths_on_disk(address: DatabaseAddress) -> set[str]:
    """The paths of the uploads that are committed, read by another connection."""
    other = address.open(read_only=True)
    with closing(other):
        return {upload.path for upload in Ledger(other, "main").uploads()}


def commands(database: Database) -> list[str]:
    """The COMMITs and the JOINs from now on."""
    peewee: Any = database._peewee
    with database.transaction("connect"):
        pass
    found: list[str] = []
    counted = {COMMIT, JOIN}
    peewee._writer.set_trace_callback(lambda text: found.append(text) if text in counted else None)
    return found


@pytest.fixture
def writers(database: Database) -> Writers:
    return Writers(database)


def test_what_waits_is_committed_together(
    database: Database, sqlite_address: DatabaseAddress, writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.connection_url.GROUP_SECONDS", SECONDS)
    made = commands(database)
    with database.transaction("keep the others waiting"):
        for number in range(8):
            writers.start(f"v/{number}_720p.mp4")
        assert made == []
    writers.join()
    assert writers.errors == {}
    assert made == [JOIN] * 8 + [COMMIT]
    assert len(paths_on_disk(sqlite_address)) == 8


def test_what_fails_first_in_a_transaction_that_joins_a_group_is_undone_alone(
    database: Database, sqlite_address: DatabaseAddress, writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.connection_url.GROUP_SECONDS", SECONDS)

    def fail_first() -> None:
        with database.transaction("write in a thread"):
            with suppress(LookupError), database.transaction(), database.transaction():
                enqueue(writers.ledger, "v/undone_720p.mp4")
                raise LookupError
            enqueue(writers.ledger, "v/kept_720p.mp4")

    thread = threading.Thread(target=fail_first)
    with database.transaction("keep the other waiting"):
        enqueue(writers.ledger, "v/first_720p.mp4")
        thread.start()
        wait_until(lambda: len(writers.peewee._waiting) == 1)
    thread.join(SECONDS)
    assert paths_on_disk(sqlite_address) == {"v/first_720p.mp4", "v/kept_720p.mp4"}


def test_a_group_takes_up_no_more_transactions_after_a_while(
    database: Database, writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.connection_url.GROUP_SECONDS", -1.0)
    made = commands(database)
    with database.transaction("keep the others waiting"):
        for number in range(3):
            writers.start(f"v/{number}_720p.mp4")
    writers.join()
    assert made == [COMMIT] * 4
    assert len(writers.done) == 3


def test_no_thread_goes_on_before_the_commit(
    database: Database, sqlite_address: DatabaseAddress, writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.connection_url.GROUP_SECONDS", SECONDS)
    reached, may_end = threading.Event(), threading.Event()

    def linger() -> None:
        reached.set()
        assert may_end.wait(SECONDS)

    with database.transaction("keep the others waiting"):
        writers.start("v/first_720p.mp4")
        writers.start("v/last_720p.mp4", linger)
        seen: list[tuple[list[str], set[str]]] = []

        def check() -> None:
            # The first has ended its transaction, and the last is still in its own.
            assert reached.wait(SECONDS)
            seen.append((list(writers.done), paths_on_disk(sqlite_address)))
            may_end.set()

        # The main thread waits for the commit, too.
        checking = threading.Thread(target=check)
        checking.start()
    checking.join()
    assert seen == [([], set())]
    assert len(paths_on_disk(sqlite_address)) == 2
    writers.join()
    assert sorted(writers.done) == ["v/first_720p.mp4", "v/last_720p.mp4"]


def test_a_transaction_that_fails_fails_alone(
    database: Database, sqlite_address: DatabaseAddress, writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.connection_url.GROUP_SECONDS", SECONDS)

    def fail() -> None:
        raise LookupError

    made = commands(database)
    with database.transaction("keep the others waiting"):
        writers.start("v/a_720p.mp4")
        writers.start("v/b_720p.mp4", fail)
        writers.start("v/c_720p.mp4", lambda: writers.ledger.append_event(10**6, "noted", ""))
        writers.start("v/d_720p.mp4")
    writers.join()
    assert {path: type(error).__name__ for path, error in writers.errors.items()} == {
        "v/b_720p.mp4": "LookupError",
        "v/c_720p.mp4": "UnknownUploadError",
    }
    assert paths_on_disk(sqlite_address) == {"v/a_720p.mp4", "v/d_720p.mp4"}
    assert made == [JOIN] * 4 + [COMMIT]


def test_what_rolls_back_all_of_a_group_is_an_error_of_each(
    database: Database, sqlite_address: DatabaseAddress, writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite ends a transaction by itself after some errors, and so it is done here."""
    monkeypatch.setattr("db.connection_url.GROUP_SECONDS", SECONDS)

    def break_off() -> None:
        with database.operation("break off") as connected:
            connected.execute_sql("ROLLBACK")
            connected.execute_sql("SELECT * FROM missing")

    def start() -> None:
        with database.transaction("keep the others waiting"):
            writers.start("v/a_720p.mp4")
            writers.start("v/b_720p.mp4", break_off)

    with pytest.raises(DatabaseError, match=r"^Could not keep the others waiting: no such table"):
        start()
    writers.join()
    for path, operation in (("v/a_720p.mp4", "write in a thread"), ("v/b_720p.mp4", "break off")):
        error = writers.errors[path]
        assert isinstance(error, DatabaseError)
        assert (error.kind, error.operation) == (ErrorKind.ENVIRONMENT, operation)
    assert paths_on_disk(sqlite_address) == set()
    enqueue(writers.ledger, "v/c_720p.mp4")
    assert paths_on_disk(sqlite_address) == {"v/c_720p.mp4"}


def test_a_thread_waits_no_longer_for_its_turn_than_for_the_lock_of_another_process(
    database: Database, writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.connection_url.BUSY_SECONDS", 0.05)
    with database.transaction("keep the others waiting"):
        writers.start("v/a_720p.mp4")
        writers.join()
    error = writers.errors["v/a_720p.mp4"]
    assert str(error) == "Could not write in a thread: database is locked. It is retried automatically."
    enqueue(writers.ledger, "v/a_720p.mp4")


def test_turns_come_in_the_order_in_which_threads_began_to_wait(database: Database, writers: Writers) -> None:
    paths = [f"v/{number}_720p.mp4" for number in range(6)]
    order: list[str] = []
    with database.transaction("keep the others waiting"):
        for path in paths:
            writers.start(path, partial(order.append, path))
    writers.join()
    assert order == paths


def test_a_connection_on_which_another_thread_had_an_error_is_not_used_again(
    database: Database, sqlite_address: DatabaseAddress, writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.connection_url.GROUP_SECONDS", SECONDS)

    def fail() -> None:
        with database.operation("read what is missing") as connected:
            connected.execute_sql("SELECT * FROM missing")

    peewee: Any = database._peewee
    with database.transaction("keep the others waiting"):
        enqueue(writers.ledger, "v/a_720p.mp4")
        writers.start("v/b_720p.mp4", fail)
    writers.join()
    assert [*writers.errors] == ["v/b_720p.mp4"]
    assert peewee._writer is None
    enqueue(writers.ledger, "v/c_720p.mp4")
    assert paths_on_disk(sqlite_address) == {"v/a_720p.mp4", "v/c_720p.mp4"}


_WRITES_FOR_EVER = """
import sys, threading
from db import Ledger, open_database
from tests.support.databases import enqueue
database = open_database(sys.argv[1])
ledger = Ledger(database, "main")
def write(thread):
    number = 0
    with database.session():
        while True:
            path = f"v/{thread}-{number}_720p.mp4"
            enqueue(ledger, path)
            sys.stdout.write(path + chr(10))
            sys.stdout.flush()
            number += 1
for thread in range(6):
    threading.Thread(target=write, args=(thread,)).start()
"""


def test_what_was_acknowledged_before_the_process_was_killed_is_there(
    database: Database, sqlite_address: DatabaseAddress
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WRITES_FOR_EVER, sqlite_address.url],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(100)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
    assert len(acknowledged) >= 100
    assert set(acknowledged) <= paths_on_disk(sqlite_address)


def test_sqlite_may_be_used_by_several_threads() -> None:
    """Turns keep two threads from using the connection at a time; SQLite must allow one after the other."""
    assert sqlite3.threadsafety > 0


def test_no_connection_is_left_open_after_the_last_session(sqlite_address: DatabaseAddress) -> None:
    """SQLite removes the write-ahead log with the last connection to the file."""
    with closing(sqlite_address.open()) as database:
        migrate(database)
        log = f"{database.server}-wal"

        def write(path: str) -> None:
            with database.session():
                enqueue(Ledger(database, "main"), path)
                assert os.path.exists(log)

        with database.session():
            write("v/first_720p.mp4")
            other = threading.Thread(target=write, args=("v/other_720p.mp4",))
            other.start()
            other.join(SECONDS)
            assert os.path.exists(log)
        assert not os.path.exists(log)
        write("v/alone_720p.mp4")
        assert not os.path.exists(log)
    assert len(paths_on_disk(sqlite_address)) == 3


def test_a_thread_tells_of_its_waits_for_its_turn_for_the_disk_and_for_the_commit(
    database: Database, writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.connection_url.GROUP_SECONDS", SECONDS)
    waits: list[str] = []

    @contextmanager
    def waiting() -> Iterator[None]:
        waits.append(threading.current_thread().name)
        yield

    database.tell_of_waits(waiting)
    with database.transaction("keep the other waiting"):
        writers.start("v/other_720p.mp4")
        (other,) = waits
    writers.join()
    # Its turn, the commit that it makes for both, and the end of that.
    assert waits.count(other) == 3
    assert waits.count(threading.current_thread().name) == 1
    database.tell_of_waits(nullcontext)
