"""What every question to the ledger is asked with: whose rows, by which clock, on which connection."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import peewee

from db.database import Database
from db.records import Upload
from db.story import Story


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
        self._story = Story(database)

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
        with self._database.operation(what):
            return [Upload(**row) for row in query.dicts()]
