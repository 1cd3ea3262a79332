"""Several daemons on one directory and one PostgreSQL: their settings, and a claim that has run out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest

from db import Database
from tests.integration.conftest import MakeSettings
from tests.support.harness import Harness, open_harness
from tests.support.postgres import PostgresServer
from tests.support.s3_server import S3Server
from watcher.settings.model import Settings

OpenHarness = Callable[..., Harness]


@pytest.fixture
def shared(postgres: PostgresServer, settings: MakeSettings) -> Iterator[MakeSettings]:
    """Settings of daemons that share a directory; they differ in INSTANCE_ID."""
    with postgres.fresh_database() as url:

        def make(**changes: Any) -> Settings:
            values = {"DATABASE_URL": url, "SHARED_DIRECTORY": True, "CATALOG": "none", "CLAIM_SECONDS": 5}
            return settings(**values | changes)

        yield make


@pytest.fixture
def harness_of(shared: MakeSettings, server: S3Server) -> Iterator[OpenHarness]:
    """Opens the harness of the daemon of a given name."""
    with ExitStack() as stack:

        def open_one(name: str, **changes: Any) -> Harness:
            return stack.enter_context(open_harness(shared(INSTANCE_ID=name, **changes), server))

        yield open_one


def let_claims_run_out(database: Database) -> None:
    """Have whoever holds an upload be silent for too long."""
    uploads = database.tables.uploads
    with database.transaction():
        past = database.now() - timedelta(seconds=1)
        uploads.update(claimed_until=past).where(uploads.claimed_until.is_null(False)).execute()
