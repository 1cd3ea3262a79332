"""Locks of other sessions delay only the rows locked, and no deadlock ends the compressor's transaction."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from db import State
from tests.support.catalog_rows import BASE_URL, CatalogRows
from tests.support.daemon_process import place_file, running_daemon
from tests.support.daemon_process import rows as ledger_rows
from tests.support.harness import VIDEO_ID, MakeHarness, MakeSettings
from tests.support.media import Media
from watcher.errors import Code
from watcher.supervision.backoff import Backoff

pytestmark = pytest.mark.long

NAMES = [f"video{number}_720p.mp4" for number in range(6)]
LOCKED = NAMES[0]
SECONDS = 3.0
"""How long the loops of publication and compressor run against each other."""


@contextmanager
def locked(rows: CatalogRows, row: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Another session that keeps a catalog row locked."""
    with psycopg.connect(rows.url, application_name="a forgotten session") as session:
        session.execute("SELECT 1 FROM video_qualities WHERE id = %s FOR UPDATE", [row])
        yield session
        session.rollback()


def test_a_locked_row_delays_its_own_publication_only(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    harness = make_catalog_harness()
    ids = {name: rows.insert(name, "720p") for name in NAMES}
    for name in NAMES:
        harness.put(f"{VIDEO_ID}/{name}", video)
    harness.admit_waiting()
    harness.step(State.PENDING)
    with locked(rows, ids[LOCKED]) as session:
        began = time.monotonic()
        harness.step(State.VERIFIED)
        assert time.monotonic() - began < 10
        states = {name: harness.row(f"{VIDEO_ID}/{name}").state for name in NAMES}
        assert states == dict.fromkeys(NAMES, State.PUBLISHED) | {LOCKED: State.VERIFIED}
        waiting = harness.row(f"{VIDEO_ID}/{LOCKED}")
        assert (waiting.error_code, waiting.attempts) == (Code.DATABASE, 1)
        assert f"locked by process {session.info.backend_pid} " in str(waiting.last_error)
        assert "a forgotten session" in str(waiting.last_error)
        assert harness.app.runners[State.VERIFIED].breaker.failure is None
    harness.app.ledger.make_due([waiting.id])
    harness.step(State.VERIFIED)
    assert harness.row(f"{VIDEO_ID}/{LOCKED}").state is State.PUBLISHED


def test_a_locked_row_that_was_reset_does_not_delay_the_gate(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watcher.catalog.republisher.LOCKED_BACKOFF", Backoff(base=6.0))
    harness = make_catalog_harness()
    row = rows.insert(LOCKED, "720p")
    path = f"{VIDEO_ID}/{LOCKED}"
    harness.put(path, video)
    harness.admit_waiting()
    harness.step(State.PENDING)
    harness.step(State.VERIFIED)
    public, catalog_thread = rows.url_of(row), harness.app.catalog_thread
    assert catalog_thread is not None
    rows.update(row, url="https://example.com/reset")
    for name in NAMES[1:]:
        rows.insert(name, "720p")
        harness.put(f"{VIDEO_ID}/{name}", video)
    with locked(rows, row):
        began = time.monotonic()
        catalog_thread.run_due()
        assert time.monotonic() - began < 5
        assert not any(harness.row(f"{VIDEO_ID}/{name}").awaits_row for name in NAMES)
    # It has a backoff of its own, so that it is not tried at each check.
    assert catalog_thread.republisher.check_recent() == 0
    time.sleep(max(0.0, began + 6.5 - time.monotonic()))
    assert catalog_thread.republisher.check_recent() == 1
    assert rows.url_of(row) == public


def test_a_daemon_publishes_and_admits_beside_locked_rows(
    settings: MakeSettings, rows: CatalogRows, media: Media
) -> None:
    """One row of the catalog and one of the ledger are locked; the other files are published in seconds."""
    chosen = settings(DATABASE_URL=rows.url, CATALOG="compressor", KEEP_LOCAL=True)
    ids = {name: rows.insert(name, "720p") for name in NAMES}
    with running_daemon(chosen) as daemon, locked(rows, ids[LOCKED]):
        daemon.expect("daemon_ready")
        for name in NAMES:
            place_file(chosen, f"{VIDEO_ID}/{name}", media.faststart)
        deadline = time.monotonic() + 30
        while sum(row.state is State.PUBLISHED for row in ledger_rows(chosen)) < len(NAMES) - 1:
            assert time.monotonic() < deadline, ledger_rows(chosen)
            time.sleep(0.1)


def test_the_compressor_is_never_the_victim_of_a_deadlock(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It updates two rows of a video in one transaction, in the order opposite to that of their ids."""
    monkeypatch.setattr("watcher.catalog.republisher.LOCKED_BACKOFF", Backoff(base=0.0))
    harness = make_catalog_harness()
    first, second = sorted(rows.insert(LOCKED, "720p") for _ in range(2))
    path = f"{VIDEO_ID}/{LOCKED}"
    harness.put(path, video)
    harness.admit_waiting()
    harness.step(State.PENDING)
    harness.step(State.VERIFIED)
    upload = harness.row(path)
    assert upload.state is State.PUBLISHED
    errors: list[str] = []
    rounds = 0
    over = threading.Event()

    def compress() -> None:
        nonlocal rounds
        with psycopg.connect(rows.url, autocommit=True) as compressor:
            compressor.execute("SET deadlock_timeout = '10ms'")
            while not over.is_set():
                try:
                    with compressor.transaction():
                        for row in (second, first):
                            compressor.execute(
                                "UPDATE video_qualities SET url = %s WHERE id = %s",
                                [f"{BASE_URL}/{path}", row],
                            )
                            time.sleep(0.002)
                except psycopg.Error as exc:
                    errors.append(str(exc))
                rounds += 1
                time.sleep(0.005)

    catalog_thread = harness.app.catalog_thread
    assert catalog_thread is not None
    compressing = threading.Thread(target=compress)
    compressing.start()
    published = 0
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        published += catalog_thread.republisher.republish(upload)
    over.set()
    compressing.join()
    assert errors == []
    assert rounds > 20
    assert published > 0
