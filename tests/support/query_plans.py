"""The query plans of the statements that the code executes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from db import Database
from db.fields import Dialect


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a statement."""

    statement: str
    steps: tuple[str, ...]

    @property
    def access_paths(self) -> set[str]:
        """How it reads `uploads`: the names of indexes, "primary key", or "table" for a scan."""
        return {way for step in self.steps if (way := _access_path(step)) is not None}


def explain(database: Database, action: Callable[[], object], *, of: str = "uploads") -> list[Plan]:
    """Call `action` and return the plan of every SELECT and UPDATE of a table that it executes."""
    executed: list[tuple[str, Any]] = []
    with database.operation("explain statements") as connected:

        def record(event: Any) -> None:
            executed.append((event.sql, event.params))

        connected.query_hooks.append(record)
        try:
            action()
        finally:
            connected.query_hooks.remove(record)
        return [
            Plan(statement, _explain_one(database, connected, statement, parameters))
            for statement, parameters in executed
            if re.match(rf'(SELECT|UPDATE)\b.*"{of}"', statement)
        ]


def _explain_one(database: Database, connected: Any, statement: str, parameters: Any) -> tuple[str, ...]:
    word = "EXPLAIN" if database.dialect is Dialect.POSTGRESQL else "EXPLAIN QUERY PLAN"
    return tuple(
        row[-1].strip() for row in connected.execute_sql(f"{word} {statement}", parameters).fetchall()
    )


def _access_path(step: str) -> str | None:
    if found := re.search(
        r"Scan (?:Backward )?(?:using|on) (uploads_\w+)|USING (?:COVERING )?INDEX (\w+)", step
    ):
        name = found[1] or found[2]
        return "primary key" if name == "uploads_pkey" else name
    if "USING INTEGER PRIMARY KEY" in step:
        return "primary key"
    # "known" is a subquery of one constant row, which reads no table by itself.
    if re.search(r"Seq Scan on uploads|^SCAN (?!known$|CONSTANT ROW$)", step):
        return "table"
    return None
