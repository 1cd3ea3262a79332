"""The stand-in compressor as a service of a user of its own, with the PostgreSQL of a machine."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from tests.compressor.sources import make_source
from tests.support.ports import free_address
from tests.systemd.documents import block
from tests.systemd.machine import COMPRESSOR, Machine

DATABASE = "lambrk"
COMPLETED = "/srv/videos/completed"


@dataclass(frozen=True, slots=True)
class Row:
    """What the compressor's table says of a quality."""

    status: str
    url: str


@dataclass
class Compressor:
    """Its database is new and has its tables, and the role that docs/compressor.md grants rights to."""

    machine: Machine
    address: str = field(default_factory=free_address)
    """PostgreSQL's, on the network that the machine shares."""

    def __post_init__(self) -> None:
        self.machine.write("/etc/postgresql/15/main/conf.d/port.conf", f"port = {self._port}\n")
        self.machine.must("systemctl", "start", "postgresql.service")
        self.machine.must("runuser", "-u", "postgres", "--", "createuser", "compressor")
        self.machine.must("runuser", "-u", "postgres", "--", "createdb", "--owner=compressor", DATABASE)
        schema = f"--file={COMPRESSOR}/tests/compressor/schema.sql"
        self.machine.must("runuser", "-u", "compressor", "--", "psql", "--quiet", schema, DATABASE)
        self.sql(block("docs/compressor.md", "Grants"))

    @property
    def daemon_url(self) -> str:
        """The DATABASE_URL of the daemon's role."""
        return f"postgresql://video_uploader:change-me@{self.address}/{DATABASE}"

    def compress(self, video_id: str, name: str, *options: str) -> None:
        """Compress a source of one second, beside whatever else runs; it has ended afterwards."""
        source = Path(self.machine.shared, name)
        make_source(source, seconds=1.0, height=90)
        database = f"postgresql:///{DATABASE}?host=/var/run/postgresql&port={self._port}"
        self.machine.run(
            *("systemd-run", "--quiet", "--wait", "--collect", f"--unit=compressor-{video_id}"),
            *("--uid=compressor", f"--setenv=PYTHONPATH={COMPRESSOR}:{COMPRESSOR}/packages"),
            *("python3", "-m", "tests.compressor", "--database", database, "--completed-dir", COMPLETED),
            *("--qualities", "144p,240p,360p", "--shrink", "8", "--source", os.fspath(source)),
            *("--video-id", video_id, *options),
        )

    def rows(self, video_id: str) -> dict[str, Row]:
        """The rows of a video, by quality."""
        query = f"SELECT quality, status, url FROM video_qualities WHERE video_id = '{video_id}'"
        lines = self.sql(query).splitlines()
        return {quality: Row(status, url) for quality, status, url in (line.split("|", 2) for line in lines)}

    def sql(self, statements: str) -> str:
        """What psql prints of statements, as the database's administrator."""
        psql = ("psql", "--no-psqlrc", "--tuples-only", "--no-align", "--quiet", "--set=ON_ERROR_STOP=1")
        return self.machine.must(
            "runuser", "-u", "postgres", "--", *psql, f"--command={statements}", DATABASE
        )

    @property
    def _port(self) -> str:
        return self.address.rpartition(":")[2]
