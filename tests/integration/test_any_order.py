"""Writes, row changes, outages, clock jumps and crashes in any order: nothing good is ever lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from psycopg import sql

from tests.faults.catalogue import EVERYTHING
from tests.faults.outages import DatabaseOutages, database_outages
from tests.faults.outcomes import Outcome
from tests.faults.plugin import ReportOutcome
from tests.faults.simulated_daemon import SimulatedDaemon
from tests.faults.state_machine import AnyOrder
from tests.support.catalog_rows import CatalogRows
from tests.support.fault_proxy import FaultProxy
from tests.support.harness import BUCKET, VIDEO_ID, open_harness, settings_for
from tests.support.postgres import MEMORY
from tests.support.s3_server import S3Server
from tests.support.temporary_directory import make_place

EXAMPLES = int(os.environ.get("ANY_ORDER_EXAMPLES", "20"))
IS_SOAK = "ANY_ORDER_AT_RANDOM" in os.environ
"""A soak looks for what nobody has seen yet; a test run plays what the last one did."""
STEPS = int(os.environ.get("ANY_ORDER_STEPS", "15"))


@pytest.fixture
def in_memory() -> Iterator[str]:
    """A place whose syncs take no time: no power cut is played here."""
    with make_place(MEMORY) as directory:
        yield directory


@pytest.fixture
def daemons() -> list[SimulatedDaemon]:
    """Those that were played."""
    return []


@pytest.fixture
def machine(
    in_memory: str,
    proxy: FaultProxy,
    server: S3Server,
    rows: CatalogRows,
    video: bytes,
    daemons: list[SimulatedDaemon],
) -> Iterator[type[AnyOrder]]:
    """A machine whose every life begins with an empty directory, empty tables and an empty bucket."""
    # No power cut of the database's own is played, and its syncs would be part of the time.
    name = sql.Identifier(rows.connection.info.dbname)
    rows.connection.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit TO off").format(name))
    rows.connection.execute("SET synchronous_commit TO off")
    chosen = settings_for(in_memory, proxy.url, DATABASE_URL=rows.url, CATALOG="compressor")
    client = server.client()

    def begin(outages: DatabaseOutages) -> SimulatedDaemon:
        shutil.rmtree(os.path.join(chosen.completed_dir, VIDEO_ID), ignore_errors=True)
        os.makedirs(os.path.join(chosen.completed_dir, VIDEO_ID))
        rows.connection.execute("TRUNCATE video_qualities, video_uploader.uploads CASCADE")
        for found in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
            client.delete_object(Bucket=BUCKET, Key=found["Key"])
        proxy.requests.clear()
        daemons.append(SimulatedDaemon(chosen, server, proxy, rows, outages, video))
        return daemons[-1]

    class Machine(AnyOrder):
        pass

    # One life outside of all keeps the S3 client, which is slow to make, from being made for each.
    with database_outages(rows.url, rows.connection) as outages, open_harness(chosen, server):
        Machine.begin = staticmethod(partial(begin, outages))
        yield Machine


@pytest.mark.fault(EVERYTHING)
@pytest.mark.timeout(600)
def test_nothing_good_is_lost_whatever_happens_in_whatever_order(
    machine: type[AnyOrder], daemons: list[SimulatedDaemon], report_outcome: ReportOutcome
) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            derandomize=not IS_SOAK,
            suppress_health_check=list(HealthCheck),
        ),
    )
    report_outcome(Outcome(EVERYTHING, len(daemons), sum(daemon.made for daemon in daemons)))
