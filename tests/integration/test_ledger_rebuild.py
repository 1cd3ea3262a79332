"""`ledger rebuild` makes a lost ledger again from bucket, catalog and disk, and sends nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from db import Ledger, State, open_database
from storage import ObjectHead
from tests.support.catalog_harness import LOCAL, Compressor, compressor, publish  # noqa: F401  # the fixture
from tests.support.cli_process import KEY, Command, strict_command
from tests.support.fault_proxy import FaultProxy
from tests.support.harness import BUCKET, VIDEO_ID, MakeHarness
from tests.support.postgres import PostgresServer
from tests.support.s3_server import S3Server
from watcher.catalog import CompressorCatalog
from watcher.filesystem import instance_lock
from watcher.operations.audit import Audit
from watcher.operations.rebuild import Outcome, Rebuild

pytestmark = pytest.mark.long

PATHS = (f"{VIDEO_ID}/good_720p.mp4", f"{VIDEO_ID}/my film.mp4", f"{VIDEO_ID}/kept_480p.mp4")
RELEASED, ORIGINAL, KEPT = PATHS
KEYS = [f"videos/{VIDEO_ID}/{name}" for name in ("good_720p.mp4", "kept_480p.mp4", "my film_original.mp4")]


@pytest.fixture(params=["sqlite", "postgresql"])
def command(request: pytest.FixtureRequest, place: str, proxy: FaultProxy) -> Iterator[Command]:
    """The command with a real S3 server and either database."""
    made = strict_command(place, proxy.url)
    released = {**made.settings, "RELEASE_AFTER_SECONDS": "0"}
    if request.param == "sqlite":
        yield Command(place, proxy.url, released)
        return
    postgres: PostgresServer = request.getfixturevalue("postgres")
    with postgres.fresh_database() as url:
        yield Command(place, proxy.url, {**released, "DATABASE_URL": url, "CATALOG": "own"})


def lose_ledger(command: Command) -> None:
    """Delete the SQLite file, or the ledger's schema."""
    url = command.settings["DATABASE_URL"]
    if url.startswith("sqlite"):
        for file in Path(command.place, "state").glob("ledger.sqlite3*"):
            file.unlink()
        return
    with psycopg.connect(url) as connection:
        connection.execute("DROP SCHEMA video_uploader CASCADE")


def writes(proxy: FaultProxy) -> list[str]:
    """The requests that could have changed an object, other than a probe of the server."""
    return [
        f"{request.method} {request.path}"
        for request in proxy.requests
        if request.method not in {"GET", "HEAD"} and "video-uploader-probe" not in request.path
    ]


def test_a_lost_ledger_is_made_again_and_nothing_is_sent(
    command: Command, proxy: FaultProxy, server: S3Server, video: bytes
) -> None:
    """`audit` finds nothing afterwards, and a run sends no byte, also of the file that is still there."""
    for path in (RELEASED, ORIGINAL):
        command.write(path, video)
    assert command("run", "--once").code == 0
    command.write(KEPT, video)
    assert command("run", "--once", RELEASE_AFTER_SECONDS="86400").code == 0
    assert not os.path.exists(os.path.join(command.completed, RELEASED))
    before = [row for row in command.here("list", "--json").json() if row["path"] != KEPT]
    lose_ledger(command)
    proxy.requests.clear()

    planned = command.here("ledger", "rebuild", "--dry-run", "--json").json()
    assert planned["counts"] | {"unknown": 0} == {
        "rebuilt": 2, "known": 0, "local": 1, "foreign": 0, "unproven": 0, "unknown": 0,
    }  # fmt: skip
    rebuilt = command.here("ledger", "rebuild", "--json").json()
    assert rebuilt["counts"] == planned["counts"]
    rows = command.here("list", "--json").json()
    kept = (
        "path",
        "object_key",
        "state",
        "size",
        "checksum",
        "etag",
        "url",
        "mtime_ns",
        "quality",
        "filename",
    )
    picture = [sorted(tuple(row[name] for name in kept) for row in one) for one in (before, rows)]
    assert picture[0] == picture[1]
    with command.ledger() as ledger:
        assert [event.event for event in ledger.events(rows[0]["id"])] == ["rebuilt"]

    assert command("run", "--once", RELEASE_AFTER_SECONDS="86400").code == 0
    audited = command.here("audit", "--json").json()
    assert (audited["findings"], audited["confirmed"]) == ([], 3)
    assert writes(proxy) == []


def test_it_refuses_a_ledger_that_has_uploads_and_adds_to_it_on_request(
    command: Command, server: S3Server, video: bytes
) -> None:
    command.write(RELEASED, video)
    assert command("run", "--once").code == 0
    lose_ledger(command)
    command.write(ORIGINAL, video)
    assert command("run", "--once").code == 0
    assert "`video-uploader ledger rebuild --add`" in command.here("ledger", "rebuild").refused(1)
    added = command.here("ledger", "rebuild", "--add", "--json").json()
    assert (added["counts"]["rebuilt"], added["counts"]["known"]) == (1, 1)
    again = command.here("ledger", "rebuild", "--add", "--json").json()
    assert (again["counts"]["rebuilt"], again["counts"]["known"]) == (0, 2)
    assert {row["path"] for row in command.here("list", "--json").json()} == {RELEASED, ORIGINAL}


def test_objects_of_others_are_left_alone(command: Command, server: S3Server, video: bytes) -> None:
    """One without this program's metadata, one with another key's, and one at no key of a rendition."""
    client = server.client()
    command.write(RELEASED, video)
    assert command("run", "--once").code == 0
    metadata = client.head_object(Bucket=BUCKET, Key=KEY)["Metadata"]
    client.put_object(Bucket=BUCKET, Key=f"videos/{VIDEO_ID}/foreign_720p.mp4", Body=b"foreign")
    copied = f"videos/{VIDEO_ID}/copy_480p.mp4"
    client.put_object(Bucket=BUCKET, Key=copied, Body=b"a copy", Metadata=metadata)
    client.put_object(Bucket=BUCKET, Key="videos/poster.jpg", Body=b"a poster", Metadata=metadata)
    lose_ledger(command)
    found = command.here("ledger", "rebuild", "--json").json()
    assert (found["counts"]["rebuilt"], found["counts"]["foreign"]) == (1, 3)
    assert [row["path"] for row in command.here("list", "--json").json()] == [RELEASED]


def test_a_dry_run_makes_no_ledger_and_a_running_daemon_is_not_disturbed(
    place: str, proxy: FaultProxy, server: S3Server
) -> None:
    command = strict_command(place, proxy.url)
    command.write(RELEASED, b"")
    assert command.here("ledger", "rebuild", "--dry-run", "--json").json()["counts"]["rebuilt"] == 0
    assert not os.path.exists(os.path.join(place, "state", "ledger.sqlite3"))
    state = os.path.join(place, "state")
    with instance_lock.held(str(instance_lock.lock_path(state, "test", command.completed))):
        assert "is running" in command.here("ledger", "rebuild").refused(1)


def test_it_refuses_beside_another_daemon_of_a_shared_directory(
    place: str, proxy: FaultProxy, server: S3Server, postgres: PostgresServer
) -> None:
    """By its heartbeat in the database; not one that has stopped, and not one of another directory."""
    with postgres.fresh_database() as url:
        made = strict_command(place, proxy.url)
        shared = {"DATABASE_URL": url, "CATALOG": "none", "SHARED_DIRECTORY": "true", "INSTANCE_ID": "here"}
        command = Command(place, proxy.url, {**made.settings, **shared})
        command.write(RELEASED, b"")
        assert command.here("db", "migrate").code == 0
        instance = f"shared:{command.completed}"
        with closing(open_database(url, schema="video_uploader")) as database:
            other = Ledger(database, instance, worker="there")
            other.heartbeat({"phase": "running", "ledger": instance})
            refused = command.here("ledger", "rebuild").refused(1)
            assert "Other daemons work on this ledger: there (heartbeat" in refused
            assert command.here("ledger", "rebuild", "--dry-run").code == 0
            other.heartbeat({"phase": "stopped", "ledger": instance})
            Ledger(database, "elsewhere").heartbeat({"phase": "running", "ledger": "elsewhere"})
            assert command.here("ledger", "rebuild").code == 0


def test_a_row_of_the_compressor_that_shows_an_object_is_a_publication_again(
    make_harness: MakeHarness,
    compressor: Compressor,  # noqa: F811
    video: bytes,
) -> None:
    """Of the row that it was published onto; `audit` and the look for orphans find nothing to do."""
    harness = make_harness(**compressor.settings)
    upload, row = publish(harness, compressor, RELEASED, video)
    harness.step(State.PUBLISHED)
    assert harness.row(RELEASED).state is State.RELEASED
    harness.write(f"{VIDEO_ID}/notes.txt", b"so that the directory is not empty")
    lose_uploads(compressor.url)
    entries = list(Rebuild(harness.app, dry_run=False).entries())
    assert [(entry.key, entry.outcome) for entry in entries] == [(KEY, Outcome.REBUILT)]
    rebuilt = harness.row(RELEASED)
    assert (rebuilt.state, rebuilt.url, rebuilt.catalog_row_id) == (State.RELEASED, upload.url, row)
    assert rebuilt.catalog_row_at == upload.catalog_row_at
    catalog = harness.app.context.catalog
    assert isinstance(catalog, CompressorCatalog)
    assert catalog.publications.by_row_id([row])[row].upload_id == rebuilt.id
    assert list(Audit(harness.app, fix=False).findings()) == []
    compressor.set_url(row, f"{LOCAL}/{RELEASED}")
    assert harness.app.catalog_thread is not None
    assert harness.app.catalog_thread.republisher.check_recent() == 1
    assert compressor.urls() == [upload.url]


@pytest.mark.parametrize("reads", [False, True])
def test_an_object_that_the_server_does_not_prove_is_read_back_or_reported(
    make_harness: MakeHarness, monkeypatch: pytest.MonkeyPatch, video: bytes, reads: bool
) -> None:
    """Without a CRC64NVME there is no receipt, unless the object may be read."""
    harness = make_harness(AWS_S3_PROVE_BY_READING=reads)
    harness.put(RELEASED, video)
    checksum = harness.finish(RELEASED).checksum
    harness.write(f"{VIDEO_ID}/notes.txt", b"so that the directory is not empty")
    tables = harness.app.context.database.tables
    tables.events.delete().execute()
    tables.uploads.delete().execute()
    head = harness.app.context.store.head
    monkeypatch.setattr(type(harness.app.context.store), "head", lambda _, key: _without_checksum(head(key)))
    entries = list(Rebuild(harness.app, dry_run=False).entries())
    assert [entry.outcome for entry in entries] == [Outcome.REBUILT if reads else Outcome.UNPROVEN]
    if reads:
        assert (harness.row(RELEASED).checksum, harness.row(RELEASED).confirmed_by) == (checksum, "reading")
    else:
        assert harness.app.ledger.current(RELEASED) is None


def lose_uploads(url: str) -> None:
    """Empty the tables of a ledger that is open."""
    with psycopg.connect(url) as connection:
        connection.execute("SET search_path TO video_uploader")
        connection.execute("TRUNCATE uploads, upload_events, receipts, publications, state_counts")


def _without_checksum(head: ObjectHead | None) -> ObjectHead | None:
    return head and replace(head, checksum=None)
