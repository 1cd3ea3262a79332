"""Odd settings, commands, callers and other programs at work beside the real daemon: nothing is harmed."""

from __future__ import annotations

import os
import signal
import uuid
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import psycopg
import pytest

from storage import S3Service
from tests.compressor.database import add_video
from tests.faults.files_at_stake import BYSTANDERS, FilesAtStake
from tests.faults.going_well import going_well
from tests.support.catalog_rows import BASE_URL, CatalogRows
from tests.support.daemon_process import command, environment_of, running_daemon
from tests.support.daemon_process import rows as rows_of_ledger
from tests.support.harness import BUCKET, VIDEO_ID, MakeSettings
from tests.support.s3_server import S3Server, config_for
from watcher.settings.model import Settings

NAME = "odd_720p.mp4"
PATH = f"{VIDEO_ID}/{NAME}"
SECRET = "kingfisher-of-the-harbour"


@pytest.fixture
def beside(settings: MakeSettings, rows: CatalogRows) -> Settings:
    """A daemon beside the compressor."""
    add_video(rows.url, BYSTANDERS)
    return settings(DATABASE_URL=rows.url, CATALOG="compressor")


@pytest.mark.fault("settings that name PostgreSQL's server and no database")
def test_another_database_is_never_taken_for_the_compressors(
    beside: Settings, rows: CatalogRows, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """The compressor's own default, `lambrk`, is not there; no ledger of SQLite is made."""
    server = parse_qs(urlsplit(rows.url).query)["host"][0]
    rows.insert(NAME, "720p")
    files_at_stake.put(beside, PATH, video)
    environment = {"DATABASE_URL": "", "CATALOG": "", "POSTGRES_HOST": server, "POSTGRES_USER": "postgres"}
    with running_daemon(beside, environment=environment) as daemon:
        files_at_stake.inject()
        daemon.expect("start_waiting")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert b"lambrk" in daemon.raw
    state = os.path.dirname(beside.completed_dir)
    assert [name for name in os.listdir(state) if "sqlite" in name] == []
    files_at_stake.over()
    with going_well(beside) as daemon:
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
        files_at_stake.bystander(daemon, beside, video, rows)
    files_at_stake.judge(beside)


@pytest.mark.fault("secret with a control character in the settings")
def test_a_secret_that_no_header_takes_is_refused_and_not_told(
    chosen: Settings, video: bytes, files_at_stake: FilesAtStake
) -> None:
    files_at_stake.put(chosen, PATH, video)
    with running_daemon(chosen, environment={"AWS_SESSION_TOKEN": f"{SECRET}\x01tail"}) as daemon:
        files_at_stake.inject()
        assert daemon.wait(30) == 2
    assert b"AWS_SESSION_TOKEN" in daemon.raw
    assert SECRET.encode() not in daemon.raw
    assert b"tail" not in daemon.raw
    files_at_stake.over()
    with going_well(chosen) as daemon:
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
        files_at_stake.bystander(daemon, chosen, video)
    files_at_stake.judge(chosen)


@pytest.mark.fault("library called with a hostile id, name or quality")
def test_what_names_no_rendition_puts_nothing_into_the_bucket(
    chosen: Settings, server: S3Server, video: bytes, files_at_stake: FilesAtStake
) -> None:
    hostile: list[tuple[Any, Any, Any]] = [
        ("../../other", NAME, "720p"),
        ("", NAME, "720p"),
        (None, NAME, "720p"),
        (uuid.UUID(VIDEO_ID), "../x.mp4", "720p"),
        (uuid.UUID(VIDEO_ID), "a\nb.mp4", "720p"),
        (VIDEO_ID, NAME, "a/b"),
        (VIDEO_ID, NAME, "4320p"),
    ]
    with going_well(chosen) as daemon, S3Service(config_for(server.url, BUCKET)) as service:
        path = files_at_stake.put(chosen, PATH, video)
        for names in hostile:
            assert service.upload_file(path, *names) is None
            assert not service.file_exists(*names)
            files_at_stake.inject()
        files_at_stake.bystander(daemon, chosen, video)
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
    files_at_stake.judge(chosen)


@pytest.mark.fault("compressor updates two rows in one transaction")
def test_the_compressor_is_never_ended_for_a_row_of_ours(
    beside: Settings, rows: CatalogRows, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """Its rows are those of one file, which the daemon would lock in the other order, if it waited."""
    other = f"{VIDEO_ID}/odd_480p.mp4"
    rows.insert("odd_480p.mp4", "480p")
    first, second = sorted(rows.insert(NAME, "720p") for _ in range(2))
    update = "UPDATE video_qualities SET updated_at = now() WHERE id = %s"
    with going_well(beside) as daemon, psycopg.connect(rows.url) as compressor:
        # Of two sessions that wait for each other, the one is ended that notices it first.
        compressor.execute("SET deadlock_timeout = '10ms'")
        compressor.execute(update, [second])
        files_at_stake.put(beside, PATH, video)
        files_at_stake.inject()
        daemon.expect("upload_verified", path=PATH)
        while not (is_any_waiting(rows) or is_told_of_a_lock(beside)):
            daemon.read(0.02)
        compressor.execute(update, [first])
        files_at_stake.put(beside, other, video + b"\0\0\0\x08free")
        files_at_stake.bystander(daemon, beside, video, rows)
        # Of the same video, and no row of it is locked.
        files_at_stake.others_waited(daemon, other)
        compressor.commit()
        files_at_stake.over()
        for path in (PATH, other):
            daemon.expect("upload_released", path=path)
        files_at_stake.recovered()
    files_at_stake.judge(beside)


def is_any_waiting(rows: CatalogRows) -> bool:
    """Whether any session waits for a lock."""
    asked = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(rows.connection.execute(asked).fetchall())


def is_told_of_a_lock(settings: Settings) -> bool:
    """Whether an upload says that it does not wait for a lock."""
    return any("locked" in (upload.last_error or "") for upload in rows_of_ledger(settings))


@pytest.mark.fault("original in a format that is no MP4")
def test_an_original_of_any_format_is_uploaded(
    beside: Settings, rows: CatalogRows, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """The compressor copies it as it is; its object keeps the extension."""
    rows.insert("clip.wmv", "original", url=f"{BASE_URL}/{VIDEO_ID}/clip.wmv")
    content = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + video
    with going_well(beside) as daemon:
        target = files_at_stake.put(
            beside, f"{VIDEO_ID}/clip.wmv", content, at_stake=f"{VIDEO_ID}/clip_original.wmv"
        )
        files_at_stake.inject()
        files_at_stake.bystander(daemon, beside, video, rows)
        daemon.expect("upload_released", path=f"{VIDEO_ID}/clip.wmv")
        files_at_stake.recovered()
    assert not os.path.exists(target)
    files_at_stake.judge(beside)


@pytest.mark.fault("row of an upload that the compressor made itself")
def test_a_row_that_shows_an_object_of_the_compressor_is_given_the_url_of_ours(
    beside: Settings, rows: CatalogRows, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """Its URL is not encoded, and has the extension of the source."""
    name = "odd 1%_720p.mp4"
    row = rows.insert(name, "720p", url=f"https://old.example/videos/{VIDEO_ID}/odd 1%_720p.mov")
    with going_well(beside) as daemon:
        files_at_stake.put(beside, f"{VIDEO_ID}/{name}", video)
        files_at_stake.inject()
        files_at_stake.bystander(daemon, beside, video, rows)
        daemon.expect("upload_released", path=f"{VIDEO_ID}/{name}")
        files_at_stake.recovered()
    assert rows.url_of(row).endswith(f"/{BUCKET}/videos/{VIDEO_ID}/{quote(name)}")
    files_at_stake.judge(beside)


@pytest.mark.fault("bucket changed in the settings")
def test_an_audit_after_a_change_of_the_bucket_calls_nothing_lost(
    chosen: Settings, server: S3Server, video: bytes, files_at_stake: FilesAtStake
) -> None:
    with going_well(chosen) as daemon:
        files_at_stake.put(chosen, PATH, video)
        daemon.expect("upload_released", path=PATH)
        files_at_stake.bystander(daemon, chosen, video)
    server.create_bucket("another-bucket")
    files_at_stake.inject()
    changed = chosen.model_copy(update={"aws_s3_bucket": "another-bucket"})
    assert environment_of(changed)["AWS_S3_BUCKET"] == "another-bucket"
    audit = command(changed, "audit")
    assert (audit.returncode, "LOST" in audit.stdout.upper()) == (0, False), audit.stdout + audit.stderr
    files_at_stake.judge(chosen)


@pytest.mark.fault("`run --once` beside a file that is still written")
def test_one_pass_ends_although_a_file_does_not(
    chosen: Settings, video: bytes, files_at_stake: FilesAtStake
) -> None:
    target = files_at_stake.put(chosen, f"{PATH}.part", video, at_stake=PATH)
    os.rename(target, target.removesuffix(".part"))
    whole = files_at_stake.put(chosen, f"{BYSTANDERS}/1_144p.mp4", video + b"\0\0\0\x08free")
    with open(target.removesuffix(".part"), "ab"):
        files_at_stake.inject()
        with running_daemon(chosen, "--once") as once:
            files_at_stake.others_waited(once, f"{BYSTANDERS}/1_144p.mp4")
            assert once.wait(60) == 1
        assert PATH.encode() in once.raw
    assert not os.path.exists(whole)
    files_at_stake.over()
    with running_daemon(chosen, "--once") as once:
        once.expect("upload_released", path=PATH)
        files_at_stake.recovered()
        assert once.wait(60) == 0
    files_at_stake.judge(chosen)
