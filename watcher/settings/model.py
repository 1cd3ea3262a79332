"""Every setting: its name, its type, its default, and what it means."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import quote

from db import sqlite_url
from watcher.settings import types
from watcher.settings.settings_base import setting
from watcher.settings.settings_local import CatalogKind, LocalSettings
from watcher.settings.settings_s3 import S3Settings

__all__ = ["CatalogKind", "Settings", "state_directory"]


class Settings(S3Settings, LocalSettings):
    """The settings of one instance; attributes are the documented names in lower case."""

    instance_id: types.InstanceName | None = setting(
        "This daemon's name in the ledger. Unset: the host name.",
        "1 to 100 printable characters",
        None,
    )
    shared_directory: bool = setting(
        "Several daemons work on this one directory, each seeing it under the same path and using the same "
        "database; every file is uploaded by whichever takes it first.",
        "true or false",
        False,
    )
    claim_seconds: float = setting(
        "A daemon that has given no sign of life for so long loses the uploads it was working on to others.",
        "5 to 3600",
        60,
        ge=5,
        le=3600,
    )
    upload_concurrency: int = setting("Files uploaded at once.", "1 to 64", 4, ge=1, le=64)
    settle_seconds: float = setting(
        "Quiet window on size, mtime and inode where no lease can be had.", "0.1 to 3600", 5, ge=0.1, le=3600
    )
    rescan_seconds: float = setting("Period of the full scan.", "1 to 86400", 300, ge=1, le=86400)
    release_after_seconds: float = setting(
        "How long the local copy stays after publication: people may still be playing it from its local URL.",
        "0 to 315360000",
        86400,
        ge=0,
        le=315_360_000,
    )
    disk_pressure_percent: float = setting(
        "Fuller than this, the watched directory's file system has published copies released at once, the "
        "oldest first. 100: never.",
        "1 to 100",
        90,
        ge=1,
        le=100,
    )
    keep_local: bool = setting("Never release a local copy; wins over everything.", "true or false", False)
    prune_directories_after_days: float | None = setting(
        "Remove empty directories that have not changed for so long. Unset: never.",
        "more than 0, up to 36500",
        None,
        gt=0,
        le=36500,
    )
    metrics_address: types.Address = setting(
        "Where `/metrics` is served; empty: nowhere.", "host:port, or empty", "127.0.0.1:9108"
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], types.UpperCase] = setting(
        "The least severe log line that is written.", "DEBUG, INFO, WARNING or ERROR", "INFO"
    )
    log_format: Literal["json", "console"] | None = setting(
        "Unset: `console` on a terminal, else `json`.", "json or console", None
    )

    @property
    def instance(self) -> str:
        """This daemon's name in the ledger."""
        return self.instance_id or socket.gethostname()

    @property
    def ledger_instance(self) -> str:
        """Whose uploads these are in the ledger: this daemon's, or everybody's on a shared directory."""
        return f"shared:{self.completed_dir}" if self.shared_directory else self.instance

    @property
    def bandwidth(self) -> float | None:
        """``MAX_BANDWIDTH`` in bytes per second; None for no limit."""
        return None if self.max_bandwidth is None else types.bytes_per_second(self.max_bandwidth)

    @property
    def ledger_url(self) -> str:
        """The URL of the ledger's database, password included."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        if "postgres_db" not in self.model_fields_set:
            return sqlite_url(os.path.join(os.path.abspath(state_directory()), "ledger.sqlite3"))
        password = self.postgres_password.get_secret_value() if self.postgres_password else ""
        login = quote(self.postgres_user, safe="") + (f":{quote(password, safe='')}" if password else "")
        database = quote(self.postgres_db, safe="")
        return f"postgresql://{login}@{self.postgres_host}:{self.postgres_port}/{database}"

    @property
    def on_postgresql(self) -> bool:
        """Whether the ledger lives in PostgreSQL."""
        return self.ledger_url.startswith("postgres")

    @property
    def catalog_kind(self) -> CatalogKind:
        """``CATALOG``, or what the database suggests."""
        return self.catalog or (CatalogKind.COMPRESSOR if self.on_postgresql else CatalogKind.OWN)

    @property
    def local_base(self) -> str:
        """The beginning of local URLs, without a trailing slash."""
        return self.local_base_url or f"file://{quote(self.completed_dir)}"


def state_directory(environ: Mapping[str, str] = os.environ) -> str:
    """The directory for what must survive a restart: systemd's, else the user's (XDG)."""
    if given := environ.get("STATE_DIRECTORY"):
        return given.split(":")[0]
    base = environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "video-uploader")
