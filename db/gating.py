"""The catalog gate's half of the ledger: which uploads wait for a catalog row, and which were let through."""

from datetime import datetime, timedelta
from typing import Any

from peewee import SQL, fn

from db.claims import Claims
from db.facts import Admission
from db.records import CatalogRow, Upload
from db.states import State


class Gating(Claims):
    """The part of the ledger that the catalog gate works on.

    What waits at the gate is pending and can not be claimed; its `due_at` says since when it waits.
    """

    def await_row(self, upload: Upload, *, reason: str, code: str) -> Upload:
        """Have a pending upload wait at the gate from now on. Ends the claim; it is no failure.

        The story tells it once while the code is the same. Raises ClaimLostError.
        """
        with self._database.transaction("have an upload wait for its catalog row"):
            now = self.now()
            values = {"awaits_row": True, "due_at": now, "last_error": None, "error_code": code}
            changed = self._change(upload, values | self._end_of_claim)
            if code != upload.error_code:
                self._story.tell(upload.id, now, "waiting", reason)
            return changed

    def admit(self, upload: Upload, admission: Admission) -> Upload:
        """Let an upload that waits through the gate: it is due now. Raises ClaimLostError."""
        with self._database.transaction("let an upload through the catalog gate"):
            now = self.now()
            values: dict[str, Any] = {"awaits_row": False, "due_at": now, "error_code": None, **admission}
            changed = self._change(upload, values | self._end_of_claim)
            self._story.tell(upload.id, now, "admitted", f"for catalog row {admission['catalog_row_id']}")
            return changed

    def leave_gate(self, upload: Upload) -> Upload:
        """Take an upload from the gate undecided, for the first stage to look at its file."""
        with self._database.transaction("take an upload from the catalog gate"):
            values = {"awaits_row": False, "due_at": self.now()}
            return self._change(upload, values | self._end_of_claim)

    def note_newer_row(self, upload: Upload, row: CatalogRow) -> None:
        """Note that the same content stands for a newer catalog row, too. Needs no claim, disturbs none."""
        uploads = self._uploads
        is_older = uploads.catalog_row_at.is_null() | (uploads.catalog_row_at < row.created_at)
        with self._database.transaction("note a newer catalog row"):
            uploads.update(catalog_row_id=row.id, catalog_row_at=row.created_at).where(
                self._ours, uploads.id == upload.id, is_older
            ).execute()

    def awaiting_row(self, *, limit: int, after: int = 0) -> list[Upload]:
        """What waits at the gate, by number, from the one behind `after` on."""
        uploads = self._uploads
        query = uploads.select().where(self._at_gate, uploads.id > after)
        return self._fetch("list what waits for a catalog row", query.order_by(uploads.id).limit(limit))

    def count_awaiting_row(self, *, longer_than: timedelta = timedelta(0)) -> int:
        """How many uploads have waited at the gate for longer than that."""
        uploads = self._uploads
        query: Any = uploads.select(fn.COUNT(uploads.id)).where(self._at_gate)
        with self._database.operation("count what waits for a catalog row"):
            return int(query.where(uploads.due_at <= self.now() - longer_than).scalar())

    def oldest_awaiting_row(self) -> datetime | None:
        """Since when the one waits that has waited longest; None if none does."""
        uploads = self._uploads
        query: Any = uploads.select(uploads.due_at).where(self._at_gate).order_by(uploads.due_at)
        with self._database.operation("see what waits longest for a catalog row"):
            found: datetime | None = query.limit(1).scalar()
            return found

    def last_admitted(self) -> Upload | None:
        """The newest upload that a catalog row has let through."""
        uploads = self._uploads
        query = uploads.select().where(self._ours, uploads.catalog_row_at.is_null(False))
        return self._first("see what was let through last", query.order_by(uploads.id.desc()))

    @property
    def _at_gate(self) -> Any:
        """In the words of the indexes `uploads_awaiting_row` and `uploads_awaiting_since`."""
        uploads = self._uploads
        return self._ours & (uploads.awaits_row == SQL("TRUE")) & (uploads.state == State.PENDING)
