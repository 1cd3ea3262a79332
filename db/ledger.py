"""The ledger: what was done with every file and what has to be done next.

Every change of a row is made here, in one transaction with the event that records it. `Upload.claim` is a
fencing token: a write is accepted only while the row has the state and the claim number of the `Upload` that
is passed, and every new claim and every end of one increments the number.
"""

import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any, Unpack

from peewee import SQL, fn

from db.errors import ClaimLostError, IllegalTransitionError, UnknownUploadError
from db.fields import Dialect
from db.records import (
    JSON,
    Admission,
    CatalogRow,
    Found,
    Identity,
    InstanceReport,
    Observer,
    Progress,
    Proof,
    Turn,
    Upload,
    check_facts,
)
from db.states import OPEN_STATES, STOPPED_STATES, TRANSITIONS, State
from db.turns import LedgerTurns
from db.upload_queries import fence_of

_AT_ONCE = timedelta(0)
_STAMPS: Mapping[State, str] = {
    State.VERIFIED: "verified_at",
    State.PUBLISHED: "published_at",
    State.RELEASED: "released_at",
}
_UNPROVEN: Mapping[str, int | None] = {
    "verified_at": None,
    "published_at": None,
    "etag": None,
    "version_id": None,
    "confirmed_by": None,
    "bytes_sent": 0,
}


class Ledger(LedgerTurns):
    """The ledger of one instance, for reading and writing.

    Methods that take an `Upload` raise ClaimLostError, and change nothing, if its row has changed since.
    """

    observer: Observer | None = None

    _started_at: datetime | None = None
    """The time of the first heartbeat."""
    heartbeat_at: datetime | None = None
    """The time of the last heartbeat that was written."""

    # Rows and states

    def enqueue(
        self,
        path: str,
        *,
        video_id: str,
        filename: str,
        quality: str,
        object_key: str,
        identity: Identity,
        finding: str | None = None,
        awaits_row: bool = False,
    ) -> Upload | None:
        """Add a pending upload for new content at `path`, due now or waiting at the catalog gate from now on.

        The live upload of the path becomes `superseded` and its claim is lost. Returns None if this very
        content has been added in the meantime, by another daemon on a shared directory.
        """
        uploads = self._uploads
        with self.database.transaction(f"enqueue {path}"):
            self.lock_path(path)
            now = self.now()
            replaced = list(self.records(self._live_of_path.run(path=path).rows))
            if any(upload.holds(identity) for upload in replaced):
                return None
            if replaced:
                ended = {"state": State.SUPERSEDED, "changed_at": now, "due_at": now, "awaits_row": False}
                uploads.update(ended | self._end_of_claim).where(
                    uploads.id.in_([upload.id for upload in replaced])
                ).execute()
            inserted = self._insert.run(
                turn=self._turn_of(video_id, quality, identity.size),
                path=path,
                video_id=video_id,
                filename=filename,
                quality=quality,
                object_key=object_key,
                finding=finding,
                awaits_row=awaits_row,
                state=State.PENDING,
                due_at=now,
                discovered_at=now,
                changed_at=now,
                **asdict(identity),
            )
            new_id = inserted.rows[0][0] if inserted.rows else inserted.last_id
            for upload in replaced:
                self._upload_events.append(upload.id, now, State.SUPERSEDED, f"by upload {new_id}")
            detail = f"{identity.size} bytes at {path}"
            self._upload_events.append(new_id, now, "discovered", detail, may_repeat=False)
            return next(self.records(inserted.rows)) if inserted.rows else self._get(new_id)

    def add_rebuilt(
        self,
        path: str,
        *,
        video_id: str,
        filename: str,
        quality: str,
        object_key: str,
        identity: Identity,
        written_at: datetime,
        detail: str,
        **facts: Unpack[Found],
    ) -> Upload:
        """Add the released upload of an object that was written at `written_at`, whose own row was lost.

        Its only event is `rebuilt`.
        """
        with self.database.transaction(f"rebuild {path}"):
            now = self.now()
            times = ("due_at", "changed_at", "verified_at", "published_at", "released_at")
            new_id = self._uploads.insert(
                instance=self.instance,
                path=path,
                video_id=video_id,
                filename=filename,
                quality=quality,
                object_key=object_key,
                state=State.RELEASED,
                discovered_at=min(written_at, now),
                **dict.fromkeys(times, now),
                **asdict(identity),
                **check_facts(facts, Found),
            ).execute()
            self._upload_events.append(new_id, now, "rebuilt", detail, may_repeat=False)
            return self._get(new_id)

    def lock_path(self, path: str) -> None:
        """Keep others from adding an upload for the path until the end of the transaction.

        Does nothing on SQLite, where a transaction holds the only write lock.
        """
        if self.database.dialect is Dialect.POSTGRESQL:
            with self.database.operation("lock a path") as connected:
                connected.execute_sql(
                    "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"{self.instance}/{path}",)
                )

    def update_identity(self, upload: Upload, identity: Identity) -> Upload:
        """Record that the same content has another identity now (device numbers can change at boot).

        Needs no claim and disturbs none. Raises UnknownUploadError.
        """
        uploads = self._uploads
        with self.database.transaction("update a file's identity"):
            self.receipts.unfold(upload.id)
            uploads.update(**asdict(identity)).where(self._in_instance, uploads.id == upload.id).execute()
            self._upload_events.append(
                upload.id,
                self.now(),
                "identity",
                f"the same content has another {upload.identity.changes_to(identity)}",
            )
            return self._get(upload.id)

    def record(self, upload: Upload, **facts: Unpack[Progress]) -> Upload:
        """Record the progress of a claimed upload. Its state and claim stay."""
        with self.database.transaction_of_one_statement("record an upload's progress"):
            return self._change(upload, check_facts(facts, Progress))

    def advance(
        self,
        upload: Upload,
        to: State,
        *,
        detail: str = "",
        due_in: timedelta = _AT_ONCE,
        error: str | None = None,
        error_code: str | None = None,
        **facts: Unpack[Proof],
    ) -> Upload:
        """Move an upload to another state: the one guarded transition. Its next stage is due after `due_in`.

        Ends the claim, resets the attempts, and replaces the last error by `error` and `error_code`. An
        upload that moves back to `pending` loses its proof.

        Raises IllegalTransitionError if `to` cannot follow, ClaimLostError if the row has changed since.
        """
        if to not in TRANSITIONS[upload.state]:
            raise IllegalTransitionError(upload.id, upload.state, to)
        with self.database.transaction(f"make an upload {to}"):
            now = self.now()
            values: dict[str, Any] = {
                "state": to,
                "changed_at": now,
                "due_at": now + due_in,
                "attempts": 0,
                "awaits_row": False,
                "last_error": error,
                "error_code": error_code,
                "turn": self._turn_after(upload, to),
            }
            if to is State.PENDING:
                values |= _UNPROVEN
            if to in _STAMPS:
                values[_STAMPS[to]] = now
            if to is State.VERIFIED:
                values["multipart_id"] = None
            changed = self._change(upload, values | check_facts(facts, Proof), ends_claim=True)
            # An upload returns to a state only by way of `pending`.
            may_repeat = to is State.PENDING
            self._upload_events.append(upload.id, now, to, detail or error or "", may_repeat=may_repeat)
            is_recorded = self.observer is not None and self.observer.record(changed)
        if self.observer is not None and is_recorded:
            # Within another transaction this is too early: what began that has to do it, too.
            self.observer.wake()
        return changed

    def reopen(self, upload_id: int, *, reason: str, finding: str | None = None) -> Upload:
        """Make a rejected, failed or gone upload pending again, due now; `finding` is of its container.

        Raises UnknownUploadError, and IllegalTransitionError if it is in any other state.
        """
        with self.database.transaction(f"reopen upload {upload_id}"):
            self.receipts.unfold(upload_id)
            upload = self._get(upload_id)
            if upload.state not in STOPPED_STATES:
                raise IllegalTransitionError(upload_id, upload.state, State.PENDING)
            reopened = self.advance(upload, State.PENDING, detail=reason)
            return reopened if finding is None else self._change(reopened, {"finding": finding})

    def mark_multipart_aborted(self, upload: Upload) -> bool:
        """Record that the upload's multipart upload was aborted. False if it has another one by now.

        Needs no claim: it is called for uploads that have none.
        """
        uploads = self._uploads
        same = (uploads.id == upload.id) & (uploads.multipart_id == upload.multipart_id)
        with self.database.transaction("record that a multipart upload was aborted"):
            if not uploads.update(multipart_id=None).where(self._in_instance, same).execute():
                return False
            self._upload_events.append(
                upload.id, self.now(), "aborted", f"multipart upload {upload.multipart_id}"
            )
            return True

    def mark_object_deleted(self, upload: Upload, detail: str) -> None:
        """Record that the object was deleted on purpose. A released upload keeps its proof as a receipt."""
        uploads = self._uploads
        unproven = uploads.update(dict(_UNPROVEN)).where(self._in_instance, uploads.id == upload.id)
        with self.database.transaction("record that an object was deleted"):
            self.receipts.unfold(upload.id)
            unproven.where(uploads.state == State.GONE).execute()
            self._upload_events.append(upload.id, self.now(), "object-deleted", detail)

    def append_event(self, upload_id: int, event: str, detail: str) -> None:
        """Append an event to the upload's events. Raises UnknownUploadError."""
        with self.database.transaction("append an event"):
            self.receipts.unfold(upload_id)
            self._get(upload_id)
            self._upload_events.append(upload_id, self.now(), event, detail)

    # Claims

    def claim(
        self,
        state: State,
        limit: int,
        *,
        lease: timedelta,
        horizon: timedelta,
        other_than: Collection[int] | None = None,
        small_only: bool = False,
        playable_for: timedelta | None = None,
    ) -> list[Upload]:
        """Claim at most `limit` uploads in `state` that are due and not claimed, longest due first.

        Before them those that an operator has prioritized. With `playable_for` those come next of whose video
        nothing is uploaded yet (`Turn`); but half of the places have, as long as there are any, those that
        have been due for longer than that. With `small_only` only those whose file has at most `SMALL_BYTES`.

        With `other_than` those that became due last are claimed first, and none with these ids: an upload
        that fails often has neighbours that fail with it.

        The claims last for `lease`, which `renew_claims` extends; then another worker may claim the uploads.
        An upload due later than `horizon` (the longest backoff) from now counts as due: the clock must have
        jumped; so does one whose claim ends later than any can. An upload at the catalog gate is never due.
        """
        with self.database.transaction("claim uploads"):
            now = self.now()
            # Two ranges of one index; a single condition with OR would read every row that is not due yet.
            how: dict[str, Any] = {"state": state, "now": now, "lease": lease, "other_than": other_than}
            chosen = self._claimable(limit, small_only, until=now, after=None, **how)
            if state is State.PENDING and other_than is None:
                chosen = self._in_turn(chosen, limit, small_only, playable_for, **how)
            if len(chosen) < limit:
                chosen += self._claimable(
                    limit - len(chosen), small_only, until=None, after=now + horizon, **how
                )
            if not chosen:
                return []
            until = now + lease
            self._take.run(ids=[upload.id for upload in chosen], until=until)
        # The rows were locked, so their new values are known without another query.
        return [
            replace(upload, claim=upload.claim + 1, claimed_by=self.worker, claimed_until=until)
            for upload in chosen
        ]

    def claim_one(self, upload_id: int, *, lease: timedelta) -> Upload | None:
        """Claim one upload, whatever its state; None if it is claimed already or does not exist.

        For work beside the stages; `release_claim` ends the claim.
        """
        uploads = self._uploads
        with self.database.transaction("claim an upload"):
            self.receipts.unfold(upload_id)
            now = self.now()
            values = {"claim": uploads.claim + 1, "claimed_by": self.worker, "claimed_until": now + lease}
            is_free = self._is_free(*self._limits_of_claims(now, lease))
            claiming = uploads.update(values).where(self._in_instance, uploads.id == upload_id, is_free)
            return self._get(upload_id) if claiming.execute() else None

    def renew_claims(self, claims: Iterable[Upload], lease: timedelta) -> None:
        """Extend the claims that are still valid to `lease` from now; lost ones stay lost.

        A row that another session has locked is skipped: two renewals may fail before a claim expires.
        """
        alike: dict[tuple[State, int], list[int]] = {}
        for upload in claims:
            alike.setdefault((upload.state, upload.claim), []).append(upload.id)
        with self.database.transaction("renew claims"):
            until = self.now() + lease
            # One statement for all rows with the same claim number, which most rows share.
            for (state, claim), ids in alike.items():
                self._renew.run(ids=ids, state=state, claim=claim, until=until)

    def require_claim(self, upload: Upload) -> None:
        """Check that the claim is still valid, before an action that no later write can fence.

        Raises ClaimLostError if the row has changed since.
        """
        if not self._fenced.run(**fence_of(upload)).rows:
            raise ClaimLostError(upload.id, upload.claim)

    def release_claim(self, upload: Upload) -> None:
        """End a claim and change nothing else. Does nothing if the claim was lost."""
        with self.database.transaction("end a claim"):
            self._update.run(True, False, **fence_of(upload))

    def return_claim(self, upload: Upload) -> None:
        """End a claim and make the upload due now, no attempt counted. Does nothing if the claim was lost."""
        with self.database.transaction("return a claim"):
            self._update.run(True, False, **fence_of(upload), due_at=self.now())

    def release_all_claims(self) -> int:
        """End every claim of this worker; returns how many there were.

        For the start of a daemon whose file lock proves that no other one runs under its name.
        """
        uploads = self._uploads
        # Scans the whole table, once a run. An index of claims would slow each of them down, and the one that
        # SQLite would choose for the bare column visits the table in the order of the paths.
        is_own = (
            self._is_of_instance & uploads.claimed_until.is_null(False) & (uploads.claimed_by == self.worker)
        )
        with self.database.transaction("end the claims of an earlier run"):
            # The claim of a row that is locked expires by itself.
            return int(uploads.update(**self._end_of_claim).where(self._unlocked(is_own)).execute())

    # Due times

    def postpone(
        self, upload: Upload, *, delay: timedelta, error: str, error_code: str, count: bool = True
    ) -> Upload:
        """Record a failure and retry the upload's present stage after `delay`. Ends the claim.

        `count` makes it an attempt; a failure that is not counted gets one event while its error is the same.
        """
        with self.database.transaction("postpone an upload"):
            now = self.now()
            values = {
                "attempts": upload.attempts + count,
                "due_at": now + delay,
                "last_error": error,
                "error_code": error_code,
            }
            changed = self._change(upload, values, ends_claim=True)
            if count or error != upload.last_error:
                self._upload_events.append(upload.id, now, "postponed", error)
            return changed

    def defer(self, upload: Upload, *, delay: timedelta, reason: str, code: str) -> Upload:
        """Run the upload's present stage again after `delay`, because a precondition is not met yet.

        Ends the claim. It is no failure: no attempt, no error, and one event while the code is the same.
        """
        with self.database.transaction("defer an upload"):
            now = self.now()
            return self._wait(upload, now, {"due_at": now + delay}, reason, code)

    def make_due(self, which: Iterable[int] | State) -> int:
        """Make uploads that wait after an error due now and reset their attempts; returns how many.

        `which` is a state or the ids of uploads. Changes only open uploads without a claim, and of those only
        the ones with an error: what waits for retention keeps waiting.
        """
        uploads = self._uploads
        wanted = uploads.state == which if isinstance(which, State) else uploads.id.in_(list(which))
        waiting = (
            uploads.state.in_(sorted(OPEN_STATES))
            & uploads.last_error.is_null(False)
            & uploads.claimed_until.is_null()
        )
        with self.database.transaction("make waiting uploads due"):
            now = self.now()
            due = list(uploads.select(uploads.id).where(self._in_instance, wanted, waiting).scalars())
            for upload_id in due:
                uploads.update(due_at=now, attempts=0).where(uploads.id == upload_id, waiting).execute()
                self._upload_events.append(upload_id, now, "hurried", "due now instead of later")
            return len(due)

    def end_backoff(self, ids: Collection[int] = (), *, codes: Collection[str] = ()) -> int:
        """Make uploads due now that wait after an error whose cause has ended; returns how many.

        Those with these ids, and those whose error has one of these codes. Their attempts stay. Changes only
        open uploads without a claim, in one statement.
        """
        uploads = self._uploads
        with self.database.transaction("end the backoff of uploads"):
            now = self.now()
            waiting = (
                self._in_instance
                & (uploads.id.in_(list(ids)) | uploads.error_code.in_(sorted(codes)))
                & uploads.state.in_(sorted(OPEN_STATES))
                & uploads.last_error.is_null(False)
                & uploads.claimed_until.is_null()
                & (uploads.due_at > now)
            )
            return int(uploads.update(due_at=now).where(self._unlocked(waiting)).execute())

    def make_due_for_space(self, state: State, *, size: int, limit: int, waiting_for: str) -> int:
        """Make the longest waiting uploads of a state due now, until `size` bytes of files are due.

        Returns how many were made due. Changes at most `limit` uploads, only those whose `error_code` is
        `waiting_for` or not set: a failed upload keeps its backoff. Bytes that are due already count.
        """
        uploads = self._uploads
        has_not_failed = uploads.error_code.is_null() | (uploads.error_code == waiting_for)
        with self.database.transaction("make uploads due to free space"):
            now = self.now()
            due_already: Any = uploads.select(fn.COALESCE(fn.SUM(uploads.size), 0)).where(
                self._is_queued(state), uploads.due_at <= now
            )
            left = size - int(due_already.scalar())
            waiting: Any = uploads.select(uploads.id, uploads.size).where(
                self._is_queued(state), uploads.due_at > now, uploads.claimed_until.is_null(), has_not_failed
            )
            chosen: list[int] = []
            for upload_id, file_size in waiting.order_by(uploads.due_at, uploads.id).limit(limit).tuples():
                if left <= 0:
                    break
                left -= file_size
                chosen.append(upload_id)
            if chosen:
                free = uploads.id.in_(chosen) & uploads.claimed_until.is_null()
                uploads.update(due_at=now).where(free).execute()
            return len(chosen)

    def reschedule_published(self, retention: timedelta) -> int:
        """Make every published upload without a claim due `retention` after its publication.

        For a retention that has changed; what an operator wants released stays due. Returns how many uploads
        there were, without those that another session has locked: what becomes due is checked against the
        retention anyway.
        """
        uploads = self._uploads
        waiting = (
            self._in_instance
            & (uploads.state == State.PUBLISHED)
            & uploads.claimed_until.is_null()
            & (uploads.turn != Turn.BY_HAND.value)
        )
        if self.database.dialect is Dialect.POSTGRESQL:
            due: Any = uploads.published_at + SQL("%s", (retention,))
        else:
            # The fixed-width text of `db.fields`; SQLite counts in milliseconds.
            shift = f"+{retention.total_seconds():.3f} seconds"
            due = fn.strftime("%Y-%m-%dT%H:%M:%f000Z", uploads.published_at, shift)
        with self.database.transaction("reschedule the published uploads"):
            return int(uploads.update(due_at=due).where(self._unlocked(waiting)).execute())

    # The catalog gate: an upload there is pending and not claimable; `due_at` is when its wait began.

    def await_row(self, upload: Upload, *, reason: str, code: str) -> Upload:
        """Make a pending upload wait at the catalog gate from now on. Ends the claim; it is no failure.

        There is one event while the code is the same. Raises ClaimLostError.
        """
        with self.database.transaction("make an upload wait for its catalog row"):
            now = self.now()
            return self._wait(upload, now, {"due_at": now, "awaits_row": True}, reason, code)

    def admit(self, upload: Upload, admission: Admission) -> Upload:
        """Let an upload through the catalog gate: it is due now. Raises ClaimLostError."""
        with self.database.transaction("let an upload through the catalog gate"):
            now = self.now()
            values: dict[str, Any] = {"awaits_row": False, "due_at": now, "error_code": None, **admission}
            changed = self._change(upload, values, ends_claim=True)
            self._upload_events.append(
                upload.id, now, "admitted", f"for catalog row {admission['catalog_row_id']}"
            )
            return changed

    def leave_gate(self, upload: Upload) -> Upload:
        """Take an upload from the catalog gate undecided, so that the first stage checks its file."""
        with self.database.transaction("take an upload from the catalog gate"):
            values = {"awaits_row": False, "due_at": self.now()}
            return self._change(upload, values, ends_claim=True)

    def note_newer_row(self, upload: Upload, row: CatalogRow) -> None:
        """Record that the same content belongs to a newer catalog row, too. Needs no claim, disturbs none."""
        with self.database.transaction("record a newer catalog row"):
            self.receipts.unfold(upload.id)
            self._note_row.run(number=upload.id, row_id=row.id, row_at=row.order_time)

    # Instances

    def heartbeat(self, report: Mapping[str, JSON]) -> InstanceReport | None:
        """Record that this worker's daemon, the calling process, is alive, and its report.

        Returns the report that it replaces, which another process may have written. Raises DatabaseError if
        the database has been replaced by another one since the last heartbeat (`Database.mark`).
        """
        instances = self.database.tables.instances
        self.database.doubt()
        with self.database.transaction("write the daemon's report"):
            replaced = self.instance_report()
            now = self.now()
            self._started_at = self._started_at or now
            values = {
                "pid": os.getpid(),
                "started_at": self._started_at,
                "heartbeat_at": now,
                "report": json.dumps(report),
            }
            insert = instances.insert(instance=self.worker, **values)
            insert.on_conflict(conflict_target=[instances.instance], update=values).execute()
        self.heartbeat_at = now
        self.database.mark(self.worker, now)
        return replaced

    def add_up_counts(self) -> None:
        """Add up what `counts` reads, so that it stays quick; for the daemon to call now and then."""
        self._state_counts.add_up(self.now())

    # Fenced writes

    def _wait(
        self, upload: Upload, now: datetime, values: Mapping[str, Any], reason: str, code: str
    ) -> Upload:
        """Make an upload wait without an error, and append an event unless it waits for the same already."""
        no_error = {"last_error": None, "error_code": code}
        changed = self._change(upload, {**values, **no_error}, ends_claim=True)
        if code != upload.error_code:
            self._upload_events.append(upload.id, now, "waiting", reason)
        return changed

    def _change(self, upload: Upload, values: Mapping[str, Any], *, ends_claim: bool = False) -> Upload:
        if not values:
            return self._get(upload.id)
        returns = self.database.returns_rows
        result = self._update.run(ends_claim, returns, **fence_of(upload), **values)
        if (len(result.rows) if returns else result.changed) != 1:
            raise ClaimLostError(upload.id, upload.claim)
        return next(self.records(result.rows)) if returns else self._get(upload.id)

    def _get(self, upload_id: int) -> Upload:
        found = next(self.records(self._by_id.run(number=upload_id).rows), None)
        if found is None:
            raise UnknownUploadError(upload_id)
        return found
