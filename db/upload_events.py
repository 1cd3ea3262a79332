"""The history of each upload: its events in order, bounded in number."""

from datetime import datetime
from typing import Any

from db.database import Database
from db.records import UploadEvent

EVENTS_KEPT = 100
"""How many events of an upload are kept: the first one and the newest."""


class UploadEvents:
    """Writes and reads the events of a database's uploads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._events = database.tables.events

    def append(self, upload_id: int, at: datetime, event: str, detail: str) -> None:
        """Append an event and delete the oldest ones beyond `EVENTS_KEPT`, but never the first.

        Raises DatabaseError.
        """
        events = self._events
        of_upload = events.upload == upload_id
        numbers: Any = events.select(events.id).where(of_upload)
        oldest_kept = numbers.order_by(events.id.desc()).offset(EVENTS_KEPT - 2).limit(1)
        first = numbers.order_by(events.id).limit(1)
        surplus = events.delete().where(of_upload, events.id < oldest_kept, events.id > first)
        with self._database.operation("append an upload's event"):
            events.insert(upload=upload_id, at=at, event=event, detail=detail).execute()
            surplus.execute()

    def read(self, upload_id: int) -> list[UploadEvent]:
        """The upload's events, oldest first. Raises DatabaseError."""
        events = self._events
        query: Any = events.select(events.at, events.event, events.detail)
        query = query.where(events.upload == upload_id).order_by(events.id)
        with self._database.operation("read an upload's events"):
            return [UploadEvent(*row) for row in query.tuples()]
