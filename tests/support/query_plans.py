"""Which way a database takes to the rows: the plans of the very statements that the code sends it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from db import Database
from db.fields import Dialect


@dataclass(frozen=True, slots=True)
class Plan:
    """How a database means to answer a statement."""

    statement: str
    steps: tuple[str, ...]

    @property
    def reads_by(self) -> set[str]:
        """The indexes it reads `uploads` by, or its whole table: "uploads_due", "primary key", "table"."""
        return {way for step in self.steps if (way := _way(step)) is not None}


def plans_of(database: Database, act: Callable[[], object]) -> list[Plan]:
    """Do something, and have every SELECT and UPDATE of `uploads` explained that it took, in their order."""
    sent: list[tuple[str, Any]] = []
    with database.operation("explain statements") as connected:

        def note(event: Any) -> None:
            sent.append((event.sql, event.params))

        connected.query_hooks.append(note)
        try:
            act()
        finally:
            connected.query_hooks.remove(note)
        return [
            Plan(statement, _explained(database, connected, statement, parameters))
            for statement, parameters in sent
            if re.match(r'(SELECT|UPDATE)\b.*"uploads"', statement)
        ]


def _explained(database: Database, connected: Any, statement: str, parameters: Any) -> tuple[str, ...]:
    word = "EXPLAIN" if database.dialect is Dialect.POSTGRESQL else "EXPLAIN QUERY PLAN"
    return tuple(
        row[-1].strip() for row in connected.execute_sql(f"{word} {statement}", parameters).fetchall()
    )


def _way(step: str) -> str | None:
    if found := re.search(
        r"Scan (?:Backward )?(?:using|on) (uploads_\w+)|USING (?:COVERING )?INDEX (\w+)", step
    ):
        name = found[1] or found[2]
        return "primary key" if name == "uploads_pkey" else name
    if "USING INTEGER PRIMARY KEY" in step:
        return "primary key"
    if re.search(r"Seq Scan on uploads|^SCAN ", step):
        return "table"
    return None
