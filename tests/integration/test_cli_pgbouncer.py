"""The commands through PgBouncer, in front of PostgreSQL."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.cli_process import GOOD, Command
from tests.support.pgbouncer import PgBouncerUnavailableError, PoolMode, running_pgbouncer
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.long


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_commands_work_through_it(
    online_command: Command, postgres: PostgresServer, video: bytes, mode: PoolMode
) -> None:
    try:
        with postgres.fresh_schema() as schema, running_pgbouncer(postgres, mode) as bouncer:
            settings = {"DATABASE_URL": bouncer.url, "CATALOG": "own", "DATABASE_SCHEMA": schema}
            command = replace(online_command, settings={**online_command.settings, **settings})
            command.write(GOOD, video)
            assert "Traceback" not in command("run", "--once", "--dry-run").err
            assert command("run", "--once").code == 0
            assert command.row(GOOD)["state"] == "published"
            assert command("status").code == 0
            assert command("db", "status").code == 0
    except PgBouncerUnavailableError as exc:
        exc.skip()
