"""Keeps psycopg, the driver, out of a process that opens no database of PostgreSQL.

It takes nine times as long to import as peewee, which imports it wherever it is installed.
"""

import sys
from importlib import import_module
from typing import Any

_DRIVER = "psycopg"
_USERS = "peewee", "playhouse.migrations", "playhouse.pool"
"""What imports the driver, and does without it where it is not installed."""


def import_peewee() -> None:
    """Import peewee as if psycopg were not installed, unless either is imported already.

    None in `sys.modules` says that ("The import system", 5.3.1 in Python's reference). peewee reaches the
    driver through an adapter only, and `db.postgresql.pool` has its own.
    """
    modules: dict[str, Any] = sys.modules
    modules.setdefault(_DRIVER, None)
    try:
        for name in _USERS:
            import_module(name)
    finally:
        if modules[_DRIVER] is None:
            del modules[_DRIVER]


def driver_errors(*others: type[Exception], name: str = "Error") -> tuple[type[Exception], ...]:
    """The class of psycopg's exceptions with this name, after others; before psycopg is imported only those.

    Nothing raises an exception of psycopg before.
    """
    found = getattr(sys.modules.get(_DRIVER), name, None)
    return others if found is None else (*others, found)
