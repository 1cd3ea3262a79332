"""The settings of what is here: the watched directory, the ledger's database, and the catalog in it."""

from __future__ import annotations

from enum import StrEnum

from pydantic import SecretStr

from db import QUALITIES
from watcher.renditions import TEMPLATE_HELP
from watcher.settings import types
from watcher.settings.settings_base import SettingsGroup, setting


class CatalogKind(StrEnum):
    """Who creates the rows that players read."""

    OWN = "own"
    COMPRESSOR = "compressor"
    NONE = "none"


class LocalSettings(SettingsGroup):
    """Directory, database and catalog."""

    completed_dir: types.Directory = setting("Directory to watch.", "a directory's absolute path")
    path_template: types.Template = setting(
        "How a path below it names a rendition. A file `{video_id}/{filename}{ext}` without a known quality "
        "is the `original`; so is the suffix `_original`. Without `{filename}` it is the word `video`.",
        TEMPLATE_HELP,
        "{video_id}/{filename}_{quality}{ext}",
    )
    video_extensions: types.Extensions = setting(
        "Nothing else is ever uploaded: a log beside the videos must not become public.",
        "extensions with their dot, separated by commas",
        (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".ts"),
    )
    qualities: types.Qualities = setting(
        "The quality words; a subset of the default unless `CATALOG=none`.",
        "words of letters and digits, separated by commas",
        QUALITIES,
    )
    ignore_patterns: types.Patterns = setting(
        "Names of files and directories that are never looked at.",
        "shell patterns, separated by commas",
        (".*", "*.tmp", "*.part", "*.partial", "*~"),
    )
    allow_hard_links: bool = setting(
        "Upload files that have other names (hard links) too. Whoever may write into the directory can then "
        "publish any file on its file system that he can link to. A release takes away only the name in the "
        "directory; the content stays under the others.",
        "true or false",
        False,
    )
    database_url: types.DatabaseUrl | None = setting(
        "The ledger's database. Unset: PostgreSQL from the `POSTGRES_*` names when `POSTGRES_DB` is set, "
        "else an SQLite file in `$STATE_DIRECTORY`, else in the user's state directory.",
        "sqlite:///absolute/path or postgresql://user:password@host:port/database",
        None,
    )
    database_schema: types.Identifier = setting(
        "The schema of our own tables on PostgreSQL.", "a lower-case SQL identifier", "video_uploader"
    )
    database_auto_migrate: bool = setting(
        "`run` brings our tables up to date when it starts. Else `db migrate` has to.", "true or false", True
    )
    catalog: CatalogKind | None = setting(
        "Who creates the `video_qualities` rows. Unset: `own` on SQLite, `compressor` on PostgreSQL.",
        "own, compressor or none",
        None,
    )
    catalog_schema: types.Identifier = setting(
        "The schema of the compressor's table `video_qualities`.", "a lower-case SQL identifier", "public"
    )
    catalog_row_timeout: float = setting(
        "Seconds after which a finished file without a catalog row that is ready is reported. It is kept "
        "and uploaded whenever the row comes.",
        "1 to 31536000",
        3600,
        ge=1,
        le=31_536_000,
    )
    delete_orphans: bool = setting(
        "Delete the objects whose catalog rows were deleted. Else they are kept and reported.",
        "true or false",
        False,
    )
    local_base_url: types.Url | None = setting(
        "The beginning of the local URL that stands in the row until the upload is confirmed (`own` "
        "catalog). Unset: `file://` and the directory.",
        "an absolute URL",
        None,
    )
    postgres_host: str = setting("The compressor's database server.", "a name or address", "localhost")
    postgres_port: int = setting("Its port.", "1 to 65535", 5432, ge=1, le=65535)
    postgres_user: str = setting("Its user.", "a role's name", "postgres")
    postgres_password: SecretStr | None = setting(
        "Its password; empty means trust authentication.", "text", None
    )
    postgres_db: str = setting("Its database.", "a database's name", "lambrk")
