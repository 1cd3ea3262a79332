"""An upload has at most one claim at a time, and a worker whose claim has expired writes nothing."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest

from db import ClaimLostError, Database, Identity, Ledger, State, Upload
from tests.support.databases import (
    HORIZON,
    LEASE,
    PUBLIC_URL,
    Clock,
    DatabaseAddress,
    advance_to,
    claim,
    enqueue,
    only,
)


def test_the_longest_due_are_claimed_first_and_no_more_than_wanted(ledger: Ledger, clock: Clock) -> None:
    for path in ("c", "a", "b"):
        enqueue(ledger, path)
        clock.advance(seconds=1)
    assert [upload.path for upload in claim(ledger, limit=2)] == ["c", "a"]
    assert [upload.path for upload in claim(ledger, limit=2)] == ["b"]
    assert claim(ledger, limit=2) == []
    assert claim(ledger, limit=0) == []


def test_a_probe_is_the_newest_due_upload_that_is_not_excluded(ledger: Ledger, clock: Clock) -> None:
    for path in ("a", "b", "c"):
        enqueue(ledger, path)
        clock.advance(seconds=1)
    newest = ledger.claim(State.PENDING, 1, lease=LEASE, horizon=HORIZON, other_than=[])
    assert [upload.path for upload in newest] == ["c"]
    first = only(ledger.uploads(path="a"))
    others = ledger.claim(State.PENDING, 9, lease=LEASE, horizon=HORIZON, other_than=[first.id])
    assert [upload.path for upload in others] == ["b"]
    assert ledger.claim(State.PENDING, 9, lease=LEASE, horizon=HORIZON, other_than=[first.id]) == []


def test_another_upload_is_due_if_it_can_be_claimed_or_is(ledger: Ledger, clock: Clock) -> None:
    upload = enqueue(ledger, "a")
    assert not ledger.has_other_due(upload)
    enqueue(ledger, "at the gate", awaits_row=True)
    advance_to(ledger, enqueue(ledger, "published"), State.PUBLISHED)
    assert not ledger.has_other_due(upload)
    enqueue(ledger, "b")
    assert ledger.has_other_due(upload)
    claim(ledger)
    assert ledger.has_other_due(upload)


def test_the_backoff_of_chosen_uploads_ends_and_nothing_else_changes(ledger: Ledger, clock: Clock) -> None:
    late = [enqueue(ledger, path) for path in ("a", "b", "claimed")]
    deferred = enqueue(ledger, "deferred")
    for upload in late:
        ledger.postpone(upload, delay=timedelta(minutes=5), error="x", error_code="connection")
    ledger.defer(deferred, delay=timedelta(minutes=5), reason="x", code="x")
    ledger.claim_one(late[2].id, lease=LEASE)
    assert ledger.end_backoff([late[0].id, late[2].id, deferred.id]) == 1
    hastened = only(claim(ledger))
    assert (hastened.path, hastened.attempts) == ("a", 1)


def test_a_claim_says_whose_it_is_and_until_when(ledger: Ledger, clock: Clock) -> None:
    before = enqueue(ledger)
    claimed = only(claim(ledger))
    assert (claimed.claimed_by, claimed.claimed_until) == ("main", clock.now + LEASE)
    assert claimed.claim > before.claim
    assert ledger.current(before.path) == claimed


def test_only_the_wanted_state_is_claimed(ledger: Ledger) -> None:
    for state in State:
        advance_to(ledger, enqueue(ledger, state.value), state)
    for state in State:
        assert [upload.path for upload in claim(ledger, state)] == [state.value]


def test_an_expired_claim_passes_on_and_its_late_holder_is_fenced(ledger: Ledger, clock: Clock) -> None:
    enqueue(ledger)
    late = only(claim(ledger))
    clock.now += LEASE
    claimed = only(claim(ledger))
    with pytest.raises(ClaimLostError, match=f"Claim {late.claim} on upload {late.id}"):
        ledger.record(late, bytes_sent=1)
    assert ledger.record(claimed, bytes_sent=2).bytes_sent == 2


def test_a_renewed_claim_stays(ledger: Ledger, clock: Clock) -> None:
    enqueue(ledger)
    claimed = only(claim(ledger))
    clock.now += LEASE / 2
    ledger.renew_claims([claimed], LEASE)
    clock.now += LEASE / 2
    assert claim(ledger) == []
    assert ledger.record(claimed, bytes_sent=1).claimed_until == clock.now + LEASE / 2


def test_a_lost_claim_is_not_renewed(ledger: Ledger, clock: Clock) -> None:
    enqueue(ledger)
    late = only(claim(ledger))
    clock.now += LEASE
    claimed = only(claim(ledger))
    clock.now += LEASE / 2
    ledger.renew_claims([late], LEASE)
    assert ledger.current(claimed.path) == claimed


def test_the_claims_of_an_earlier_run_are_freed(ledger: Ledger, database: Database, clock: Clock) -> None:
    other = Ledger(database, "other", clock=clock)
    enqueue(other)
    theirs = only(claim(other))
    enqueue(ledger)
    late = only(claim(ledger))
    assert ledger.release_all_claims() == 1
    assert ledger.release_all_claims() == 0
    with pytest.raises(ClaimLostError):
        ledger.record(late, bytes_sent=1)
    assert only(claim(ledger)).id == late.id
    assert other.current(theirs.path) == theirs


def test_an_upload_due_beyond_the_longest_backoff_is_due_now(ledger: Ledger, clock: Clock) -> None:
    upload = enqueue(ledger)
    ledger.postpone(upload, delay=HORIZON, error="no", error_code="no")
    assert claim(ledger) == []
    assert ledger.next_due(State.PENDING, horizon=HORIZON) == clock.now + HORIZON
    clock.advance(days=-365)
    assert ledger.next_due(State.PENDING, horizon=HORIZON) == clock.now
    assert only(claim(ledger)).id == upload.id


def test_a_claim_that_was_made_since_the_time_was_read_is_not_taken_for_one_of_the_future(
    ledger: Ledger, clock: Clock
) -> None:
    """Two threads of one worker read the time in one order and claim in the other."""
    enqueue(ledger)
    clock.advance(minutes=1)
    assert len(claim(ledger)) == 1
    clock.now -= timedelta(milliseconds=1)
    assert claim(ledger) == []


def test_a_claim_from_before_the_clock_was_set_back_holds_nothing(
    ledger: Ledger, database: Database, clock: Clock
) -> None:
    """A running worker renews its claim by the new time; an abandoned one would last until the old time."""
    enqueue(ledger)
    clock.advance(minutes=10)
    late = only(claim(ledger))
    colleague = Ledger(database, "main", worker="colleague", clock=clock)
    clock.now -= timedelta(minutes=10)
    assert claim(colleague) == []
    assert only(claim(ledger)).id == late.id
    assert claim(ledger) == []
    clock.now -= timedelta(days=1)
    assert only(claim(colleague)).id == late.id
    with pytest.raises(ClaimLostError):
        ledger.record(late, bytes_sent=1)


def test_the_next_due_time_is_the_earliest_at_which_a_claim_can_succeed(ledger: Ledger, clock: Clock) -> None:
    def next_due() -> timedelta | None:
        due = ledger.next_due(State.PENDING, horizon=HORIZON)
        return None if due is None else due - clock.now

    assert next_due() is None
    first = enqueue(ledger, "a")
    assert next_due() == timedelta(0)
    ledger.postpone(first, delay=timedelta(minutes=5), error="no", error_code="no")
    assert next_due() == timedelta(minutes=5)
    enqueue(ledger, "b")
    claim(ledger)
    assert next_due() == LEASE
    advance_to(ledger, enqueue(ledger, "c"), State.FAILED)
    assert next_due() == LEASE


def test_workers_in_threads_never_claim_the_same_row(database: Database, ledger: Ledger) -> None:
    rows, workers = 60, 6
    with database.transaction():
        for number in range(rows):
            enqueue(ledger, f"{number}.mp4")
    together = Barrier(workers)

    def work(name: int) -> list[int]:
        claimed: list[int] = []
        with database.session():
            together.wait(timeout=30)
            while batch := claim(ledger, limit=3):
                claimed += [upload.id for upload in batch]
        return claimed

    with ThreadPoolExecutor(workers) as pool:
        claimed = [number for batch in pool.map(work, range(workers)) for number in batch]
    assert sorted(claimed) == sorted(upload.id for upload in ledger.uploads())


CLAIM_ON_SIGNAL = """
import sys
from datetime import timedelta
from db import Ledger, State, open_database
database = open_database(sys.argv[1], schema=sys.argv[2] or None)
ledger = Ledger(database, "main")
lease = timedelta(minutes=1)
claimed = []
with database.session():
    ledger.counts()
    print("ready", flush=True)
    sys.stdin.readline()
    while batch := ledger.claim(State.PENDING, 3, lease=lease, horizon=lease * 60):
        claimed += [upload.id for upload in batch]
print(*claimed)
database.close()
"""


def test_workers_in_processes_never_claim_the_same_row(address: DatabaseAddress, database: Database) -> None:
    ledger = Ledger(database, "main")
    with database.transaction():
        for number in range(60):
            enqueue(ledger, f"{number}.mp4")
    command = [sys.executable, "-c", CLAIM_ON_SIGNAL, address.url, address.schema or ""]
    processes = [
        subprocess.Popen(
            [*command, f"worker-{number}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for number in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    claimed = [int(word) for process in processes for word in process.communicate(timeout=30)[0].split()]
    assert sorted(claimed) == sorted(upload.id for upload in ledger.uploads())


def waiting(ledger: Ledger, clock: Clock, count: int, size: int = 10) -> list[int]:
    """The ids of published uploads, a second apart, that wait for an hour."""
    numbers = []
    for number in range(count):
        identity = Identity(device=1, inode=number, size=size, mtime_ns=1)
        upload = advance_to(ledger, enqueue(ledger, f"v/{number}", identity=identity), State.VERIFIED)
        ledger.advance(upload, State.PUBLISHED, url=PUBLIC_URL, due_in=timedelta(hours=1))
        numbers.append(upload.id)
        clock.advance(seconds=1)
    return numbers


def due(ledger: Ledger) -> list[Upload]:
    return ledger.claim(State.PUBLISHED, 10, lease=LEASE, horizon=timedelta(hours=1))


def make_due_for_space(ledger: Ledger, size: int, limit: int = 10) -> int:
    return ledger.make_due_for_space(State.PUBLISHED, size=size, limit=limit, waiting_for="retention")


def test_the_longest_waiting_are_made_due_until_their_files_suffice(ledger: Ledger, clock: Clock) -> None:
    numbers = waiting(ledger, clock, 4)
    assert make_due_for_space(ledger, 11) == 2
    assert make_due_for_space(ledger, 11) == 0, "what is due already counts"
    assert make_due_for_space(ledger, 40, limit=1) == 1
    assert {upload.id for upload in due(ledger)} == set(numbers[:3])
    assert make_due_for_space(ledger, 0) == 0


def test_only_what_waits_for_nothing_else_is_made_due(ledger: Ledger, clock: Clock) -> None:
    """A failed upload keeps its backoff, and so does one that waits for something else."""
    waiting(ledger, clock, 3)
    make_due_for_space(ledger, 30)
    failed, busy, asked = due(ledger)
    hour = timedelta(hours=1)
    ledger.postpone(failed, delay=hour, error="It failed.", error_code="object-unknown")
    ledger.defer(busy, delay=hour, reason="It is being encoded.", code="catalog-busy")
    assert make_due_for_space(ledger, 30) == 0
    ledger.defer(asked, delay=hour, reason="It is kept.", code="retention")
    assert make_due_for_space(ledger, 30) == 1
    assert [upload.id for upload in due(ledger)] == [asked.id]
