"""The ledger: what was done with every file and what must be done next.

Every change of a row goes through here, in one transaction with the event that tells of it. Writers are
fenced: a change is accepted only for the state and claim number of the `Upload` it is asked for, and every
change that ends a claim makes the number grow, so that an `Upload` can be spent once.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Unpack

from peewee import SQL, fn

from db.database import Database
from db.errors import IllegalTransitionError
from db.facts import Progress, Proof, only
from db.fields import Dialect
from db.gating import Gating
from db.records import JSON, Identity, Upload
from db.states import OPEN_STATES, STOPPED_STATES, TRANSITIONS, State

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


class Ledger(Gating):
    """The ledger of one instance, for reading and writing.

    Methods that take an `Upload` raise ClaimLostError, and change nothing, if its row has moved on since.
    """

    def __init__(
        self,
        database: Database,
        instance: str,
        *,
        worker: str | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        super().__init__(database, instance, worker=worker, clock=clock)
        self._started_at: datetime | None = None

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
        """Add a pending upload for new content at `path`, due now, or waiting at the catalog gate since now.

        The upload that spoke for the path until now, unless it was released, becomes `superseded`, and
        whoever works on it has lost the claim. None if this very content has been added in the meantime, by
        another daemon on a shared directory.
        """
        uploads = self._uploads
        with self._database.transaction(f"enqueue {path}"):
            self.lock_path(path)
            now = self.now()
            live: Any = uploads.select().where(self._ours, self._is_live, uploads.path == path)
            if self._database.dialect is Dialect.POSTGRESQL:
                # What is being released at this moment is either released by now, or not any more.
                live = live.for_update()
            replaced = self._fetch("look up a path", live)
            if any(upload.identity == identity for upload in replaced):
                return None
            ended = {"state": State.SUPERSEDED, "changed_at": now, "due_at": now, "awaits_row": False}
            uploads.update(ended | self._end_of_claim).where(
                uploads.id.in_([upload.id for upload in replaced])
            ).execute()
            new_id = uploads.insert(
                instance=self.instance,
                path=path,
                video_id=video_id,
                filename=filename,
                quality=quality,
                object_key=object_key,
                device=identity.device,
                inode=identity.inode,
                size=identity.size,
                mtime_ns=identity.mtime_ns,
                finding=finding,
                awaits_row=awaits_row,
                state=State.PENDING,
                due_at=now,
                discovered_at=now,
                changed_at=now,
            ).execute()
            for upload in replaced:
                self._story.tell(upload.id, now, State.SUPERSEDED, f"by upload {new_id}")
            self._story.tell(new_id, now, "discovered", f"{identity.size} bytes at {path}")
            return self._get(new_id)

    def adopt_identity(self, upload: Upload, identity: Identity) -> Upload:
        """Note that the same content is now known under another identity (devices renumber at boot).

        Needs no claim and disturbs none. Raises UnknownUploadError.
        """
        uploads = self._uploads
        with self._database.transaction("adopt a file's identity"):
            uploads.update(
                device=identity.device, inode=identity.inode, size=identity.size, mtime_ns=identity.mtime_ns
            ).where(self._ours, uploads.id == upload.id).execute()
            self._story.tell(upload.id, self.now(), "identity", f"{upload.identity} is now {identity}")
            return self._get(upload.id)

    def record(self, upload: Upload, **facts: Unpack[Progress]) -> Upload:
        """Note how far the work on a claimed upload has come; its state and claim stay."""
        with self._database.transaction("record an upload's progress"):
            return self._change(upload, only(facts, Progress))

    def forget_multipart(self, upload: Upload) -> bool:
        """Note that an upload's multipart is no more: it was aborted. False if it has another one by now.

        Needs no claim, for it is done to uploads that nobody works on.
        """
        uploads = self._uploads
        same = (uploads.id == upload.id) & (uploads.multipart_id == upload.multipart_id)
        with self._database.transaction("forget a multipart upload"):
            if not uploads.update(multipart_id=None).where(self._ours, same).execute():
                return False
            self._story.tell(upload.id, self.now(), "aborted", f"multipart upload {upload.multipart_id}")
            return True

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

        Ends the claim, starts to count attempts anew, and replaces the last error by `error` (with
        `error_code`, a short stable word). What is moved back to `pending` loses its proof.

        Raises IllegalTransitionError if `to` cannot follow, ClaimLostError if the row has moved on.
        """
        if to not in TRANSITIONS[upload.state]:
            raise IllegalTransitionError(upload.id, upload.state, to)
        with self._database.transaction(f"make an upload {to}"):
            now = self.now()
            values: dict[str, Any] = {
                "state": to,
                "changed_at": now,
                "due_at": now + due_in,
                "attempts": 0,
                "awaits_row": False,
                "last_error": error,
                "error_code": error_code,
                **self._end_of_claim,
            }
            if to is State.PENDING:
                values |= _UNPROVEN
            if to in _STAMPS:
                values[_STAMPS[to]] = now
            if to is State.VERIFIED:
                values["multipart_id"] = None
            changed = self._change(upload, values | only(facts, Proof))
            self._story.tell(upload.id, now, to, detail or error or "")
            return changed

    def forget_object(self, upload: Upload, detail: str) -> None:
        """Note that the object was deleted on purpose. A released upload keeps its receipt: it was there."""
        uploads = self._uploads
        unproven = uploads.update(dict(_UNPROVEN)).where(self._ours, uploads.id == upload.id)
        with self._database.transaction("forget an object"):
            unproven.where(uploads.state == State.GONE).execute()
            self._story.tell(upload.id, self.now(), "object-deleted", detail)

    def reopen(self, upload_id: int, *, reason: str, finding: str | None = None) -> Upload:
        """Make a rejected, failed or gone upload pending again, due now; `finding` is of its container.

        Raises UnknownUploadError, and IllegalTransitionError if it is in any other state.
        """
        with self._database.transaction(f"reopen upload {upload_id}"):
            upload = self._get(upload_id)
            if upload.state not in STOPPED_STATES:
                raise IllegalTransitionError(upload_id, upload.state, State.PENDING)
            reopened = self.advance(upload, State.PENDING, detail=reason)
            return reopened if finding is None else self._change(reopened, {"finding": finding})

    def make_due(self, which: Iterable[int] | State) -> int:
        """Make uploads that wait after an error due now, their attempts forgotten; say how many there were.

        `which` is a state or the numbers of uploads. Only open ones that nobody works on are concerned, and
        of those only the ones with an error: what waits for retention keeps waiting.
        """
        uploads = self._uploads
        wanted = uploads.state == which if isinstance(which, State) else uploads.id.in_(list(which))
        waiting = (
            uploads.state.in_(sorted(OPEN_STATES))
            & uploads.last_error.is_null(False)
            & uploads.claimed_until.is_null()
        )
        with self._database.transaction("hurry waiting uploads"):
            now = self.now()
            hurried = list(uploads.select(uploads.id).where(self._ours, wanted, waiting).scalars())
            for upload_id in hurried:
                uploads.update(due_at=now, attempts=0).where(uploads.id == upload_id, waiting).execute()
                self._story.tell(upload_id, now, "hurried", "due now instead of later")
            return len(hurried)

    def postpone(
        self, upload: Upload, *, delay: timedelta, error: str, error_code: str, count: bool = True
    ) -> Upload:
        """Try the upload's present stage again after `delay`, for it failed. Ends the claim.

        `count` makes it an attempt; what is not counted is told in the story once while it stays the same.
        """
        with self._database.transaction("postpone an upload"):
            now = self.now()
            values = {
                "attempts": upload.attempts + count,
                "due_at": now + delay,
                "last_error": error,
                "error_code": error_code,
            }
            changed = self._change(upload, values | self._end_of_claim)
            if count or error != upload.last_error:
                self._story.tell(upload.id, now, "postponed", error)
            return changed

    def wait(self, upload: Upload, *, delay: timedelta, reason: str, code: str) -> Upload:
        """Ask the upload's present stage again after `delay`, for somebody else has to do something first.

        Ends the claim. It is no failure: no attempt, no error; the story tells it once while it is the same.
        """
        with self._database.transaction("have an upload wait"):
            now = self.now()
            values = {"due_at": now + delay, "last_error": None, "error_code": code}
            changed = self._change(upload, values | self._end_of_claim)
            if code != upload.error_code:
                self._story.tell(upload.id, now, "waiting", reason)
            return changed

    def reschedule_published(self, retention: timedelta) -> int:
        """Make every published upload that nobody works on due `retention` after its publication.

        For a retention that has changed. Says how many rows there were.
        """
        uploads = self._uploads
        waiting = (uploads.state == State.PUBLISHED) & uploads.claimed_until.is_null()
        if self._database.dialect is Dialect.POSTGRESQL:
            due: Any = uploads.published_at + SQL("%s", (retention,))
        else:
            # The fixed-width text of `db.fields`; SQLite counts in milliseconds.
            shift = f"+{retention.total_seconds():.3f} seconds"
            due = fn.strftime("%Y-%m-%dT%H:%M:%f000Z", uploads.published_at, shift)
        with self._database.transaction("reschedule the published uploads"):
            return int(uploads.update(due_at=due).where(self._ours, waiting).execute())

    def note(self, upload_id: int, event: str, detail: str) -> None:
        """Add an event to the upload's story. Raises UnknownUploadError."""
        with self._database.transaction("note an event"):
            self._get(upload_id)
            self._story.tell(upload_id, self.now(), event, detail)

    def heartbeat(self, report: Mapping[str, JSON]) -> None:
        """Say that this worker's daemon, the calling process, is alive and how it is doing."""
        instances = self._database.tables.instances
        with self._database.transaction("write the daemon's report"):
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
