"""What daemons on one ledger owe each other, step by step: nothing of the living is taken for a leftover."""

from __future__ import annotations

import os
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg import sql

from db import State, Upload
from tests.support.bucket_contents import open_multiparts
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request
from tests.support.harness import BUCKET, LEASE, VIDEO_ID, Harness, MakeSettings, open_harness, settings_for
from tests.support.postgres import PostgresServer
from tests.support.s3_server import S3Server
from tests.support.shared_directory import OpenHarness, harness_of, let_claims_run_out, shared  # noqa: F401  # fixtures
from tests.support.uploads_in_progress import KEY, content, interrupted, published
from tests.support.video_files import FREE_BOX, LARGE, PATH, padded
from watcher.app.single_pass import SinglePass
from watcher.detection import Reading
from watcher.detection.completeness import FileStatus, Finished, Unreadable, check_complete
from watcher.filesystem import removal
from watcher.filesystem.openat import FileMissingError
from watcher.filesystem.removal import Quarantined
from watcher.stages.runner import Work

pytestmark = pytest.mark.long

# The fixtures are named as parameters below.
# ruff: noqa: F811


def look(harness: Harness) -> FileStatus:
    """What a daemon finds at the path."""
    return check_complete(harness.app.tree, PATH, previous=None, now=time.monotonic(), settle_seconds=0)


def states(harness: Harness) -> list[State]:
    return [row.state for row in harness.app.ledger.uploads()]


def claim(harness: Harness, state: State) -> list[Upload]:
    """Claim what is due without running the stage."""
    horizon = harness.app.runners[state].horizon
    return harness.app.ledger.claim(state, 9, lease=LEASE, horizon=horizon)


def advance(harness: Harness, state: State, rows: list[Upload]) -> None:
    """Run the stage on rows that were claimed earlier."""
    runner = harness.app.runners[state]
    runner.stage.advance(rows, Work(runner.error_policy, lambda: False, lambda: None, lambda _: False))


def count_events(harness: Harness, event: str) -> int:
    """How often an event was recorded, over all uploads."""
    ledger = harness.app.ledger
    return sum(told.event == event for row in ledger.uploads() for told in ledger.events(row.id))


def test_daemons_with_directories_of_their_own_work_on_their_own_files_alone(
    shared: MakeSettings, server: S3Server, place: str, video: bytes
) -> None:
    """One PostgreSQL, two hosts: rows and counts are separated by instance."""
    one = shared(SHARED_DIRECTORY=False, INSTANCE_ID="one")
    other = settings_for(
        os.path.join(place, "elsewhere"),
        str(one.aws_endpoint_url),
        DATABASE_URL=one.ledger_url,
        CATALOG="none",
        INSTANCE_ID="other",
    )
    with open_harness(one, server) as a, open_harness(other, server) as b:
        a.put(PATH, video)
        b.put(f"{VIDEO_ID}/else_720p.mp4", video)
        assert [row.path for row in a.step(State.PENDING)] == [PATH]
        assert states(a) == [State.VERIFIED]
        assert states(b) == [State.PENDING]
        b.app.ledger.release_all_claims()
        assert set(a.app.ledger.counts_by_instance()) == {"one", "other"}


def test_a_new_file_that_two_daemons_see_at_once_has_one_row(
    harness_of: OpenHarness, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have asked the ledger before either has written to it."""
    a, b = harness_of("a"), harness_of("b")
    a.write(PATH, video)
    monkeypatch.setattr(b.app.ledger, "current", lambda _path: None)
    for harness in (a, b):
        harness.enqueuer.handle(PATH, look(harness), Reading())
    assert states(a) == [State.PENDING]


def test_a_changed_file_that_two_daemons_see_at_once_supersedes_once(
    harness_of: OpenHarness, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = harness_of("a"), harness_of("b")
    a.put(PATH, video)
    a.step(State.PENDING)
    before = a.row(PATH)
    a.write(PATH, video + FREE_BOX)
    monkeypatch.setattr(b.app.ledger, "current", lambda _path: before)
    for harness in (a, b):
        harness.enqueuer.handle(PATH, look(harness), Reading())
    assert states(a) == [State.SUPERSEDED, State.PENDING]


@pytest.mark.parametrize("what", ["released", "changed"])
def test_an_outdated_file_status_makes_no_row(harness_of: OpenHarness, video: bytes, what: str) -> None:
    """Between examination and record another daemon may process the file completely."""
    a, b = harness_of("a"), harness_of("b")
    a.write(PATH, video)
    found = look(b)
    assert isinstance(found, Finished)
    if what == "released":
        a.settle(PATH)
        assert a.finish(PATH).state is State.RELEASED
    else:
        a.put(PATH, video + FREE_BOX)
    before = states(a)
    b.enqueuer.handle(PATH, found, Reading())
    assert states(a) == before


def test_an_unreadable_file_that_two_daemons_see_fails_once_and_is_reopened_once(
    harness_of: OpenHarness, video: bytes
) -> None:
    a, b = harness_of("a"), harness_of("b")
    a.write(PATH, video)
    for harness in (a, b):
        harness.enqueuer.handle(PATH, Unreadable("It must not be read."))
    assert states(a) == [State.FAILED]
    seen = look(a), look(b)
    a.enqueuer.handle(PATH, seen[0], Reading())
    b.enqueuer.handle(PATH, seen[1], Reading())
    assert states(a) == [State.PENDING]
    assert count_events(a, "pending") == 1


@pytest.mark.parametrize("moment", ["before it is read", "after it is read"])
def test_a_vanished_file_that_two_daemons_miss_is_processed_once(
    harness_of: OpenHarness, video: bytes, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The second daemon finds that the row has changed, at any moment, and does nothing."""
    a, b = harness_of("a"), harness_of("b")
    a.write(PATH, video)
    a.write(f"{VIDEO_ID}/other.txt", b"")
    a.enqueuer.handle(PATH, Unreadable("It must not be read."))
    failed = a.row(PATH)
    os.unlink(a.absolute(PATH))
    a.enqueuer.handle_missing(failed)
    if moment == "after it is read":
        monkeypatch.setattr(b.app.ledger, "_get", lambda _id: failed)
    b.enqueuer.handle_missing(failed)
    monkeypatch.undo()
    assert states(a) == [State.PENDING]
    b.step(State.PENDING)
    assert states(a) == [State.GONE]


def test_a_file_in_the_middle_of_another_daemons_release_stays_in_quarantine(
    harness_of: OpenHarness, video: bytes
) -> None:
    """A daemon that starts repairs what a crash left: this file was not left by a crash."""
    a, b = harness_of("a"), harness_of("b")
    published(a, video)

    def start() -> None:
        report = b.app.scanner.scan()
        assert len(report.quarantined) == 1
        b.app.ledger.release_all_claims()
        b.app.quarantine_repair.run(report.quarantined)
        assert not os.path.exists(a.absolute(PATH))

    a.while_waiting = start
    a.step(State.PUBLISHED)
    assert states(a) == [State.RELEASED]


def test_a_file_that_a_dead_daemon_left_in_quarantine_is_repaired_by_another_one(
    harness_of: OpenHarness, video: bytes
) -> None:
    """In whichever state its row is: no stage processes a superseded one."""
    a, b = harness_of("a"), harness_of("b")
    published(a, video)
    (row,) = claim(a, State.PUBLISHED)
    removal.quarantine(a.app.tree, PATH, row.id, row.identity, token=a.app.ledger.token, claim=row.claim)
    asides = b.app.scanner.scan().quarantined
    b.app.quarantine_repair.run(asides)
    assert not os.path.exists(b.absolute(PATH))
    let_claims_run_out(b.app.context.database)
    b.app.quarantine_repair.run(asides)
    assert content(b) == video
    assert b.row(PATH).claimed_until is None


def test_an_upload_that_was_superseded_a_moment_ago_may_still_be_in_release(
    harness_of: OpenHarness, video: bytes
) -> None:
    """Its claim has ended; the daemon that has its file in quarantine concludes the release or has died."""
    a, b = harness_of("a"), harness_of("b")
    published(a, video)
    (row,) = claim(a, State.PUBLISHED)
    removal.quarantine(a.app.tree, PATH, row.id, row.identity, token=a.app.ledger.token, claim=row.claim)
    b.put(PATH, video + FREE_BOX)
    asides = b.app.scanner.scan().quarantined
    b.app.quarantine_repair.run(asides)
    assert b.app.scanner.scan().quarantined == asides
    uploads = b.app.context.database.tables.uploads
    with b.app.context.database.transaction():
        uploads.update(changed_at=row.changed_at - LEASE).where(uploads.id == row.id).execute()
    b.app.quarantine_repair.run(asides)
    assert b.app.scanner.scan().quarantined == []
    assert content(b) == video + FREE_BOX


def test_a_release_that_was_overtaken_gives_the_file_back(harness_of: OpenHarness, video: bytes) -> None:
    """It slept through its claim with the file in quarantine; the new holder has not processed it yet."""
    a, b = harness_of("a"), harness_of("b")
    published(a, video)
    taken: list[Upload] = []

    def take_over() -> None:
        let_claims_run_out(b.app.context.database)
        taken.extend(claim(b, State.PUBLISHED))

    a.while_waiting = take_over
    a.step(State.PUBLISHED)
    assert content(a) == video
    assert (a.row(PATH).state, a.row(PATH).claimed_by) == (State.PUBLISHED, "b")
    advance(b, State.PUBLISHED, taken)
    # The renaming has changed its ctime, so it is hashed again first.
    b.settle(PATH)
    b.step(State.PUBLISHED)
    assert count_events(b, "released") == 1


def test_a_release_that_was_overtaken_before_it_began_touches_nothing(
    harness_of: OpenHarness, video: bytes
) -> None:
    a, b = harness_of("a"), harness_of("b")
    published(a, video)
    late = claim(a, State.PUBLISHED)
    let_claims_run_out(b.app.context.database)
    (row,) = claim(b, State.PUBLISHED)
    seen: list[list[str]] = []
    waited = Work(a.app.runners[State.PUBLISHED].error_policy, lambda: False, lambda: None, lambda _: False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            removal, "quarantine", lambda *_args, **_kwargs: seen.append(os.listdir(a.absolute(".")))
        )
        a.app.runners[State.PUBLISHED].stage.advance(late, waited)
    assert seen == []
    assert a.row(PATH) == row


def test_an_unlink_that_comes_late_finds_nothing_under_its_name(
    harness_of: OpenHarness, video: bytes
) -> None:
    """Even after all checks: the new holder's file has another name in quarantine."""
    a, b = harness_of("a"), harness_of("b")
    published(a, video)
    (row,) = claim(a, State.PUBLISHED)
    aside = removal.quarantine(
        a.app.tree, PATH, row.id, row.identity, token=a.app.ledger.token, claim=row.claim
    )
    assert isinstance(aside, Quarantined)
    let_claims_run_out(b.app.context.database)

    def wake_up() -> None:
        with pytest.raises(FileMissingError):
            removal.delete_quarantined(a.app.tree, aside)
        assert len(os.listdir(a.absolute(VIDEO_ID))) == 1

    b.while_waiting = wake_up
    b.step(State.PUBLISHED)
    # The renaming has changed its ctime, so it is hashed again first.
    b.settle(PATH)
    b.step(State.PUBLISHED)
    assert b.waited
    assert states(b) == [State.RELEASED]


def test_a_quarantined_file_is_neither_missing_nor_gone(harness_of: OpenHarness, video: bytes) -> None:
    """A late release has it for a second, though its upload is pending again: the object was lost."""
    a, b = harness_of("a"), harness_of("b")
    row = a.put(PATH, video)
    aside = removal.quarantine(a.app.tree, PATH, row.id, row.identity, token=a.app.ledger.token, claim=7)
    assert isinstance(aside, Quarantined)
    assert b.app.scanner.scan().missing == 0
    (waiting,) = b.step(State.PENDING)
    assert (waiting.state, waiting.error_code) == (State.PENDING, "local-away")
    removal.restore(a.app.tree, aside, "It is late.")
    b.app.ledger.make_due([row.id])
    assert b.finish(PATH).state is State.RELEASED


def test_a_multipart_that_another_daemon_has_just_begun_is_not_aborted(
    harness_of: OpenHarness, server: S3Server, video: bytes
) -> None:
    """It is recorded only after the response of S3; if the daemon dies before that, it is abandoned."""
    a, b = harness_of("a"), harness_of("b")
    a.put(PATH, video)
    claim(a, State.PENDING)
    server.client().create_multipart_upload(Bucket=BUCKET, Key=KEY)
    assert b.app.abandoned_multiparts.adopt_or_abort()
    assert open_multiparts(server) == [KEY]
    let_claims_run_out(b.app.context.database)
    assert b.app.abandoned_multiparts.adopt_or_abort()
    assert open_multiparts(server) == []


def test_a_multipart_of_another_hosts_file_of_the_same_key_is_not_aborted(
    shared: MakeSettings, server: S3Server, proxy: FaultProxy, place: str, video: bytes
) -> None:
    """Each host has a file for the key, in a directory of its own; one of them is half sent."""
    one = shared(SHARED_DIRECTORY=False, INSTANCE_ID="one")
    other = settings_for(
        os.path.join(place, "elsewhere"),
        str(one.aws_endpoint_url),
        DATABASE_URL=one.ledger_url,
        CATALOG="none",
        INSTANCE_ID="other",
    )
    with open_harness(one, server) as a, open_harness(other, server) as b:
        interrupted(a, proxy, video)
        b.put(PATH, video)
        assert b.app.abandoned_multiparts.adopt_or_abort()
        assert open_multiparts(server) == [KEY]


def test_two_sweeps_of_the_same_leftover_count_it_once(
    harness_of: OpenHarness,
    server: S3Server,
    proxy: FaultProxy,
    video: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = harness_of("a"), harness_of("b")
    interrupted(a, proxy, video)
    a.put(PATH, video)
    seen = b.app.ledger.abandoned_multiparts(9)
    assert a.app.abandoned_multiparts.abort_abandoned() == 1
    monkeypatch.setattr(
        b.app.ledger, "abandoned_multiparts", lambda _limit, *, after: seen if after == 0 else []
    )
    assert b.app.abandoned_multiparts.abort_abandoned() == 0
    assert open_multiparts(server) == []


def test_a_late_upload_does_not_abort_what_another_daemon_continues(
    harness_of: OpenHarness, server: S3Server, proxy: FaultProxy, video: bytes
) -> None:
    """It finds the object in place and would abort the multipart: that belongs to another daemon now."""
    a, b = harness_of("a"), harness_of("b")
    row = interrupted(a, proxy, video)
    late = claim(a, State.PENDING)
    let_claims_run_out(b.app.context.database)
    claim(b, State.PENDING)
    server.client().put_object(
        Bucket=BUCKET, Key=KEY, Body=content(a, PATH), ChecksumAlgorithm="CRC64NVME", ACL="public-read"
    )
    advance(a, State.PENDING, late)
    assert open_multiparts(server) == [KEY]
    assert a.row(PATH).multipart_id == row.multipart_id


def test_a_late_upload_does_not_complete_its_object(
    harness_of: OpenHarness, proxy: FaultProxy, server: S3Server, video: bytes
) -> None:
    """Its last part was accepted after another daemon had claimed the row: that one completes it."""
    a, b = harness_of("a"), harness_of("b")
    a.put(PATH, padded(video, LARGE))
    taken: list[Upload] = []

    def take_over(request: Request, forward: Forward) -> Answer:
        answer = forward()
        if request.action == "UploadPart" and proxy.actions.count("UploadPart") == 3 and not taken:
            let_claims_run_out(b.app.context.database)
            taken.extend(claim(b, State.PENDING))
        return answer

    proxy.fault = take_over
    a.step(State.PENDING)
    assert "CompleteMultipartUpload" not in proxy.actions
    del proxy.requests[:]
    advance(b, State.PENDING, taken)
    assert proxy.actions.count("CompleteMultipartUpload") == 1
    assert "UploadPart" not in proxy.actions
    assert b.row(PATH).state is State.VERIFIED


def test_one_pass_does_not_wait_for_what_another_daemon_works_on_and_says_so(
    harness_of: OpenHarness, video: bytes
) -> None:
    """The other daemon renews its claim: it is alive."""
    a, b = harness_of("a"), harness_of("b")
    a.put(PATH, video)
    a.app.ledger.claim(State.PENDING, 1, lease=LEASE / 12, horizon=LEASE)
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    started = time.monotonic()
    undone = SinglePass(b.app, signals=signals).run()
    assert undone == [f"{PATH}: pending: a is working on it"]
    assert time.monotonic() - started < LEASE.total_seconds() / 12


def test_a_row_released_while_its_path_is_enqueued_keeps_its_receipt(
    harness_of: OpenHarness, postgres: PostgresServer, video: bytes
) -> None:
    """The transaction that adds new content waits for the one that releases the old row."""
    a, b = harness_of("a"), harness_of("b")
    published(a, video)
    (row,) = claim(a, State.PUBLISHED)
    a.write(PATH, video + FREE_BOX)
    adding = threading.Thread(target=b.settle, args=(PATH,))
    with a.app.context.database.transaction():
        a.app.ledger.advance(row, State.RELEASED)
        adding.start()
        deadline = time.monotonic() + 20
        while not waiting_for_a_row(postgres):
            assert time.monotonic() < deadline
    adding.join(20)
    assert states(b) == [State.RELEASED, State.PENDING]


def test_two_daemons_that_add_the_same_file_take_turns(
    harness_of: OpenHarness, postgres: PostgresServer, video: bytes
) -> None:
    """Neither can see the row of the other before that is committed."""
    a, b = harness_of("a"), harness_of("b")
    a.write(PATH, video)
    with ThreadPoolExecutor(1) as pool:
        with a.app.context.database.transaction():
            a.settle(PATH)
            adding = pool.submit(b.settle, PATH)
            deadline = time.monotonic() + 20
            while not waiting_for_a_row(postgres):
                assert time.monotonic() < deadline
        known = adding.result(20)
    assert known == a.row(PATH)
    assert states(b) == [State.PENDING]


def waiting_for_a_row(postgres: PostgresServer) -> bool:
    """Whether a connection waits for a lock."""
    return bool(
        postgres.execute(
            sql.SQL(
                "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname LIKE 'test\\_%'"
            )
        )
    )
