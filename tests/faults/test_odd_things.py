"""One file, row or answer is odd under the real daemon: the others go on at full speed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psycopg
import pytest

from db import State
from tests.compressor.database import add_video, delete_video
from tests.faults.files_at_stake import BYSTANDERS, FilesAtStake
from tests.faults.going_well import going_well, states
from tests.support.bucket_contents import keys
from tests.support.catalog_rows import BASE_URL, CatalogRows
from tests.support.daemon_process import command, running_daemon
from tests.support.fault_proxy import FaultProxy
from tests.support.harness import VIDEO_ID, MakeSettings, settings_for
from tests.support.pgbouncer import PgBouncerUnavailableError, running_pgbouncer
from tests.support.postgres import PostgresServer, PostgresUnavailableError
from tests.support.s3_server import S3Server
from tests.support.standby import ServerPair, running_pair
from watcher.settings.model import Settings

NAME = "odd_720p.mp4"
PATH = f"{VIDEO_ID}/{NAME}"
AFTER_2262 = 13_569_465_600
"""The year 2400 in seconds: its nanoseconds do not fit into 64 bits."""


@pytest.fixture
def beside(settings: MakeSettings, rows: CatalogRows) -> Settings:
    """A daemon beside the compressor."""
    add_video(rows.url, BYSTANDERS)
    return settings(DATABASE_URL=rows.url, CATALOG="compressor", CATALOG_ROW_TIMEOUT=1)


@pytest.mark.fault("file with a modification time after 2262")
def test_a_time_that_no_database_can_hold_fails_its_file_alone(
    chosen: Settings, video: bytes, files_at_stake: FilesAtStake
) -> None:
    with going_well(chosen) as daemon:
        target = files_at_stake.put(chosen, f"{PATH}.part", video, at_stake=PATH)
        os.utime(target, (AFTER_2262, AFTER_2262))
        if os.stat(target).st_mtime != AFTER_2262:
            pytest.skip("this file system cannot hold a time after 2262")
        os.rename(target, target.removesuffix(".part"))
        files_at_stake.inject()
        daemon.expect("upload_failed", path=PATH, code="unrecordable")
        files_at_stake.bystander(daemon, chosen, video)
        os.utime(target.removesuffix(".part"))
        files_at_stake.over()
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
    files_at_stake.judge(chosen)


@pytest.mark.fault("file with two names, of which one is removed later")
def test_a_file_that_is_linked_into_place_is_seen_when_its_other_name_is_gone(
    chosen: Settings, video: bytes, files_at_stake: FilesAtStake
) -> None:
    with going_well(chosen) as daemon:
        target = files_at_stake.put(chosen, f"{PATH}.part", video, at_stake=PATH)
        os.link(target, target.removesuffix(".part"))
        files_at_stake.inject()
        files_at_stake.bystander(daemon, chosen, video)
        os.unlink(target)
        files_at_stake.over()
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
    files_at_stake.judge(chosen)


@pytest.mark.fault("file with something like a quality in its name")
def test_what_looks_like_a_rendition_and_is_none_is_left_alone(
    chosen: Settings, video: bytes, server: S3Server, files_at_stake: FilesAtStake
) -> None:
    with going_well(chosen) as daemon:
        for name in ("a_4320p.mp4", "a_4320P.mp4", "a-720p.mp4"):
            files_at_stake.put(chosen, f"{VIDEO_ID}/{name}", video)
            files_at_stake.inject()
        path = files_at_stake.bystander(daemon, chosen, video)
        daemon.expect("upload_released", path=path)
    assert keys(server) == {f"videos/{path}"}
    files_at_stake.judge(chosen)


@pytest.mark.fault("file damaged by two encoders at once")
def test_a_damaged_file_is_not_sent_until_it_is_whole(
    chosen: Settings, video: bytes, files_at_stake: FilesAtStake
) -> None:
    with going_well(chosen) as daemon:
        # Where the second box begins, the other encoder has written something else.
        second = int.from_bytes(video[:4], "big")
        files_at_stake.put(chosen, PATH, video[:second] + b"\xa5" * 1000 + video[second:])
        files_at_stake.inject()
        assert "Compress the video again" in daemon.expect("upload_rejected", path=PATH)["reason"]
        files_at_stake.bystander(daemon, chosen, video)
        files_at_stake.put(chosen, PATH, video)
        files_at_stake.over()
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
    files_at_stake.judge(chosen)


@pytest.mark.fault("catalog row without a URL")
def test_a_row_without_a_url_concerns_its_own_file_alone(
    beside: Settings, rows: CatalogRows, video: bytes, files_at_stake: FilesAtStake
) -> None:
    rows.connection.execute("ALTER TABLE video_qualities ALTER url DROP NOT NULL")
    row = rows.insert(NAME, "720p")
    rows.update(row, url=None, status="processing")
    with going_well(beside) as daemon:
        files_at_stake.put(beside, PATH, video)
        files_at_stake.inject()
        daemon.expect("catalog_row_odd")
        files_at_stake.bystander(daemon, beside, video, rows)
        assert states(beside)[PATH] is State.PENDING
        rows.update(row, url=f"{BASE_URL}/{PATH}", status="ready")
        files_at_stake.over()
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
    files_at_stake.judge(beside)


@pytest.mark.fault("catalog row locked by another session")
def test_a_locked_row_is_waited_for_by_its_own_file_alone(
    beside: Settings, rows: CatalogRows, video: bytes, files_at_stake: FilesAtStake
) -> None:
    row = rows.insert(NAME, "720p")
    with going_well(beside) as daemon, psycopg.connect(rows.url) as other:
        other.execute("SELECT FROM video_qualities WHERE id = %s FOR UPDATE", [row])
        files_at_stake.put(beside, PATH, video)
        files_at_stake.inject()
        daemon.expect("upload_verified", path=PATH)
        for _ in range(3):
            files_at_stake.bystander(daemon, beside, video, rows)
        daemon.expect("attempt_failed", path=PATH)
        assert states(beside)[PATH] is State.VERIFIED
        assert "locked" in command(beside, "explain", PATH).stdout
        other.rollback()
        files_at_stake.over()
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
    files_at_stake.judge(beside)


@pytest.mark.fault("`processing` row of a killed compressor")
def test_a_stale_row_keeps_no_copy_once_a_newer_one_is_ready(
    beside: Settings, rows: CatalogRows, video: bytes, files_at_stake: FilesAtStake
) -> None:
    rows.insert(NAME, "720p", status="processing")
    with going_well(beside) as daemon:
        files_at_stake.put(beside, PATH, video)
        files_at_stake.inject()
        daemon.expect("file_finished", path=PATH)
        files_at_stake.bystander(daemon, beside, video, rows)
        rows.insert(NAME, "720p")
        files_at_stake.over()
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
    files_at_stake.judge(beside)


@pytest.mark.fault("video deleted before its file was sent")
def test_the_files_of_a_deleted_video_do_not_wait_for_ever(
    beside: Settings, rows: CatalogRows, video: bytes, files_at_stake: FilesAtStake
) -> None:
    rows.insert(NAME, "720p", status="processing")
    with running_daemon(beside) as daemon:
        files_at_stake.put(beside, PATH, video)
        daemon.expect("file_finished", path=PATH)
        delete_video(rows.url, VIDEO_ID)
        files_at_stake.inject()
        files_at_stake.bystander(daemon, beside, video, rows)
        daemon.expect("upload_gone", path=PATH)
        files_at_stake.recovered()
    assert os.path.exists(os.path.join(beside.completed_dir, PATH))
    files_at_stake.judge(beside)


@pytest.mark.fault("PgBouncer in transaction mode before PostgreSQL")
def test_a_pooler_changes_nothing(
    place: str, proxy: FaultProxy, postgres: PostgresServer, video: bytes, files_at_stake: FilesAtStake
) -> None:
    try:
        with postgres.fresh_database() as url, running_pgbouncer(postgres, "transaction") as bouncer:
            chosen = settings_for(place, proxy.url, DATABASE_URL=bouncer.url_through(url), CATALOG="own")
            with going_well(chosen) as daemon:
                files_at_stake.inject()
                for number in range(8):
                    files_at_stake.put(
                        chosen, f"{VIDEO_ID}/{number}_720p.mp4", video + b"\0\0\0\x08free" * number
                    )
                path = files_at_stake.bystander(daemon, chosen, video)
                for waited in (path, *(f"{VIDEO_ID}/{number}_720p.mp4" for number in range(8))):
                    daemon.expect("upload_released", path=waited)
                assert command(chosen, "status").returncode == 0
            files_at_stake.judge(chosen)
    except PgBouncerUnavailableError as exc:
        exc.skip()


@pytest.fixture
def pair() -> Iterator[ServerPair]:
    try:
        with running_pair() as servers:
            yield servers
    except PostgresUnavailableError as exc:
        exc.skip()


@pytest.mark.fault("PostgreSQL switched over to a standby, the old server only reads")
def test_every_thread_leaves_a_server_that_only_reads(
    place: str, proxy: FaultProxy, pair: ServerPair, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """It keeps its connections: no error but its refusals tells of the switchover."""
    chosen = settings_for(place, proxy.url, DATABASE_URL=pair.url, CATALOG="own")
    with going_well(chosen) as daemon:
        files_at_stake.put(chosen, PATH, video)
        daemon.expect("upload_released", path=PATH)
        pair.switch_over()
        files_at_stake.inject()
        for _ in range(3):
            path = files_at_stake.bystander(daemon, chosen, video)
        daemon.expect("upload_released", path=path)
        files_at_stake.recovered()
    files_at_stake.judge(chosen)
