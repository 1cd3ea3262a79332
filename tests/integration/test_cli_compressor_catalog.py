"""Commands beside a compressor: which file waits for which row, since when, and what would be done."""

from __future__ import annotations

import re
from datetime import timedelta

import psycopg
import pytest

from db import State
from tests.support.catalog_harness import Compressor, compressor, publish  # noqa: F401  # the fixture
from tests.support.cli_process import Command
from tests.support.harness import VIDEO_ID, Harness, MakeHarness
from tests.support.s3_server import S3Server
from watcher.operations.catalog_checks import check_catalog

pytestmark = pytest.mark.long

READY = f"{VIDEO_ID}/ready_720p.mp4"
PROCESSING = f"{VIDEO_ID}/processing_480p.mp4"
FAILED = f"{VIDEO_ID}/failed_360p.mp4"
UNKNOWN = f"{VIDEO_ID}/unknown_144p.mp4"


@pytest.fixture
def compressor_harness(make_harness: MakeHarness, compressor: Compressor) -> Harness:  # noqa: F811
    """A house beside a compressor."""
    return make_harness(**compressor.settings)


@pytest.fixture
def command(place: str, server: S3Server, compressor: Compressor) -> Command:  # noqa: F811
    return Command(place, server.url, {**compressor.settings, "INSTANCE_ID": "test"})


@pytest.fixture
def waiting(compressor_harness: Harness, compressor: Compressor, video: bytes) -> str:  # noqa: F811
    """Two files wait at the gate: one whose row is processing, and one that has none; gives the row's id."""
    row = compressor.begin(PROCESSING, "480p")
    compressor_harness.put(PROCESSING, video)
    compressor_harness.put(UNKNOWN, video)
    assert compressor_harness.admit_waiting() == 0
    return row


def make_wait_since(compressor_harness: Harness, path: str, **ago: float) -> None:
    with compressor_harness.app.context.database.operation("make a file wait for longer") as connected:
        connected.execute_sql(
            "UPDATE video_uploader.uploads SET due_at = now() - %s WHERE path = %s", (timedelta(**ago), path)
        )


def test_explain_tells_which_row_is_waited_for_since_when_and_whether_that_is_too_long(
    compressor_harness: Harness, command: Command, waiting: str
) -> None:
    make_wait_since(compressor_harness, PROCESSING, minutes=10)
    make_wait_since(compressor_harness, UNKNOWN, hours=2)
    ran = command.here("explain", PROCESSING)
    assert ran.code == 0
    (waits,) = [line.strip() for line in ran.out.splitlines() if line.startswith("    Waits: ")]
    assert re.search(r"since \d{4}-\d\d-\d\d .*, for 10 min\b", waits)
    assert f"Its row {waiting} is processing and shows https://example.com/videos/{PROCESSING}." in waits
    assert "CATALOG_ROW_TIMEOUT" not in waits
    ran = command.here("explain", UNKNOWN)
    assert "longer than CATALOG_ROW_TIMEOUT (1 h). The catalog has no row for it." in ran.out
    assert f"Row {waiting} (480p, processing) names another file, processing_480p.mp4." in ran.out


def test_explain_tells_that_the_row_of_what_the_compressor_uploaded_itself_was_found(
    compressor_harness: Harness,
    command: Command,
    compressor: Compressor,  # noqa: F811
    video: bytes,
) -> None:
    row = compressor.begin(PROCESSING, "480p")
    uploaded = f"https://lam-brk.s3.ap-south-1.amazonaws.com/videos/{PROCESSING.replace('.mp4', '.mov')}"
    compressor.set_url(row, uploaded)
    compressor_harness.put(PROCESSING, video)
    assert f"Its row {row} is processing and shows {uploaded}." in command.here("explain", PROCESSING).out


def test_explain_tells_which_row_keeps_a_published_copy(
    compressor_harness: Harness,
    command: Command,
    compressor: Compressor,  # noqa: F811
    video: bytes,
) -> None:
    publish(compressor_harness, compressor, READY, video)
    row = compressor.begin(READY)
    compressor_harness.step(State.PUBLISHED)
    (waits,) = [line.strip() for line in command.here("explain", READY).out.splitlines() if "Waits: " in line]
    assert waits.startswith(
        f"Waits: The compressor is encoding to this path: catalog row {row} has been processing since 20"
    )


def test_status_and_list_tell_how_many_wait_and_how_many_of_them_too_long(
    compressor_harness: Harness, command: Command, waiting: str
) -> None:
    make_wait_since(compressor_harness, UNKNOWN, hours=2)
    summary = command.here("status", "--json").json()
    assert (summary["awaiting_row"]["uploads"], summary["awaiting_row"]["overdue"]) == (2, 1)
    assert summary["awaiting_row"]["oldest_since"] is not None
    assert summary["orphans"] == 0
    ran = command.here("status").out
    assert "Waiting for their catalog rows: 2, 1 for longer than CATALOG_ROW_TIMEOUT (1 h); " in ran
    assert command.here("list").out.count(" awaits-row ") == 2


def test_status_tells_of_orphans_as_the_daemon_last_saw_them(
    compressor_harness: Harness, command: Command
) -> None:
    doubt = "The compressor's table is empty."
    compressor_harness.app.ledger.heartbeat({"phase": "running", "orphans": 3, "orphans_doubted": doubt})
    assert command.here("status", "--json").json()["orphans"] == 3
    shown = command.here("status").out
    assert "Objects whose catalog rows were deleted: 3; `video-uploader audit`" in shown
    assert f"No object is deleted for missing catalog rows: {doubt}" in shown


def test_a_dry_run_goes_by_the_rows_whether_or_not_the_ledger_knows_the_file(
    compressor_harness: Harness,
    command: Command,
    compressor: Compressor,  # noqa: F811
    waiting: str,
    video: bytes,
) -> None:
    """The original's row names its quality, although its name says another; nothing is changed by it."""
    named = f"{VIDEO_ID}/clip_720p.mp4"
    for path in (READY, FAILED, named):
        compressor_harness.write(path, video)
    ready = compressor.encode(READY)
    compressor.fail(compressor.begin(FAILED, "360p"))
    original = compressor.encode(named, "original")
    key = f"videos/{VIDEO_ID}/clip_720p_original.mp4"
    ran = command("run", "--once", "--dry-run")
    assert (ran.code, ran.err) == (0, "")
    assert sorted(ran.out.splitlines()[:-1]) == sorted(
        [
            f"upload  {READY}: to videos/{READY}, as quality 720p: row {ready} is ready",
            f"upload  {named}: to {key}, as quality original: row {original} is ready",
            f"reject  {FAILED}: The compressor reports that the encode failed.",
            f"wait    {PROCESSING}: The compressor is still encoding: its newest row is processing.",
            f"wait    {UNKNOWN}: The compressor's catalog has no row for it yet.",
        ]
    )
    assert ran.out.endswith("Nothing was done. 1 to reject, 2 to upload, 2 to wait\n")
    assert len(compressor_harness.app.ledger.uploads()) == 2


def test_a_dry_run_needs_no_ledger_to_ask_the_catalog(command: Command) -> None:
    """Before the first migration there is only the compressor's table."""
    ran = command("run", "--once", "--dry-run")
    assert (ran.code, ran.out) == (0, "Nothing was done. There is no file.\n")
    assert command.here("db", "status").code == 1


def outcomes(compressor_harness: Harness) -> dict[str, str]:
    app = compressor_harness.app
    found = list(check_catalog(app.settings, app.context.database, ledger_is_current=True))
    assert all(result.remedy for result in found if result.outcome != "ok")
    return {result.name: result.outcome.value for result in found}


def test_doctor_is_content_with_the_compressors_table_as_it_is(
    compressor_harness: Harness,
    compressor: Compressor,  # noqa: F811
    video: bytes,
) -> None:
    publish(compressor_harness, compressor, READY, video)
    assert compressor_harness.row(READY).state is State.PUBLISHED
    assert outcomes(compressor_harness) == dict.fromkeys(
        ("catalog", "catalog URL", "catalog index", "catalog clock"), "ok"
    )


def test_doctor_warns_of_a_table_without_a_useful_index(
    compressor_harness: Harness,
    compressor: Compressor,  # noqa: F811
) -> None:
    """An index of some rows only, or one that begins with another column, does not find a video's rows."""
    with psycopg.connect(compressor.url) as connection:
        connection.execute("DROP INDEX video_qualities_by_video")
        connection.execute("CREATE INDEX ON video_qualities (quality, video_id)")
    assert outcomes(compressor_harness)["catalog index"] == "warning"


def test_doctor_sees_a_row_of_the_future(
    compressor_harness: Harness,
    compressor: Compressor,  # noqa: F811
    video: bytes,
) -> None:
    """A compressor five hours east of the server's time zone."""
    row = compressor.encode(READY)
    with psycopg.connect(compressor.url) as connection:
        connection.execute(
            "UPDATE video_qualities SET created_at = created_at + interval '5 hours' WHERE id = %s", [row]
        )
    compressor_harness.put(READY, video)
    assert compressor_harness.admit_waiting() == 1
    assert outcomes(compressor_harness)["catalog clock"] == "warning"


def test_doctor_fails_where_the_compressors_table_is_not(
    compressor_harness: Harness,
    compressor: Compressor,  # noqa: F811
) -> None:
    with psycopg.connect(compressor.url) as connection:
        connection.execute("ALTER TABLE video_qualities RENAME TO other")
    found = outcomes(compressor_harness)
    assert (found["catalog"], found["catalog URL"]) == ("failed", "warning")
