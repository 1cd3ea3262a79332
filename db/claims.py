"""Who works on what: hands out uploads one worker at a time and keeps latecomers from writing."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from peewee import fn

from db.errors import ClaimLostError, UnknownUploadError
from db.fields import Dialect
from db.ledger_reader import LedgerReader
from db.records import Upload
from db.states import State

LONGEST_LEASE = timedelta(hours=1)
"""No daemon, however it is configured, claims for longer."""


class Claims(LedgerReader):
    """The part of the ledger that workers get their uploads from.

    The number `Upload.claim` is the fence: a worker's writes count only as long as the row still has it.
    Every new claim, and every end of one, makes it grow.
    """

    def claim(self, state: State, limit: int, *, lease: timedelta, horizon: timedelta) -> list[Upload]:
        """Take at most `limit` uploads in `state` that are due and that nobody holds, longest due first.

        They are this worker's for `lease`, which `renew` extends; then another may claim them. An upload due
        later than `horizon` (the longest backoff) from now is due now: the clock must have jumped; so is one
        whose claim ends later than any can. What waits at the catalog gate is not due, however long it waits.
        """
        uploads = self._uploads
        with self._database.transaction("claim uploads"):
            now = self.now()
            # Two ranges of one index, where a single condition with OR would read all that is not due yet.
            free = self._is_free(now, lease)
            chosen = self._claimable(state, free, uploads.due_at <= now, limit)
            if len(chosen) < limit:
                chosen += self._claimable(state, free, uploads.due_at > now + horizon, limit - len(chosen))
            if not chosen:
                return []
            until = now + lease
            numbers = uploads.id.in_([values["id"] for values in chosen])
            uploads.update(claim=uploads.claim + 1, claimed_by=self.worker, claimed_until=until).where(
                numbers
            ).execute()
        # They were locked: what has become of them is known without reading them again.
        for values in chosen:
            values.update(claim=values["claim"] + 1, claimed_by=self.worker, claimed_until=until)
        return [Upload(**values) for values in chosen]

    def _claimable(self, state: State, free: Any, due: Any, limit: int) -> list[dict[str, Any]]:
        uploads = self._uploads
        query: Any = uploads.select(self._whole).where(self._is_queued(state), due, free)
        query = query.order_by(uploads.due_at, uploads.id).limit(limit)
        if self._database.dialect is Dialect.POSTGRESQL:
            query = query.for_update(skip_locked=True)
        return self._read("read what can be claimed", query)

    def renew(self, claims: Iterable[Upload], lease: timedelta) -> None:
        """Keep the claims that still stand for another `lease` from now; those that were lost stay lost."""
        uploads = self._uploads
        alike: dict[tuple[State, int], list[int]] = {}
        for upload in claims:
            alike.setdefault((upload.state, upload.claim), []).append(upload.id)
        with self._database.transaction("renew claims"):
            until = self.now() + lease
            # A statement for all that were claimed equally often, which is most of them.
            for (state, claim), ids in alike.items():
                uploads.update(claimed_until=until).where(
                    uploads.id.in_(ids), uploads.state == state, uploads.claim == claim
                ).execute()

    def release_all_claims(self) -> int:
        """Free every claim of this worker and say how many there were.

        For the start of a daemon that knows, by its file lock, that no other goes by its name.
        """
        uploads = self._uploads
        # Reads the whole table, once a run. An index of claims would make each of them dearer, and the one
        # that SQLite would take for the bare column leads through the table in the order of its paths.
        ours = (uploads.instance + "") == self.instance
        with self._database.transaction("free the claims of an earlier run"):
            held = uploads.update(**self._end_of_claim).where(
                ours, uploads.claimed_until.is_null(False), uploads.claimed_by == self.worker
            )
            return int(held.execute())

    def make_due_for_space(self, state: State, *, size: int, limit: int, waiting_for: str) -> int:
        """Make the uploads of a state due now that have waited longest, until `size` bytes of files are.

        At most `limit` uploads, of those that only wait for `waiting_for` (an `error_code`) or have not been
        asked yet; what failed keeps its backoff. Bytes that are due already count. Says how many were made
        due.
        """
        uploads = self._uploads
        is_patient = uploads.error_code.is_null() | (uploads.error_code == waiting_for)
        with self._database.transaction("make waiting uploads due"):
            now = self.now()
            under_way: Any = uploads.select(fn.COALESCE(fn.SUM(uploads.size), 0)).where(
                self._is_queued(state), uploads.due_at <= now
            )
            left = size - int(under_way.scalar())
            waiting: Any = uploads.select(uploads.id, uploads.size).where(
                self._is_queued(state),
                uploads.due_at > now,
                uploads.claimed_until.is_null(),
                is_patient,
            )
            chosen: list[int] = []
            for upload_id, bytes_of_it in waiting.order_by(uploads.due_at, uploads.id).limit(limit).tuples():
                if left <= 0:
                    break
                left -= bytes_of_it
                chosen.append(upload_id)
            if chosen:
                free = uploads.id.in_(chosen) & uploads.claimed_until.is_null()
                uploads.update(due_at=now).where(free).execute()
            return len(chosen)

    def claim_one(self, upload_id: int, *, lease: timedelta) -> Upload | None:
        """Take one upload, whatever its state, that nobody holds; None if somebody does, or there is none.

        For work beside the stages: `release_claim` gives it back.
        """
        uploads = self._uploads
        with self._database.transaction("take an upload"):
            now = self.now()
            values = {"claim": uploads.claim + 1, "claimed_by": self.worker, "claimed_until": now + lease}
            mine = uploads.update(values).where(
                self._ours, uploads.id == upload_id, self._is_free(now, lease)
            )
            return self._get(upload_id) if mine.execute() else None

    def release_claim(self, upload: Upload) -> None:
        """End a claim and change nothing else; one that was lost already is not ours to end."""
        with self._database.transaction("let an upload go"):
            self._uploads.update(self._end_of_claim).where(*self._still(upload)).execute()

    def require_claim(self, upload: Upload) -> None:
        """Make sure that the row is still ours, before something is done that no later write can fence.

        Raises ClaimLostError if it has moved on.
        """
        uploads = self._uploads
        query = uploads.select().where(*self._still(upload))
        if self._first("see whether a claim still stands", query) is None:
            raise ClaimLostError(upload.id, upload.claim)

    def is_held(self, upload: Upload) -> bool:
        """Whether somebody, be it this daemon, holds the upload and has lately been alive."""
        return upload.claimed_until is not None and upload.claimed_until > self.now()

    def is_held_by_another(self, upload: Upload) -> bool:
        """Whether another daemon than this one holds the upload and has lately been alive."""
        return upload.claimed_by != self.worker and self.is_held(upload)

    def return_claim(self, upload: Upload) -> None:
        """Give a claim back as if it had never been taken: due now, no attempt counted.

        A claim that was lost already is not ours to give back, and nothing happens.
        """
        uploads = self._uploads
        with self._database.transaction("give a claim back"):
            values = {"due_at": self.now(), **self._end_of_claim}
            uploads.update(values).where(*self._still(upload)).execute()

    def _is_free(self, now: datetime, lease: timedelta) -> Any:
        """Whether nobody holds the row, or whoever did gave no sign of life for too long.

        Or did so before the clock was set back: no claim lasts longer than the longest, and none of ours
        longer than `lease`. Twice that is asked for, because one of ours that was made since `now` was read,
        a moment ago, ends a moment after `now + lease`.
        """
        held_by, until = self._uploads.claimed_by, self._uploads.claimed_until
        is_ours = (held_by == self.worker) & (until > now + 2 * lease)
        return until.is_null() | (until <= now) | (until > now + max(lease, LONGEST_LEASE)) | is_ours

    def lock_path(self, path: str) -> None:
        """Until the end of the transaction nobody else adds an upload for the path (SQLite: any upload)."""
        if self._database.dialect is Dialect.POSTGRESQL:
            with self._database.operation("take turns at a path") as connected:
                connected.execute_sql(
                    "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"{self.instance}/{path}",)
                )

    @property
    def _end_of_claim(self) -> dict[str, Any]:
        """Nobody holds the row any more, and whoever thinks to is fenced off."""
        return {"claimed_by": None, "claimed_until": None, "claim": self._uploads.claim + 1}

    def _still(self, upload: Upload) -> tuple[Any, ...]:
        """The fence: true of the row only as long as it has not moved on from what `upload` knows."""
        uploads = self._uploads
        return uploads.id == upload.id, uploads.state == upload.state, uploads.claim == upload.claim

    def _change(self, upload: Upload, values: Mapping[str, Any]) -> Upload:
        uploads = self._uploads
        if values and not uploads.update(values).where(*self._still(upload)).execute():
            raise ClaimLostError(upload.id, upload.claim)
        return self._get(upload.id)

    def _get(self, upload_id: int) -> Upload:
        uploads = self._uploads
        found = self._first("read an upload", uploads.select().where(self._ours, uploads.id == upload_id))
        if found is None:
            raise UnknownUploadError(upload_id)
        return found
