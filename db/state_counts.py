"""How many uploads are in each state, how large they are, and what became of uploads of late.

Triggers add a row of differences for every change of a state; these rows are added up now and then.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from peewee import Value, fn

from db.database import Database
from db.fields import Dialect
from db.states import State

MAX_ADDED_UP = 10_000
"""How many rows of counts are added up at a time."""
OUTCOME_STEP = timedelta(minutes=10)
"""The precision to which it is kept when uploads were published, failed or were rejected."""
OUTCOMES_KEPT = timedelta(hours=25)
OUTCOME_PERIODS = {"hour": timedelta(hours=1), "day": timedelta(days=1)}
"""The periods of the success rate."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How many uploads were published, failed or were rejected within a period."""

    published: int = 0
    failed: int = 0
    rejected: int = 0

    @property
    def success_rate(self) -> float | None:
        """The share that was published, from 0 to 1; None if nothing was decided within the period."""
        decided = self.published + self.failed + self.rejected
        return self.published / decided if decided else None


class StateCounts:
    """Reads how many uploads are in each state. Every method may raise DatabaseError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = database.tables.state_counts

    def read(self, instance: str | None = None) -> dict[str, dict[State, int]]:
        """The number of uploads in each state, of one instance or of all that ever had uploads."""
        rows = self._rows
        query: Any = rows.select(rows.instance, rows.state, fn.SUM(rows.uploads))
        if instance is not None:
            query = query.where(rows.instance == instance)
        counts: dict[str, dict[State, int]] = {}
        with self._database.operation("count the uploads"):
            for name, state, number in query.group_by(rows.instance, rows.state).tuples():
                counts.setdefault(name, dict.fromkeys(State, 0))[State(state)] = int(number)
        return {name: of_states for name, of_states in counts.items() if any(of_states.values())}

    def sizes(self, instance: str) -> dict[State, int]:
        """The bytes of the files of an instance's uploads in each state."""
        rows = self._rows
        query: Any = rows.select(rows.state, fn.SUM(rows.size)).where(rows.instance == instance)
        with self._database.operation("add up the sizes of the uploads"):
            found = {State(state): int(size) for state, size in query.group_by(rows.state).tuples()}
        return {state: found.get(state, 0) for state in State}

    def outcomes(self, instance: str, since: datetime) -> Outcomes:
        """What became of the uploads of an instance since then, to within `OUTCOME_STEP`."""
        rows = self._rows
        query: Any = rows.select(rows.state, fn.SUM(rows.uploads)).where(
            rows.instance == instance, rows.entered_at >= since
        )
        with self._database.operation("count what became of the uploads"):
            found = {state: int(number) for state, number in query.group_by(rows.state).tuples()}
        return Outcomes(**found)

    def add_up(self, now: datetime) -> None:
        """Replace the rows by one for each state and step of time, so that their number stays small.

        Those of transactions that are not committed yet stay, as do those that another daemon adds up.
        """
        rows, name = self._rows, "add up the number of uploads"
        read: Any = rows.select(
            rows.id, rows.instance, rows.state, rows.entered_at, rows.uploads, rows.size
        ).order_by(rows.id)
        if self._database.dialect is Dialect.POSTGRESQL:
            read = read.for_update(skip_locked=True)
        with self._database.transaction(name):
            # Thousands of rows, which peewee would convert one by one.
            found, *_ = self._database.run(name, *read.limit(MAX_ADDED_UP).sql())
            sums: dict[tuple[str, str, datetime | None], tuple[int, int]] = {}
            for _, instance, state, entered_at, uploads, size in found:
                key = instance, state, _step_of(rows.entered_at.python_value(entered_at), now)
                before = sums.get(key, (0, 0))
                sums[key] = before[0] + uploads, before[1] + size
            if len(found) > len(sums):
                rows.delete().where(self._are_of([row[0] for row in found])).execute()
                for (instance, state, entered_at), (uploads, size) in sums.items():
                    rows.insert(
                        instance=instance, state=state, uploads=uploads, size=size, entered_at=entered_at
                    ).execute()

    def _are_of(self, ids: list[int]) -> Any:
        """The condition that a row is one of these: the first ones, all of which were read and are locked."""
        if self._database.dialect is Dialect.POSTGRESQL:
            return self._rows.id == fn.ANY(Value(ids, unpack=False))
        return self._rows.id <= ids[-1]


def _step_of(entered_at: datetime | None, now: datetime) -> datetime | None:
    """The time to which an entry is rounded up; None once it is older than what is asked for."""
    if entered_at is None or now - entered_at > OUTCOMES_KEPT:
        return None
    over = (entered_at - datetime.min.replace(tzinfo=UTC)) % OUTCOME_STEP
    return entered_at if not over else entered_at - over + OUTCOME_STEP
