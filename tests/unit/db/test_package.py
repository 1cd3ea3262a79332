"""The package imports no other package of this project and exports what it documents."""

import subprocess
import sys

import peewee

import db
from tests.support.databases import DatabaseAddress

IMPORTED = "import sys; from db import *; print(*{name.partition('.')[0] for name in sys.modules})"

READS_AND_FAILS = """
import sys, db
from contextlib import closing
kinds = []
with closing(db.open_database(sys.argv[1], schema=sys.argv[2] or None)) as database, database.session():
    for sql in ("SELECT 1", "SELECT nonsense", "SELECT 1"):
        try:
            with database.operation("ask") as connected:
                assert connected.execute_sql(sql).fetchone() == (1,)
        except db.DatabaseError as error:
            kinds.append(error.kind.name)
print(*kinds, "psycopg" in sys.modules)
"""


def test_it_imports_no_other_package_of_this_project() -> None:
    imported = subprocess.run(
        [sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True, timeout=30
    )
    assert not {"watcher", "storage", "watchdog", "boto3", "awscrt", "psycopg"} & set(imported.stdout.split())


def test_only_a_database_of_postgresql_needs_its_driver(address: DatabaseAddress) -> None:
    program = [sys.executable, "-c", READS_AND_FAILS, address.url, address.schema or ""]
    ran = subprocess.run(program, capture_output=True, text=True, check=True, timeout=30)
    assert ran.stdout.split() == ["ENVIRONMENT", str(address.schema is not None)]


def test_these_tests_have_peewee_as_commands_have_it() -> None:
    assert vars(peewee)["psycopg"] is None


def test_what_it_offers_is_there_and_documented() -> None:
    for name in db.__all__:
        assert hasattr(db, name)
        if callable(getattr(db, name)):
            assert getattr(db, name).__doc__
