"""Checks of every test, PostgreSQL servers, and the plugins of the tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import settings as hypothesis_settings

import db  # noqa: F401  # before psycopg: peewee is to lack it, as in commands and daemons
from tests.support.postgres import PostgresServer, PostgresUnavailableError, running_postgres

# What an example costs is the machine's affair, which may stall for longer than any deadline.
hypothesis_settings.register_profile("without deadline", deadline=None)
hypothesis_settings.load_profile("without deadline")

pytest_plugins = ["tests.support.secret_search", "tests.support.fixtures", "tests.faults.plugin"]

JOIN_SECONDS = 5.0
"""How long all stopped threads together may take to end."""


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Fails a test that leaves a thread running; threads of session-wide servers were there before."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + JOIN_SECONDS
    started = [thread for thread in threading.enumerate() if thread not in before]
    for thread in started:
        thread.join(max(0.0, deadline - time.monotonic()))
    left = [thread.name for thread in started if thread.is_alive()]
    assert not left, f"threads were left running: {', '.join(left)}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL server for all tests; those that need it are skipped where it does not start."""
    try:
        with running_postgres(in_memory=True) as server:
            yield server
    except PostgresUnavailableError as exc:
        exc.skip()


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of the test's own, which it may stop and start."""
    try:
        with running_postgres() as server:
            yield server
    except PostgresUnavailableError as exc:
        exc.skip()
