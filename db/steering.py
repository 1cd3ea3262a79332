"""What operators ask of the daemons: to pause, to hold a file, to hurry with it, or to forget it.

It is kept in the ledger's database, so that it holds for daemons on any machine and after a restart.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from peewee import SQL, fn

from db.errors import ClaimLostError
from db.fields import Dialect
from db.ledger import Ledger
from db.records import Turn, Upload
from db.statements import statement
from db.states import State
from db.upload_queries import UploadEvents

_PAUSE, _WAKE = "pause", "wake"
HELD = "held"
"""The `error_code` of an upload whose path is held."""
HELD_FOR = timedelta(minutes=4)
"""How soon a held upload is looked at again: before it would seem that a clock has jumped."""


@dataclass(frozen=True, slots=True)
class Pause:
    """No new upload is begun by any daemon, since `at`; the operator's `reason` may be empty."""

    reason: str
    at: datetime


class Orders(NamedTuple):
    """What is asked of every daemon: a pause, if any, and when something was made due last."""

    pause: Pause | None
    woken_at: datetime | None


class Left(NamedTuple):
    """How many uploads of an instance are not done yet, by what becomes of them."""

    pending: int
    verified: int
    at_gate: int
    held: int
    failed: int
    """Also rejected ones: they stay as they are until someone decides."""

    @property
    def moving(self) -> int:
        """How many the daemon will upload or publish by itself."""
        return self.pending + self.verified


class Steering:
    """The orders of operators, and what they do to the uploads of a ledger's instance.

    Every method may raise DatabaseError.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.database = ledger.database
        self._uploads = ledger.database.tables.uploads
        self._holds = ledger.database.tables.holds
        self._orders = ledger.database.tables.orders
        self._events = UploadEvents(ledger.database)

    # All daemons

    def orders(self) -> Orders:
        """What is asked of every daemon that uses the database."""
        rows = self._orders
        with self.database.operation("read what operators ask for"):
            query: Any = rows.select(rows.name, rows.detail, rows.given_at)
            found = {name: (detail, at) for name, detail, at in query.tuples()}
        wake = found.get(_WAKE)
        return Orders(Pause(*found[_PAUSE]) if _PAUSE in found else None, wake[1] if wake else None)

    def pause(self, reason: str) -> Pause | None:
        """Have no daemon begin an upload; returns the pause that was in effect before."""
        with self.database.transaction("pause the uploads"):
            before = self.orders().pause
            self._give(_PAUSE, reason)
        return before

    def resume(self) -> Pause | None:
        """End the pause, and return it; None if there was none."""
        with self.database.transaction("resume the uploads"):
            before = self.orders().pause
            self._orders.delete().where(self._orders.name == _PAUSE).execute()
        return before

    def _give(self, name: str, detail: str = "") -> None:
        values = {"detail": detail, "given_at": self._ledger.now()}
        insert = self._orders.insert(name=name, **values)
        insert.on_conflict(conflict_target=[self._orders.name], update=values).execute()

    # Holds

    def held_paths(self) -> dict[str, datetime]:
        """The paths of the instance that are held, and since when."""
        holds = self._holds
        query: Any = holds.select(holds.path, holds.held_at).where(self._is_own_hold).order_by(holds.path)
        with self.database.operation("list the held files"):
            return dict(query.tuples())

    def is_held(self, path: str) -> bool:
        """Whether the file at a path is not to be uploaded."""
        return bool(self._hold_of.run(path=path).rows)

    @statement("look whether a file is held")
    def _hold_of(self, *, path: Any) -> Any:
        return self._holds.select(self._holds.path).where(self._is_own_hold, self._holds.path == path)

    def hold(self, path: str) -> Upload | None:
        """Keep the file at a path from being uploaded; returns its newest upload, if it has one.

        An attempt that is under way goes on; the path's later ones do not begin.
        """
        ledger, holds = self._ledger, self._holds
        with self.database.transaction("hold a file"):
            values = {"instance": ledger.instance, "path": path, "held_at": ledger.now()}
            holds.insert(values).on_conflict_ignore().execute()
            upload = ledger.current(path)
            is_waiting = upload is not None and upload.state is State.PENDING and not upload.awaits_row
            if upload is None or not is_waiting or ledger.is_claimed(upload):
                return upload
            try:
                held = self._defer(upload)
            except ClaimLostError:
                # It was claimed a moment ago, and that attempt goes on.
                return ledger.current(path)
            ledger.renew_turn(upload.video_id)
            return held

    def defer_if_held(self, upload: Upload) -> bool:
        """Have a claimed upload wait if its path is held; returns whether it is.

        In one transaction, which keeps the hold: what `unhold` ends while this looks would wait for nothing.
        Raises ClaimLostError.
        """
        query: Any = self._holds.select(self._holds.path)
        query = query.where(self._is_own_hold, self._holds.path == upload.path)
        if self.database.dialect is Dialect.POSTGRESQL:
            query = query.for_update("FOR SHARE")
        with self.database.transaction("defer a held upload"):
            if query.scalar() is None:
                return False
            self._defer(upload)
            self._ledger.renew_turn(upload.video_id)
        return True

    def _defer(self, upload: Upload) -> Upload:
        return self._ledger.defer(upload, delay=HELD_FOR, reason="It is held by hand.", code=HELD)

    def unhold(self, path: str) -> bool:
        """End a hold, and make what waited for that due now; False if the path was not held."""
        holds, uploads = self._holds, self._uploads
        with self.database.transaction("end a hold"):
            if not holds.delete().where(self._is_own_hold, holds.path == path).execute():
                return False
            is_waiting = self._is_own & (uploads.path == path) & (uploads.state == State.PENDING)
            uploads.update(due_at=self._ledger.now(), error_code=None).where(
                is_waiting, uploads.error_code == HELD, uploads.claimed_until.is_null()
            ).execute()
            query: Any = uploads.select(uploads.video_id).where(is_waiting)
            for video_id in query.scalars():
                self._ledger.renew_turn(video_id)
            self._give(_WAKE)
        return True

    @property
    def _is_own_hold(self) -> Any:
        return self._holds.instance == self._ledger.instance

    # Turns

    def prioritize(self, uploads: Iterable[Upload]) -> list[Upload]:
        """Have pending uploads, of any instance, precede all others, due now; returns those it changed."""
        return self._hurry(uploads, State.PENDING, "prioritized", "before all others, due now")

    def release_now(self, uploads: Iterable[Upload]) -> list[Upload]:
        """End the retention of published uploads; returns those it changed. The release checks all else."""
        return self._hurry(uploads, State.PUBLISHED, "release-asked", "the retention was ended by hand")

    def _hurry(self, uploads: Iterable[Upload], state: State, event: str, detail: str) -> list[Upload]:
        """Give unclaimed uploads in the state their turn by hand."""
        rows, changed = self._uploads, []
        with self.database.transaction("give an upload its turn"):
            now = self._ledger.now()
            for upload in uploads:
                values: dict[str, Any] = {"turn": Turn.BY_HAND.value}
                if not upload.awaits_row:
                    values["due_at"] = now
                is_waiting = (rows.state == state) & (
                    rows.claimed_until.is_null() | (rows.claimed_until <= now)
                )
                if rows.update(values).where(rows.id == upload.id, is_waiting).execute():
                    changed.append(upload)
                    self._events.append(upload.id, now, event, detail)
            self._give(_WAKE)
        return changed

    # What is left, and what is forgotten

    def left(self) -> Left:
        """What is not done yet."""
        uploads, holds = self._uploads, self._holds
        paths: Any = holds.select(holds.path).where(self._is_own_hold)
        held: Any = uploads.select(fn.COUNT(uploads.id)).where(
            self._is_own,
            uploads.path.in_(paths),
            uploads.state == State.PENDING,
            uploads.awaits_row == SQL("FALSE"),
        )
        with self.database.operation("count what is not uploaded yet"):
            held_uploads = int(held.scalar())
        counts, at_gate = self._ledger.counts(), self._ledger.count_awaiting_row()
        return Left(
            pending=max(0, counts[State.PENDING] - at_gate - held_uploads),
            verified=counts[State.VERIFIED],
            at_gate=at_gate,
            held=held_uploads,
            failed=counts[State.FAILED] + counts[State.REJECTED],
        )

    def forget(self, path: str) -> int:
        """Delete the uploads of a path, their events and receipts; returns how many uploads there were.

        Objects and catalog rows stay. Raises ClaimLostError, and deletes nothing, if one of them is claimed.
        """
        ledger, uploads, tables = self._ledger, self._uploads, self.database.tables
        with self.database.transaction("forget a file"):
            ledger.lock_path(path)
            for upload in ledger.uploads(path=path):
                # Which locks it, too.
                ledger.receipts.unfold(upload.id)
            found = ledger.uploads(path=path)
            for upload in found:
                if ledger.is_claimed(upload):
                    raise ClaimLostError(upload.id, upload.claim)
            ids = [upload.id for upload in found]
            for table in (tables.publications, tables.orphans):
                self._delete(table, table.upload.in_(ids))
            self._delete(tables.events, tables.events.upload.in_(ids))
            self._delete(uploads, uploads.id.in_(ids))
            self._delete(tables.receipts, tables.receipts.id.in_(ids))
            ledger.receipts.keep_numbers()
            for video_id in {upload.video_id for upload in found}:
                ledger.renew_turn(video_id)
        return len(ids)

    def _delete(self, table: Any, condition: Any) -> int:
        return int(table.delete().where(condition).execute())

    @property
    def _is_own(self) -> Any:
        return self._uploads.instance == self._ledger.instance
