"""Every change of a row is fenced, follows the transitions, sets its times and appends an event."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from db import (
    TRANSITIONS,
    ClaimLostError,
    Identity,
    IllegalTransitionError,
    Ledger,
    State,
    UnknownUploadError,
    Upload,
)
from tests.support.databases import (
    CHECKSUM,
    IDENTITY,
    PUBLIC_URL,
    STATE_FACTS,
    VIDEO_ID,
    Clock,
    advance_to,
    claim,
    enqueue,
    only,
)

STEPS_OF_THE_MAP = [(present, to) for present in State for to in sorted(TRANSITIONS[present])]
JUMPS_OFF_THE_MAP = [(present, to) for present in State for to in State if to not in TRANSITIONS[present]]


def events_of(ledger: Ledger, upload: Upload) -> list[tuple[str, str]]:
    return [(event.event, event.detail) for event in ledger.events(upload.id)]


def test_a_new_upload_is_pending_and_due(ledger: Ledger, clock: Clock) -> None:
    upload = enqueue(ledger, "v/a_720p.mp4", object_key="videos/v/a_720p.mp4", identity=IDENTITY)
    assert ledger.current("v/a_720p.mp4") == upload
    assert (upload.instance, upload.path, upload.video_id) == ("main", "v/a_720p.mp4", VIDEO_ID)
    assert (upload.filename, upload.quality, upload.identity) == ("my_video.mp4", "720p", IDENTITY)
    assert upload.object_key == "videos/v/a_720p.mp4"
    assert (upload.state, upload.attempts, upload.claim, upload.bytes_sent) == (State.PENDING, 0, 0, 0)
    assert {upload.due_at, upload.discovered_at, upload.changed_at} == {clock.now}
    assert events_of(ledger, upload) == [("discovered", "1000 bytes at v/a_720p.mp4")]


@pytest.mark.parametrize("state", [state for state in State if state.is_live])
def test_new_content_supersedes_what_stood_for_its_path(ledger: Ledger, state: State) -> None:
    old = advance_to(ledger, enqueue(ledger), state)
    new = enqueue(ledger)
    replaced = only(ledger.uploads(ids=[old.id]))
    assert ledger.current(old.path) == new
    assert (new.state, replaced.state) == (State.PENDING, State.SUPERSEDED)
    assert replaced.claim > old.claim
    assert events_of(ledger, replaced)[-1] == ("superseded", f"by upload {new.id}")


def test_new_content_leaves_a_released_upload_as_it_is(ledger: Ledger) -> None:
    old = advance_to(ledger, enqueue(ledger), State.RELEASED)
    enqueue(ledger)
    assert ledger.uploads(ids=[old.id]) == [old]


def test_the_worker_of_superseded_content_can_write_nothing_more(ledger: Ledger) -> None:
    enqueue(ledger)
    late = only(claim(ledger))
    enqueue(ledger)
    with pytest.raises(ClaimLostError):
        ledger.record(late, bytes_sent=1)
    with pytest.raises(ClaimLostError):
        ledger.advance(late, State.VERIFIED, **STATE_FACTS[State.VERIFIED])
    with pytest.raises(ClaimLostError):
        ledger.postpone(late, delay=timedelta(0), error="timeout", error_code="timeout")


def test_the_same_content_is_added_once(ledger: Ledger) -> None:
    """Two daemons on a shared directory may both find it; the second call returns None."""
    first = enqueue(ledger, identity=IDENTITY)
    again = ledger.enqueue(
        first.path,
        video_id=first.video_id,
        filename=first.filename,
        quality=first.quality,
        object_key=first.object_key,
        identity=IDENTITY,
    )
    assert again is None
    assert ledger.uploads() == [first]


def test_content_that_was_edited_in_place_is_added_although_its_identity_is_equal(ledger: Ledger) -> None:
    """But not before the content was hashed: until then the row has whatever the file has."""
    first = enqueue(ledger, identity=replace(IDENTITY, ctime_ns=1))
    names = {name: getattr(first, name) for name in ("video_id", "filename", "quality", "object_key")}
    later = replace(IDENTITY, ctime_ns=2)
    assert ledger.enqueue(first.path, **names, identity=later) is None
    ledger.record(first, checksum=CHECKSUM)
    assert ledger.enqueue(first.path, **names, identity=replace(IDENTITY, ctime_ns=None)) is None
    second = ledger.enqueue(first.path, **names, identity=later)
    assert second is not None
    assert (second.state, second.ctime_ns) == (State.PENDING, 2)
    assert ledger.uploads(ids=[first.id])[0].state is State.SUPERSEDED


def test_the_ctime_counts_for_hashed_content_and_where_both_are_known() -> None:
    identity = replace(IDENTITY, ctime_ns=1)
    assert identity == replace(identity, ctime_ns=2)
    assert not identity.is_exactly(replace(identity, ctime_ns=2))
    assert not identity.is_exactly(replace(identity, size=2))
    for one, other in ((1, 1), (None, 2), (1, None)):
        assert replace(identity, ctime_ns=one).is_exactly(replace(identity, ctime_ns=other))


def test_an_identity_is_adopted_without_disturbing_the_work(ledger: Ledger) -> None:
    enqueue(ledger)
    claimed = only(claim(ledger))
    renumbered = Identity(device=1, inode=2, size=1_000, mtime_ns=3)
    adopted = ledger.update_identity(claimed, renumbered)
    assert adopted.identity == renumbered
    assert (adopted.state, adopted.claim, adopted.claimed_by) == (State.PENDING, claimed.claim, "main")
    event = ledger.events(claimed.id)[-1]
    assert event.event == "identity"
    assert event.detail.startswith("the same content has another device")
    assert ledger.record(claimed, bytes_sent=1).identity == renumbered


@pytest.mark.parametrize(("present", "to"), STEPS_OF_THE_MAP)
def test_a_step_of_the_map_is_taken_stamped_and_told(
    ledger: Ledger, clock: Clock, present: State, to: State
) -> None:
    upload = advance_to(ledger, enqueue(ledger), present)
    now = clock.advance(minutes=1)
    moved = ledger.advance(upload, to, detail="why", due_in=timedelta(hours=1), **STATE_FACTS.get(to, {}))
    assert ledger.current(upload.path) == moved
    assert (moved.state, moved.changed_at, moved.due_at) == (to, now, now + timedelta(hours=1))
    assert events_of(ledger, upload)[-1] == (to.value, "why")
    stamps: dict[State, Any] = {
        State.VERIFIED: moved.verified_at,
        State.PUBLISHED: moved.published_at,
        State.RELEASED: moved.released_at,
    }
    assert stamps.get(to, now) == now


@pytest.mark.parametrize(("present", "to"), JUMPS_OFF_THE_MAP)
def test_a_jump_off_the_map_is_refused(ledger: Ledger, present: State, to: State) -> None:
    upload = advance_to(ledger, enqueue(ledger), present)
    with pytest.raises(IllegalTransitionError, match=f"is {present} and cannot become {to}"):
        ledger.advance(upload, to, **STATE_FACTS.get(to, {}))
    assert ledger.current(upload.path) == upload


@pytest.mark.parametrize("present", [State.VERIFIED, State.PUBLISHED])
def test_an_upload_whose_object_is_lost_loses_its_proof(ledger: Ledger, present: State) -> None:
    upload = advance_to(ledger, enqueue(ledger), present)
    lost = ledger.advance(upload, State.PENDING, error="S3 has lost it", error_code="object-lost")
    proof = (lost.verified_at, lost.published_at, lost.etag, lost.version_id, lost.confirmed_by)
    assert proof == (None,) * 5
    assert (lost.bytes_sent, lost.multipart_id, lost.attempts) == (0, None, 0)
    assert (lost.last_error, lost.error_code) == ("S3 has lost it", "object-lost")
    assert lost.checksum == CHECKSUM


def test_a_step_ends_the_claim_and_forgets_the_errors(ledger: Ledger) -> None:
    upload = enqueue(ledger)
    ledger.postpone(upload, delay=timedelta(0), error="timeout", error_code="timeout")
    claimed = only(claim(ledger))
    assert (claimed.attempts, claimed.last_error) == (1, "timeout")
    verified = ledger.advance(claimed, State.VERIFIED, **STATE_FACTS[State.VERIFIED])
    assert (verified.attempts, verified.last_error, verified.error_code) == (0, None, None)
    assert (verified.claimed_by, verified.claimed_until) == (None, None)


def test_a_step_can_be_taken_once(ledger: Ledger) -> None:
    upload = enqueue(ledger)
    ledger.advance(upload, State.GONE)
    with pytest.raises(ClaimLostError):
        ledger.advance(upload, State.VERIFIED, **STATE_FACTS[State.VERIFIED])


def test_a_snapshot_is_spent_even_if_the_row_comes_back_to_its_state(ledger: Ledger) -> None:
    late = enqueue(ledger)
    ledger.advance(late, State.GONE)
    ledger.reopen(late.id, reason="it is back")
    with pytest.raises(ClaimLostError):
        ledger.advance(late, State.FAILED)


def test_progress_is_recorded_under_the_same_claim(ledger: Ledger) -> None:
    enqueue(ledger)
    claimed = only(claim(ledger))
    for sent in (1, 2):
        recorded = ledger.record(
            claimed, checksum=CHECKSUM, multipart_id="m", part_size=8, bytes_sent=sent, url=PUBLIC_URL
        )
    assert (recorded.checksum, recorded.multipart_id, recorded.part_size) == (CHECKSUM, "m", 8)
    assert (recorded.bytes_sent, recorded.url) == (2, PUBLIC_URL)
    assert (recorded.state, recorded.claim, recorded.claimed_by) == (State.PENDING, claimed.claim, "main")


@pytest.mark.parametrize("fact", ["state", "claim", "released_at", "no_such_column"])
def test_only_facts_can_be_recorded(ledger: Ledger, fact: str) -> None:
    upload = enqueue(ledger)
    facts: dict[str, Any] = {fact: "released"}
    with pytest.raises(TypeError, match=fact):
        ledger.record(upload, **facts)
    with pytest.raises(TypeError, match=fact):
        ledger.advance(upload, State.GONE, **facts)
    assert ledger.current(upload.path) == upload


@pytest.mark.parametrize("state", [State.REJECTED, State.FAILED, State.GONE])
def test_a_stopped_upload_is_reopened(ledger: Ledger, clock: Clock, state: State) -> None:
    upload = ledger.advance(enqueue(ledger), state, error="no", error_code="no")
    now = clock.advance(days=1)
    reopened = ledger.reopen(upload.id, reason="by hand")
    assert (reopened.state, reopened.attempts, reopened.due_at) == (State.PENDING, 0, now)
    assert (reopened.last_error, reopened.error_code) == (None, None)
    assert events_of(ledger, upload)[-1] == ("pending", "by hand")


@pytest.mark.parametrize("state", [state for state in State if not state.is_stopped])
def test_any_other_upload_is_not_reopened(ledger: Ledger, state: State) -> None:
    upload = advance_to(ledger, enqueue(ledger), state)
    with pytest.raises(IllegalTransitionError):
        ledger.reopen(upload.id, reason="by hand")


def test_an_upload_that_does_not_exist_is_named(ledger: Ledger) -> None:
    with pytest.raises(UnknownUploadError, match="no upload 4711"):
        ledger.reopen(4711, reason="by hand")
    with pytest.raises(UnknownUploadError):
        ledger.append_event(4711, "event", "detail")


def test_a_postponed_upload_waits_and_counts(ledger: Ledger, clock: Clock) -> None:
    enqueue(ledger)
    claimed = only(claim(ledger))
    waiting = ledger.postpone(
        claimed, delay=timedelta(minutes=5), error="S3 timed out.", error_code="timeout"
    )
    assert (waiting.state, waiting.attempts) == (State.PENDING, 1)
    assert waiting.due_at == clock.now + timedelta(minutes=5)
    assert (waiting.last_error, waiting.error_code) == ("S3 timed out.", "timeout")
    assert waiting.claimed_by is None
    assert waiting.changed_at == claimed.changed_at
    assert events_of(ledger, claimed)[-1] == ("postponed", "S3 timed out.")
    assert claim(ledger) == []
    clock.advance(minutes=5)
    assert only(claim(ledger)).id == claimed.id


def test_a_failure_need_not_be_counted_as_an_attempt(ledger: Ledger) -> None:
    waiting = ledger.postpone(
        enqueue(ledger), delay=timedelta(seconds=1), error="not ready", error_code="gate", count=False
    )
    assert waiting.attempts == 0


def test_a_failure_that_does_not_count_has_one_event(ledger: Ledger) -> None:
    upload = enqueue(ledger)
    for error, count in (("a", False), ("a", False), ("b", False), ("b", True), ("b", True)):
        upload = ledger.postpone(upload, delay=timedelta(0), error=error, error_code="no", count=count)
    details = [detail for event, detail in events_of(ledger, upload) if event == "postponed"]
    assert details == ["a", "b", "b", "b"]


def test_a_deferred_upload_has_no_error_and_no_attempt(ledger: Ledger, clock: Clock) -> None:
    upload = ledger.postpone(enqueue(ledger), delay=timedelta(0), error="timeout", error_code="timeout")
    claimed = only(claim(ledger))
    for reason in ("the row is not ready", "the row is still not ready"):
        waiting = ledger.defer(claimed, delay=timedelta(seconds=5), reason=reason, code="gate")
        assert waiting.due_at == clock.advance(seconds=5)
        (claimed,) = claim(ledger)
    assert (waiting.state, waiting.attempts, waiting.claimed_by) == (State.PENDING, upload.attempts, None)
    assert (waiting.last_error, waiting.error_code) == (None, "gate")
    assert events_of(ledger, upload)[2:] == [("waiting", "the row is not ready")]


def test_a_new_retention_holds_for_what_is_published(ledger: Ledger, clock: Clock) -> None:
    for path in ("working", "waiting", "later"):
        verified = advance_to(ledger, enqueue(ledger, path), State.VERIFIED)
        clock.advance(seconds=1.25)
        ledger.advance(verified, State.PUBLISHED, url=PUBLIC_URL, due_in=timedelta(hours=path == "later"))
    (working,) = claim(ledger, State.PUBLISHED, limit=1)
    untouched = advance_to(ledger, enqueue(ledger, "verified"), State.VERIFIED)
    assert ledger.reschedule_published(timedelta(days=2, milliseconds=500)) == 2
    for path in ("waiting", "later"):
        upload = only(ledger.uploads(path=path))
        assert upload.published_at is not None
        assert upload.due_at == upload.published_at + timedelta(days=2, milliseconds=500)
    assert ledger.current("working") == working
    assert ledger.current("verified") == untouched


def test_a_claim_given_back_leaves_no_trace(ledger: Ledger) -> None:
    upload = enqueue(ledger)
    claimed = only(claim(ledger))
    ledger.return_claim(claimed)
    ledger.return_claim(claimed)
    again = only(claim(ledger))
    assert (again.id, again.attempts, again.due_at) == (upload.id, 0, upload.due_at)
    assert len(ledger.events(upload.id)) == 1


def test_what_was_lost_cannot_be_given_back(ledger: Ledger, clock: Clock) -> None:
    enqueue(ledger)
    late = only(claim(ledger))
    clock.advance(hours=1)
    claimed = only(claim(ledger))
    ledger.return_claim(late)
    assert ledger.current(late.path) == claimed


def test_an_upload_that_waits_after_an_error_can_be_made_due(ledger: Ledger, clock: Clock) -> None:
    waiting = [
        ledger.postpone(enqueue(ledger, path), delay=timedelta(hours=1), error="no", error_code="no")
        for path in ("a", "b", "c")
    ]
    now = clock.advance(minutes=1)
    assert ledger.make_due([waiting[0].id]) == 1
    assert [(row.due_at, row.attempts) for row in ledger.uploads(path="a")] == [(now, 0)]
    assert [upload.path for upload in claim(ledger)] == ["a"]
    assert ledger.make_due(State.PENDING) == 2
    assert {upload.path for upload in claim(ledger)} == {"b", "c"}
    assert ledger.events(waiting[0].id)[-1].event == "hurried"


def test_a_claimed_upload_or_one_without_an_error_is_not_made_due(ledger: Ledger) -> None:
    in_retention = advance_to(ledger, enqueue(ledger, "a"), State.VERIFIED)
    ledger.advance(in_retention, State.PUBLISHED, url=PUBLIC_URL, due_in=timedelta(days=1))
    ledger.postpone(enqueue(ledger, "b"), delay=timedelta(0), error="no", error_code="no")
    working = only(claim(ledger))
    stopped = ledger.advance(enqueue(ledger, "c"), State.FAILED, error="no", error_code="no")
    assert ledger.make_due([in_retention.id, working.id, stopped.id]) == 0
    assert [ledger.make_due(state) for state in State] == [0] * len(State)


def test_another_instances_uploads_are_out_of_reach(ledger: Ledger, clock: Clock) -> None:
    other = Ledger(ledger.database, "other", clock=clock)
    upload = ledger.postpone(enqueue(ledger), delay=timedelta(0), error="no", error_code="no")
    assert other.current(upload.path) is None
    assert claim(other) == []
    assert other.make_due([upload.id]) == 0
    with pytest.raises(UnknownUploadError):
        other.reopen(upload.id, reason="by hand")
    assert enqueue(other).state is State.PENDING
    assert ledger.current(upload.path) == upload


def test_a_change_of_a_row_and_its_event_are_two_statements(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """What was written is returned by the statement that wrote it, where the database can do that."""
    upload = enqueue(ledger)
    (claimed,) = claim(ledger)
    with caplog.at_level("DEBUG", "peewee"):
        verified = ledger.advance(claimed, State.VERIFIED, **STATE_FACTS[State.VERIFIED])
    said = [str(record.msg[0] if record.args else record.msg) for record in caplog.records]
    assert sum("UPDATE" in text for text in said) == 1
    assert sum("INSERT" in text for text in said) == 1
    assert not any("SELECT" in text and "uploads" in text and "DELETE" not in text for text in said)
    assert ledger.uploads(ids=[upload.id]) == [verified]


def test_the_backoffs_of_errors_with_these_codes_end_and_no_others(ledger: Ledger) -> None:
    hour = timedelta(hours=1)
    for code in ("connection", "timeout", "AccessDenied"):
        enqueue(ledger, f"{code}.mp4")
        (upload,) = claim(ledger)
        ledger.postpone(upload, delay=hour, error="It failed.", error_code=code)
    assert ledger.end_backoff(codes={"connection", "timeout"}) == 2
    due = {row.path for row in ledger.uploads() if row.due_at <= ledger.now()}
    assert due == {"connection.mp4", "timeout.mp4"}
    assert {row.attempts for row in ledger.uploads()} == {1}, "its attempts stay"
