"""The documented role suffices, and may do nothing else to the compressor's table; and TLS."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from db import MIGRATIONS, State, migrate
from tests.support.catalog_harness import LOCAL, Compressor, compressor_on
from tests.support.certificates import make_certificate
from tests.support.cli_process import Command
from tests.support.harness import BUCKET, VIDEO_ID, Harness, MakeSettings
from tests.support.postgres import PostgresServer
from tests.support.postgres_tls import tls_proxy
from tests.support.s3_server import S3Server
from watcher.app.wiring import open_application

pytestmark = pytest.mark.long

DOCUMENT = Path(__file__).parents[2] / "docs/compressor.md"
ROLE, PASSWORD = "video_uploader", "change-me"
PATH = f"{VIDEO_ID}/good_720p.mp4"

SHAPE = (
    """
    SELECT column_name, data_type, is_nullable, column_default FROM information_schema.columns
    WHERE table_name = 'video_qualities' AND table_schema = 'public' ORDER BY ordinal_position
    """,
    "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY indexname",
    """
    SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = 'public.video_qualities'::regclass ORDER BY conname
    """,
    """
    SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger
    WHERE tgrelid = 'public.video_qualities'::regclass AND NOT tgisinternal ORDER BY tgname
    """,
    "SELECT relacl::text, relowner FROM pg_class WHERE oid = 'public.video_qualities'::regclass",
    "SELECT relname, relkind FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY relname",
)


def documented_grants() -> list[str]:
    """The statements of the document's one block of SQL."""
    (block,) = re.findall(r"^```sql\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    return [statement.strip() for statement in block.split(";") if statement.strip()]


@pytest.fixture
def compressor(postgres: PostgresServer) -> Iterator[Compressor]:
    """A compressor in whose database the documented statements were executed."""
    with ExitStack() as after:
        after.callback(postgres.execute, sql.SQL("DROP ROLE IF EXISTS video_uploader"))
        made = after.enter_context(compressor_on(postgres))
        with psycopg.connect(made.url) as connection:
            for statement in documented_grants():
                connection.execute(statement.encode())
        yield made


def url_of_role(compressor: Compressor) -> str:
    return urlsplit(compressor.url)._replace(netloc=f"{ROLE}:{PASSWORD}@").geturl()


def shape(compressor: Compressor) -> list[list[tuple[object, ...]]]:
    """Everything that makes up the compressor's table, and what else is in its schema."""
    with psycopg.connect(compressor.url) as connection:
        return [connection.execute(query.encode()).fetchall() for query in SHAPE]


def test_the_granted_role_does_all_of_the_work_and_alters_nothing_of_the_compressors(
    compressor: Compressor, settings: MakeSettings, server: S3Server, video: bytes
) -> None:
    """Migrate, wait at the gate, be admitted, publish, withdraw, publish again; the table stays as made."""
    before = shape(compressor)
    role = settings(DATABASE_URL=url_of_role(compressor), CATALOG="compressor")
    with open_application(role) as app, app.context.database.session():
        assert migrate(app.context.database) == list(MIGRATIONS)
        harness = Harness(app, server)
        row = compressor.begin(PATH)
        harness.put(PATH, video)
        assert harness.admit_waiting() == 0
        compressor.end(row, PATH)
        assert harness.admit_waiting() == 1
        harness.step(State.PENDING)
        harness.step(State.VERIFIED)
        upload = harness.row(PATH)
        assert (upload.state, compressor.urls()) == (State.PUBLISHED, [upload.url])
        naming = app.context.naming
        urls = {"public_url": naming.public_url(upload), "local_url": naming.local_url(upload)}
        assert app.context.catalog.revert_to_local_url(upload, **urls) == 1
        assert compressor.urls() == [f"{LOCAL}/{PATH}"]
    command = Command(
        os.path.dirname(role.completed_dir),
        server.url,
        {"DATABASE_URL": url_of_role(compressor), "INSTANCE_ID": "test", "AWS_S3_BUCKET": BUCKET},
    )
    assert command.here("audit", "--fix").code == 0
    assert compressor.urls() == [upload.url]
    checks = {result["name"]: result["outcome"] for result in command.here("doctor", "--json").json()}
    names = ("database", "schema", "catalog", "catalog URL", "catalog index", "catalog clock")
    assert {name: checks[name] for name in names} == dict.fromkeys(names, "ok")
    assert shape(compressor) == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE video_qualities SET status = 'ready'",
        "UPDATE video_qualities SET url = '', file_size = 1",
        "INSERT INTO video_qualities (video_id, quality, url) VALUES (gen_random_uuid(), '720p', '')",
        "DELETE FROM video_qualities",
        "ALTER TABLE video_qualities ADD COLUMN ours text",
        "CREATE INDEX ON video_qualities (url)",
        "TRUNCATE video_qualities",
        "SELECT * FROM videos",
        "CREATE TABLE public.ours (id integer)",
    ],
)
def test_the_granted_role_may_do_nothing_else(compressor: Compressor, statement: str) -> None:
    with (
        psycopg.connect(url_of_role(compressor)) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.encode())


def test_doctor_says_which_grant_is_missing(
    compressor: Compressor, settings: MakeSettings, server: S3Server
) -> None:
    """First the one on the column, then all of them."""
    place = os.path.dirname(settings().completed_dir)
    command = Command(place, server.url, {"DATABASE_URL": url_of_role(compressor)})
    command.here("db", "migrate")

    def mend(name: str) -> str:
        found = {result["name"]: result for result in command.here("doctor", "--json").json(code=1)}
        assert found[name]["outcome"] == "failed"
        return str(found[name]["mend"])

    with psycopg.connect(compressor.url, autocommit=True) as connection:
        connection.execute("REVOKE UPDATE (url) ON video_qualities FROM video_uploader")
        assert "GRANT UPDATE (url) ON public.video_qualities TO video_uploader;" in mend("catalog URL")
        connection.execute("REVOKE ALL ON video_qualities FROM video_uploader")
        assert "GRANT SELECT, UPDATE (url) ON public.video_qualities TO video_uploader;" in mend("catalog")


def executed(compressor: Compressor, *statements: str) -> None:
    """Execute statements as the administrator."""
    with psycopg.connect(compressor.url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@pytest.mark.parametrize(
    "harm",
    [
        ["DROP SCHEMA video_uploader"],
        ["ALTER SCHEMA video_uploader OWNER TO postgres", "GRANT USAGE ON SCHEMA video_uploader TO PUBLIC"],
    ],
    ids=["no schema", "schema of another role"],
)
def test_doctor_tries_whether_the_role_may_migrate_and_its_remedy_suffices(
    compressor: Compressor, settings: MakeSettings, server: S3Server, harm: list[str]
) -> None:
    """As `run` would; nothing of the trial stays. The remedy has the present names."""
    executed(compressor, *harm)
    place = os.path.dirname(settings().completed_dir)
    command = Command(place, server.url, {"DATABASE_URL": url_of_role(compressor)})
    assert command.here("db", "migrate").code == 1
    found = {result["name"]: result for result in command.here("doctor", "--json").json(code=1)}
    assert found["schema"]["outcome"] == "failed"
    assert "permission denied" in found["schema"]["detail"]
    prefix, _, statements = found["schema"]["mend"].partition(": ")
    assert prefix == "Have an administrator execute"
    executed(compressor, *statements.split(";"))
    found = {result["name"]: result for result in command.here("doctor", "--json").json()}
    assert found["schema"]["outcome"] == "warning"
    with psycopg.connect(compressor.url) as connection:
        query = "SELECT count(*) FROM pg_tables WHERE schemaname = 'video_uploader'"
        assert connection.execute(query.encode()).fetchone() == (0,)
    assert command.here("db", "migrate").code == 0


def test_doctor_finds_tables_that_the_role_may_not_use(
    compressor: Compressor, settings: MakeSettings, server: S3Server
) -> None:
    """An administrator migrated them, so that they are not the daemon's."""
    place = os.path.dirname(settings().completed_dir)
    command = Command(place, server.url, {"DATABASE_URL": url_of_role(compressor)})
    assert command.here("db", "migrate").code == 0
    executed(compressor, "REASSIGN OWNED BY video_uploader TO postgres")
    executed(compressor, "GRANT USAGE ON SCHEMA video_uploader TO video_uploader")
    executed(compressor, "GRANT SELECT ON ALL TABLES IN SCHEMA video_uploader TO video_uploader")
    schema = next(one for one in command.here("doctor", "--json").json(code=1) if one["name"] == "schema")
    assert schema["outcome"] == "failed"
    assert "uploads" in schema["detail"]
    executed(compressor, *schema["mend"].partition(": ")[2].split(";"))
    schema = next(one for one in command.here("doctor", "--json").json() if one["name"] == "schema")
    assert schema["outcome"] == "ok"


def test_tls_is_verified_as_the_url_says(postgres: PostgresServer, place: str, tmp_path: Path) -> None:
    """With the right authority it works; with another one it refuses, says why, and keeps the password."""
    (tmp_path / "right").mkdir()
    (tmp_path / "wrong").mkdir()
    right, wrong = make_certificate(tmp_path / "right"), make_certificate(tmp_path / "wrong")
    with postgres.fresh_database() as url, tls_proxy(url, right) as address:
        base = f"postgresql://postgres:s3cr3t@{address}{urlsplit(url).path}?sslmode=verify-full&sslrootcert="
        command = Command(place, "http://127.0.0.1:9", {"CATALOG": "none"})
        good = command.here("db", "migrate", DATABASE_URL=f"{base}{right.path}")
        assert (good.code, good.err) == (0, "")
        bad = command.here("db", "status", DATABASE_URL=f"{base}{wrong.path}")
        assert (bad.code, bad.out) == (1, "")
        (sentence,) = bad.err.splitlines()
        assert "certificate verify failed" in sentence
        assert "sslrootcert" in sentence
        assert "s3cr3t" not in sentence
        missing = command.here("db", "status", DATABASE_URL=f"{base}/nowhere.pem")
        assert missing.code == 1
        assert "/nowhere.pem" in missing.err
