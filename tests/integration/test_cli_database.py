"""`db migrate` and `db status`, and `run` where the operator applies migrations; on both databases."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from db import MIGRATIONS
from tests.support.cli_process import Command
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.long

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(params=["sqlite", "postgresql"])
def command(request: pytest.FixtureRequest, place: str) -> Iterator[Command]:
    """The command with an unused database."""
    if request.param == "sqlite":
        yield Command(place, NOWHERE)
        return
    postgres: PostgresServer = request.getfixturevalue("postgres")
    with postgres.fresh_database() as url:
        yield Command(place, NOWHERE, {"DATABASE_URL": url, "CATALOG": "own"})


def test_migrate_applies_what_is_missing_and_names_it_and_then_says_that_nothing_is(command: Command) -> None:
    first = command.here("db", "migrate")
    assert (first.code, first.err) == (0, "")
    assert first.out.splitlines() == [f"Applied {name}." for name in MIGRATIONS]
    second = command.here("db", "migrate")
    assert (second.code, second.out) == (0, "Nothing to apply: the tables are up to date.\n")


def test_status_tells_version_and_what_is_missing_and_makes_nothing(command: Command) -> None:
    before = command.here("db", "status", "--json")
    assert before.json(code=1) == {"version": None, "pending": list(MIGRATIONS)}
    ran = command.here("db", "status")
    assert (ran.code, ran.err) == (1, "")
    assert "`video-uploader db migrate`" in ran.out
    assert not os.path.exists(os.path.join(command.place, "state"))
    command.here("db", "migrate")
    after = command.here("db", "status", "--json")
    assert after.json() == {"version": MIGRATIONS[-1], "pending": []}
    assert command.here("db", "status").out == f"Version: {MIGRATIONS[-1]}\nNo migration is pending.\n"


def test_run_leaves_the_tables_to_an_operator_who_wants_to_change_them_himself(command: Command) -> None:
    """Refused while anything is missing, and nothing is made; with everything in place it runs."""
    himself = {"DATABASE_AUTO_MIGRATE": "false"}
    refused = command("run", "--once", **himself)
    assert (refused.code, refused.out) == (1, "")
    (sentence,) = refused.err.splitlines()
    assert "`video-uploader db migrate`" in sentence
    assert command.here("db", "status").code == 1
    assert not os.path.exists(os.path.join(command.place, "state", "ledger.sqlite3"))
    command.here("db", "migrate")
    assert command("run", "--once", **himself).code == 0


def test_two_that_migrate_at_once_do_not_collide(command: Command) -> None:
    """Each migration is applied by one of them; the other one waits and finds nothing missing."""
    with command.popen("db", "migrate") as one, command.popen("db", "migrate") as other:
        outs = [process.communicate(timeout=50)[0] for process in (one, other)]
    assert [one.returncode, other.returncode] == [0, 0]
    assert sorted("".join(outs).splitlines()) == sorted(
        [*(f"Applied {name}." for name in MIGRATIONS), "Nothing to apply: the tables are up to date."]
    )
