"""What every question to the ledger is asked with: whose rows, by which clock, on which connection."""

from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import peewee

from db.database import Database
from db.records import Upload
from db.upload_events import UploadEvents

_PLAIN = (peewee.TextField, peewee.IntegerField)
"""Columns whose values both drivers hand out as they are wanted."""


class Queries:
    """The ledger of one instance, for reading.

    `worker` is the name of the daemon that asks, if that is not the instance's: several of them share the
    ledger of a shared directory. `clock` replaces the database's time. Every method may raise DatabaseError
    and works on its own connection unless the thread is in a `Database.session`.
    """

    def __init__(
        self,
        database: Database,
        instance: str,
        *,
        worker: str | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self.instance = instance
        self.worker = worker or instance
        self._database = database
        self._clock = clock or database.now
        self._uploads = database.tables.uploads
        self._story = UploadEvents(database)
        self._whole = peewee.SQL(", ".join(f'"{field.name}"' for field in fields(Upload)))
        """Every column, for a SELECT that is asked all day: put together once instead of every time."""
        columns = {field.name: getattr(self._uploads, field.name) for field in fields(Upload)}
        self._conversions: dict[str, Callable[[Any], Any]] = {
            name: column.python_value for name, column in columns.items() if not isinstance(column, _PLAIN)
        }

    @property
    def database(self) -> Database:
        """Where the ledger is kept."""
        return self._database

    def now(self) -> datetime:
        """The time that claims, due times and events go by."""
        return self._clock().astimezone(UTC)

    @property
    def _ours(self) -> peewee.Expression:
        return self._uploads.instance == self.instance

    def _first(self, what: str, query: Any) -> Upload | None:
        return next(iter(self._fetch(what, query.limit(1))), None)

    def _fetch(self, what: str, query: Any) -> list[Upload]:
        return [Upload(**values) for values in self._read(what, query)]

    def _read(self, what: str, query: Any) -> list[dict[str, Any]]:
        """The fields of the uploads that `query` selects.

        Only what must be is converted here; peewee would ask a function about each of thousands of values.
        """
        with self._database.operation(what) as connected:
            cursor = connected.execute(query)
            names = [column[0] for column in cursor.description]
            found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        for name in self._conversions.keys() & names:
            convert = self._conversions[name]
            for values in found:
                if values[name] is not None:
                    values[name] = convert(values[name])
        return found
