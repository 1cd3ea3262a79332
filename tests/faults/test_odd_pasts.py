"""Files, rows and ledgers with an odd past under the real daemon: the others go on at full speed."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from contextlib import closing

import pytest

from db import Ledger, State, migrate, open_database
from tests.compressor.database import add_video
from tests.faults.files_at_stake import BYSTANDERS, FilesAtStake
from tests.faults.going_well import going_well, states
from tests.support.catalog_rows import CatalogRows
from tests.support.daemon_process import running_daemon
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, no_fault
from tests.support.harness import BUCKET, VIDEO_ID, MakeSettings, ledger_file
from tests.support.video_files import padded
from watcher.filesystem.quarantine_names import quarantine_name
from watcher.settings.model import Settings

NAME = "odd_720p.mp4"
PATH = f"{VIDEO_ID}/{NAME}"
COPY_BYTES = 32 << 20


@pytest.fixture
def beside(settings: MakeSettings, rows: CatalogRows) -> Settings:
    """A daemon beside the compressor, which no later scan helps."""
    add_video(rows.url, BYSTANDERS)
    return settings(DATABASE_URL=rows.url, CATALOG="compressor", RESCAN_SECONDS=86400)


@pytest.mark.fault("device number of all copies changed, as after a boot")
def test_a_new_file_does_not_wait_until_all_copies_were_hashed_again(
    settings: MakeSettings, video: bytes, files_at_stake: FilesAtStake
) -> None:
    chosen = settings(RESCAN_SECONDS=86400, KEEP_LOCAL=True)
    paths = [f"{VIDEO_ID}/{number}_720p.mp4" for number in range(4)]
    with going_well(chosen) as daemon:
        for number, path in enumerate(paths):
            files_at_stake.put(chosen, path, padded(video, COPY_BYTES + number))
        for path in paths:
            daemon.expect("upload_published", path=path)
    with closing(sqlite3.connect(ledger_file(chosen))) as ledger, ledger:
        files_at_stake.inject(ledger.execute("UPDATE uploads SET device = device + 1").rowcount)
    with going_well(chosen) as daemon:
        files_at_stake.bystander(daemon, chosen, video)
    files_at_stake.judge(chosen)


@pytest.mark.fault("ledger moved away under the daemon and put back")
def test_nothing_is_done_without_the_ledger_and_all_of_it_after_that(
    chosen: Settings, video: bytes, files_at_stake: FilesAtStake
) -> None:
    ledger = ledger_file(chosen)
    with going_well(chosen) as daemon:
        os.rename(ledger, f"{ledger}.away")
        files_at_stake.inject()
        files_at_stake.put(chosen, PATH, video)
        daemon.expect("settling_paused")
        os.rename(f"{ledger}.away", ledger)
        files_at_stake.over()
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
    files_at_stake.judge(chosen)


@pytest.mark.fault("file in quarantine of another ledger")
def test_a_file_that_another_ledger_put_aside_is_told_and_left(
    chosen: Settings, video: bytes, files_at_stake: FilesAtStake
) -> None:
    name = quarantine_name("a_480p.mp4", 1, 1, "0123456789abcdef")
    left = files_at_stake.put(chosen, f"{VIDEO_ID}/{name}", video, at_stake=f"{VIDEO_ID}/a_480p.mp4")
    with going_well(chosen) as daemon:
        files_at_stake.inject()
        daemon.expect("aside_foreign")
        path = files_at_stake.bystander(daemon, chosen, video)
        daemon.expect("upload_released", path=path)
    assert os.path.exists(left)
    files_at_stake.judge(chosen)


@pytest.mark.fault("answer to a PUT lost, then another encode")
def test_an_object_whose_answer_was_lost_is_not_taken_for_a_foreign_one(
    chosen: Settings, proxy: FaultProxy, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """The daemon is killed before it knows that its object is there."""
    stored, ended = threading.Event(), threading.Event()

    def lose_answer(request: Request, forward: Forward) -> Answer:
        answer = forward()
        if request.method == "PUT" and NAME in request.path:
            stored.set()
            assert ended.wait(30)
        return answer

    proxy.fault = lose_answer
    with running_daemon(chosen) as daemon:
        daemon.expect("daemon_ready")
        files_at_stake.put(chosen, PATH, video)
        assert stored.wait(30)
        files_at_stake.inject()
        daemon.signal(signal.SIGKILL)
        daemon.process.wait(10)
    proxy.fault = no_fault
    ended.set()
    files_at_stake.put(chosen, PATH, padded(video, len(video) + 8))
    with going_well(chosen) as daemon:
        files_at_stake.over()
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
        files_at_stake.bystander(daemon, chosen, video)
    files_at_stake.judge(chosen)


@pytest.mark.fault("`INSTANCE_ID` in use on another machine")
def test_a_daemon_waits_for_no_claim_of_another_machine_and_takes_none(
    chosen: Settings, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """It starts once the other one has ended."""
    host = {"machine": "other", "boot": "x", "name": "elsewhere"}
    with closing(open_database(chosen.ledger_url)) as database:
        migrate(database)
        elsewhere = Ledger(database, chosen.instance)
        elsewhere.heartbeat({"phase": "running", "host": host})
        files_at_stake.put(chosen, PATH, video)
        with running_daemon(chosen) as refused:
            files_at_stake.inject()
            assert refused.wait(30) == 1
        assert states(chosen) == {}
        elsewhere.heartbeat({"phase": "stopped", "host": host})
    files_at_stake.over()
    with going_well(chosen) as daemon:
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
        files_at_stake.bystander(daemon, chosen, video)
    files_at_stake.judge(chosen)


@pytest.mark.fault("same bytes compressed again under a new row")
def test_a_new_row_for_the_same_bytes_is_public_without_a_scan(
    beside: Settings, rows: CatalogRows, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """One row comes without any file, and one while the file is written, when its content is unknown."""
    kept = beside.model_copy(update={"keep_local": True})
    rows.insert(NAME, "720p")
    with going_well(kept) as daemon:
        target = files_at_stake.put(kept, PATH, video)
        daemon.expect("upload_published", path=PATH)
        rows.insert(NAME, "720p")
        files_at_stake.inject()
        daemon.expect("upload_republished", path=PATH)
        with open(target, "r+b") as file:
            file.write(video)
            rows.insert(NAME, "720p")
            files_at_stake.inject()
            # Until it is public the catalog is queried often, and the row is found to have no file yet.
            files_at_stake.bystander(daemon, kept, video, rows)
        files_at_stake.over()
        daemon.expect("upload_republished", count=2, path=PATH)
        files_at_stake.recovered()
    shown = rows.connection.execute("SELECT url FROM video_qualities WHERE video_id = %s", [VIDEO_ID])
    assert {row["url"].endswith(f"/{BUCKET}/videos/{PATH}") for row in shown} == {True}
    files_at_stake.judge(kept)


@pytest.mark.fault("rows of an hour that the clock repeats")
def test_the_row_that_is_seen_later_is_newer_although_its_clock_says_otherwise(
    beside: Settings, rows: CatalogRows, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """The end of daylight saving time lies between the two encodes."""
    rows.insert(NAME, "720p", created_at="2026-10-25 02:50")
    with going_well(beside) as daemon:
        files_at_stake.put(beside, PATH, video)
        daemon.expect("upload_released", path=PATH)
        rows.insert(NAME, "720p", created_at="2026-10-25 02:10")
        files_at_stake.inject()
        files_at_stake.put(beside, PATH, padded(video, len(video) + 8))
        files_at_stake.bystander(daemon, beside, video, rows)
        daemon.expect("upload_released", count=2, path=PATH)
        files_at_stake.recovered()
    files_at_stake.judge(beside)


@pytest.mark.fault("rows of nine published objects deleted")
def test_a_look_for_objects_without_rows_delays_no_file(
    beside: Settings, rows: CatalogRows, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """`DELETE_ORPHANS` is false: they are kept and counted. More than ten would be doubted."""
    paths = [f"{VIDEO_ID}/{number}_720p.mp4" for number in range(9)]
    with going_well(beside) as daemon:
        for number, path in enumerate(paths):
            rows.insert(os.path.basename(path), "720p")
            files_at_stake.put(beside, path, padded(video, len(video) + 8 + number))
        for path in paths:
            daemon.expect("upload_released", path=path)
    rows.insert("kept_720p.mp4", "720p", status="processing")
    deleted = rows.connection.execute("DELETE FROM video_qualities WHERE status = 'ready'").rowcount
    files_at_stake.inject(deleted)
    # The next look would be due in an hour.
    rows.connection.execute(
        "UPDATE video_uploader.orphan_looks SET looked_at = looked_at - interval '2 hours'"
    )
    with going_well(beside) as daemon:
        daemon.expect("orphans_kept", objects=len(paths))
        files_at_stake.bystander(daemon, beside, video, rows)
    assert set(states(beside).values()) <= {State.RELEASED, State.PUBLISHED, State.VERIFIED}
    files_at_stake.judge(beside)
