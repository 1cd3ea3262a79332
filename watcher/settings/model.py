"""Every setting: its name, its type, its default, what it means, and which settings exclude each other."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from pydantic import (
    AliasGenerator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from db import QUALITIES, sqlite_url
from storage import CONTENT_TYPES
from watcher.renditions import TEMPLATE_HELP
from watcher.settings import types
from watcher.telemetry.formatting import bounded, quoted

POSTGRES_FIELDS = ("postgres_host", "postgres_port", "postgres_user", "postgres_password", "postgres_db")
"""The compressor's names for its database; those that are not given have its defaults."""


CREDENTIAL_HELP = "printable ASCII characters without spaces"


class CatalogKind(StrEnum):
    """Which program creates the rows that players read."""

    OWN = "own"
    COMPRESSOR = "compressor"
    NONE = "none"


def setting(meaning: str, allowed: str, default: Any = None, **constraints: Any) -> Any:
    """Declare a setting: `meaning` and `allowed` (which values are valid) are texts for the user."""
    return Field(default=default, description=meaning, json_schema_extra={"allowed": allowed}, **constraints)


def number(meaning: str, least: float, most: float, default: float | None = None) -> Any:
    """Declare a setting that takes a number in a closed range."""
    return setting(meaning, f"{least} to {most}", default, ge=least, le=most)


def switch(meaning: str, default: bool) -> Any:
    """Declare a setting that is true or false."""
    return setting(meaning, "true or false", default)


class Settings(BaseModel):
    """The settings of one instance; attributes are the documented names in lower case.

    Raises `pydantic.ValidationError` for every wrong value and every conflict between settings at once;
    no error repeats a secret.
    """

    model_config = ConfigDict(
        alias_generator=AliasGenerator(validation_alias=str.upper),
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    # Files, ledger and catalog

    completed_dir: types.Directory = setting("Directory to watch.", "a directory's absolute path", ...)
    path_template: types.Template = setting(
        "How a path below it names a rendition; the quality may be in upper case (`_720P`). A file "
        "`{video_id}/{filename}{ext}` without a known quality is the `original`; so is one with the suffix "
        "`_original`. Unless the compressor's rows decide, a name with something like a quality "
        "(`a_4320p`, `a-720p`) is ignored. Without `{filename}` in the template, the file name is `video`.",
        TEMPLATE_HELP,
        "{video_id}/{filename}_{quality}{ext}",
    )
    video_extensions: types.Extensions = setting(
        "Only files with these extensions, in any case, are uploaded: a log beside the videos must not "
        "become public. The default has the formats that ffmpeg reads, because originals keep theirs, "
        "except `.ts`: most such files are segments of HLS packages.",
        "extensions with their dot, separated by commas",
        tuple(extension for extension in CONTENT_TYPES if extension != ".ts"),
    )
    qualities: types.Qualities = setting(
        "Names of the qualities; a subset of the default unless `CATALOG=none`.",
        "names of letters and digits, separated by commas",
        QUALITIES,
    )
    ignore_patterns: types.Patterns = setting(
        "Names of files and directories that are ignored.",
        "shell patterns, separated by commas",
        (".*", "*.tmp", "*.part", "*.partial", "*~"),
    )
    accept_live_containers: bool = switch(
        "Upload an `original` whose WebM or Matroska segment has no size, as browsers' recorders and "
        "`ffmpeg -live 1` leave it, if its last cluster is whole and it has not changed for "
        "`SETTLE_SECONDS`. With the compressor's catalog a ready row decides.",
        True,
    )
    allow_hard_links: bool = switch(
        "Upload files that have several names (hard links). A user who can write to the directory can "
        "then publish any file of its file system that they may link to. A release removes only the name in "
        "the directory; the content stays under the others.",
        False,
    )
    database_url: types.DatabaseUrl | None = setting(
        "The ledger's database. Unset: PostgreSQL from the `POSTGRES_*` settings if any of them is set, "
        "else an SQLite file in `$STATE_DIRECTORY`, else in the user's state directory.",
        "sqlite:///absolute/path or postgresql://user:password@host:port/database",
    )
    database_schema: types.Identifier = setting(
        "Schema of the uploader's own tables on PostgreSQL.", "a lower-case SQL identifier", "video_uploader"
    )
    database_auto_migrate: bool = switch(
        "`run` migrates the uploader's tables when it starts. If false, `db migrate` has to.", True
    )
    catalog: CatalogKind | None = setting(
        "Which program creates the `video_qualities` rows. Unset: `own` on SQLite, `compressor` on "
        "PostgreSQL.",
        "own, compressor or none",
    )
    catalog_schema: types.Identifier = setting(
        "Schema of the compressor's table `video_qualities`.", "a lower-case SQL identifier", "public"
    )
    catalog_row_timeout: float = number(
        "Seconds after which a finished file without a ready catalog row is reported, and `gone` if its "
        "video has no row at all. The file is kept, and uploaded once a row is ready.",
        1,
        31_536_000,
        3600,
    )
    delete_orphans: bool = switch(
        "Delete objects whose catalog rows were deleted. If false, they are kept and reported.", False
    )
    local_base_url: types.Url | None = setting(
        "Start of the local URL that the catalog row holds until the upload is confirmed (`own` catalog). "
        "Unset: `file://` and the directory.",
        "an absolute URL",
    )
    postgres_host: types.PostgresHost = setting(
        "Host of the compressor's database server.", "a name, an address or a socket's directory", "localhost"
    )
    postgres_port: int = number("Port of the server.", 1, 65535, 5432)
    postgres_user: types.PostgresName = setting("User to log in as.", "a role's name", "postgres")
    postgres_password: SecretStr | None = setting(
        "Password of the user; empty for trust authentication.", "text"
    )
    postgres_db: types.PostgresName = setting("Name of the database.", "a database's name", "lambrk")

    # Bucket, objects and CDN

    aws_access_key_id: types.Credential | None = setting(
        "Access key; needs the secret key. Both unset: the credentials that boto3 finds (profile, "
        "instance role, …).",
        CREDENTIAL_HELP,
    )
    aws_secret_access_key: types.Credential | None = setting("Secret key.", CREDENTIAL_HELP)
    aws_session_token: types.Credential | None = setting(
        "Session token of temporary credentials.", CREDENTIAL_HELP
    )
    aws_region: types.Region = setting("Region of the bucket.", "a region's name", "ap-south-1")
    aws_s3_bucket: types.Bucket = setting(
        "Name of the bucket.", "a bucket's name: 3 to 63 of a-z 0-9 . -", "lam-brk"
    )
    aws_s3_base_url: types.Url | None = setting(
        "Start of public URLs. Unset: derived from bucket and region, or from the endpoint.",
        "an absolute URL",
    )
    cloudfront_domain: types.HostName | None = setting(
        "Domain name of the CDN; public URLs start with it instead of `AWS_S3_BASE_URL`.", "a host name"
    )
    cloudfront_distribution_id: types.DistributionId | None = setting(
        "CloudFront distribution in which the path of a replaced object is invalidated.",
        "a distribution's id",
    )
    aws_endpoint_url_cloudfront: types.EndpointUrl | None = setting(
        "Endpoint of the CloudFront API. Unset: that of AWS.", "an http or https URL"
    )
    verify_public_url: bool = switch(
        "Fetch the object from its public URL before the URL is published.", False
    )
    aws_s3_videos_prefix: types.Prefix = setting(
        "Prefix of object keys.", "a path without a leading or trailing slash", "videos"
    )
    aws_endpoint_url: types.EndpointUrl | None = setting(
        "Endpoint of an S3-compatible server. Unset: that of AWS.", "an http or https URL"
    )
    aws_s3_addressing: Literal["auto", "path", "virtual"] = setting(
        "Where the bucket stands in URLs: `path`, `virtual` (host name), or `auto`: what the server takes.",
        "auto, path or virtual",
        "auto",
    )
    aws_s3_checksum: Literal["auto", "crc64nvme", "md5", "none"] = setting(
        "What goes along with each body, so that the server refuses a difference. `auto`: CRC64NVME, or "
        "Content-MD5 where the server refuses that.",
        "auto, crc64nvme, md5 or none",
        "auto",
    )
    aws_s3_max_parts: int | None = number(
        "How many parts of one upload the server takes. Unset: 10,000, or what is known of it or found out.",
        100,
        10_000,
    )
    aws_s3_prove_by_reading: bool = switch(
        "Read an object back once where the server gives no other proof of its content.", True
    )
    aws_s3_acl: Literal["public-read", "none"] = setting(
        "Canned ACL of every object.", "public-read or none", "public-read"
    )
    aws_s3_cache_control: types.HeaderValue = setting(
        "`Cache-Control` of every object; an object can be replaced under its key.",
        "a Cache-Control value",
        "public, max-age=3600",
    )
    aws_s3_storage_class: types.StorageClass | None = setting(
        "Storage class of every object. Unset: the bucket's default.", "a class's name: STANDARD_IA, …"
    )
    aws_s3_sse: Literal["AES256", "aws:kms"] | None = setting(
        "Server-side encryption. Unset: the bucket's default.", "AES256 or aws:kms"
    )
    aws_s3_sse_kms_key_id: types.KmsKey | None = setting(
        "KMS key for `AWS_S3_SSE=aws:kms`. Unset: the account's default key.", "a key's id or ARN"
    )
    aws_s3_tags: types.Tags | None = setting(
        "Tags of every object.", "name=value pairs separated by &, at most 10"
    )
    aws_s3_expected_bucket_owner: types.AccountId | None = setting(
        "Account that owns the bucket; requests fail if another account does.", "an account's 12 digits"
    )
    max_bandwidth: types.Bandwidth | None = setting(
        "Bandwidth limit of all uploads together. Unset or `none`: no limit. A timetable such as `07:00 "
        "20MB/s 23:00 none` has a rate from each time of day on, in the time zone of this machine (`TZ`).",
        "a rate such as 20MB/s, 500Mbit/s or none; or times of day, each with a rate",
    )
    stall_seconds: float = number(
        "A request that makes no progress for this long is cancelled and retried. The S3 client itself waits "
        "for about a minute at most.",
        1,
        3600,
        60,
    )
    cors_origins: types.Origins = setting(
        "Origins whose scripts may read the objects: `bucket setup` allows them and `doctor` tests them.",
        "`*`, or origins such as https://example.com, separated by commas",
        ("*",),
    )
    lifecycle_transition_days: int | None = number(
        "Age in days at which objects move to the class below, as set up by `bucket setup`. Unset: never.",
        0,
        36500,
    )
    lifecycle_transition_class: (
        Literal["STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"]
        | None
    ) = setting(
        "Storage class that they move to; objects in `GLACIER` and `DEEP_ARCHIVE` cannot be played.",
        "STANDARD_IA, ONEZONE_IA, INTELLIGENT_TIERING, GLACIER_IR, GLACIER or DEEP_ARCHIVE",
    )
    lifecycle_expire_days: int | None = number(
        "Age in days at which objects are deleted, even if links to them exist, as set up by `bucket "
        "setup`. Unset: never.",
        1,
        36500,
    )

    # The daemon

    instance_id: types.InstanceName | None = setting(
        "Name of this daemon in the ledger. Unset: the host name.", "1 to 100 printable characters"
    )
    shared_directory: bool = switch(
        "Several daemons share this directory, under the same path and with the same database; each file "
        "is uploaded by the first one that claims it.",
        False,
    )
    claim_seconds: float = number(
        "A daemon that does not renew its claims for this long loses the claimed uploads to other daemons.",
        5,
        3600,
        60,
    )
    upload_concurrency: int = number(
        "Number of files of more than 16 MiB uploaded at once; up to 32 smaller ones are besides.", 1, 64, 4
    )
    upload_order: Literal["playable", "oldest"] = setting(
        "`playable`: first the smallest quality of a video of which nothing is uploaded; what has waited for "
        "15 minutes has half of the places. `oldest`: what has waited longest.",
        "playable or oldest",
        "playable",
    )
    settle_seconds: float = number(
        "How long size, mtime and inode must stay unchanged where the kernel grants no lease.", 0.1, 3600, 5
    )
    rescan_seconds: float = number("Interval between full scans.", 1, 86400, 300)
    release_after_seconds: float = number(
        "How long the local copy is kept after publication: players may still use its local URL.",
        0,
        315_360_000,
        86400,
    )
    disk_pressure_percent: float = number(
        "If the file system of the watched directory is fuller than this, published copies are released "
        "at once, the oldest first. 100: never.",
        1,
        100,
        90,
    )
    keep_local: bool = switch("Never release a local copy; takes precedence over every other setting.", False)
    prune_directories_after_days: float | None = setting(
        "Remove empty directories that have not changed for this many days. Unset: never.",
        "more than 0, up to 36500",
        gt=0,
        le=36500,
    )
    receipts_keep_days: int | None = setting(
        "Days after which the ledger forgets a released file, unless a file is at its path or the "
        "compressor's catalog has its row: `audit` reports its object as unknown then. Unset: never.",
        "1 to 36500",
        ge=1,
        le=36500,
    )
    http_address: types.Address = setting(
        "Address of the HTTP server: status page, `/metrics`, `/healthz`, `/readyz`, `/api/`; empty: none. "
        "It asks for no password.",
        "host:port, or empty",
        "127.0.0.1:9108",
    )
    http_hosts: types.HostNames | None = setting(
        "Names by which the HTTP server may be asked for, such as that of a proxy before it, besides "
        "`localhost` and its address. Requests for other names are refused.",
        "host names separated by commas",
    )
    metrics_address: types.Address | None = setting("Earlier name of `HTTP_ADDRESS`.", "host:port, or empty")
    on_published: types.Command | None = setting(
        "Command to run when a rendition is published; it is given the event as JSON on its standard input. "
        "There is no shell; an exit status other than 0 is retried for three days.",
        "a program and its arguments, quoted as for a shell",
    )
    on_video_complete: types.Command | None = setting(
        "The same when all renditions of a video are live.",
        "a program and its arguments, quoted as for a shell",
    )
    webhook_url: types.SecretUrl | None = setting(
        "URL to which every event is posted as JSON, at least once and for three days.",
        "an http or https URL",
    )
    webhook_secret: types.Credential | None = setting(
        "Key of the signature in the header `X-Video-Uploader-Signature` of these requests.", CREDENTIAL_HELP
    )
    heartbeat_url: types.SecretUrl | None = setting(
        "URL that is fetched once a minute while all is well.", "an http or https URL"
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], types.UpperCase] = setting(
        "Lowest severity that is logged.", "DEBUG, INFO, WARNING, ERROR or CRITICAL", "INFO"
    )
    log_format: Literal["json", "console"] | None = setting(
        "Format of log lines. Unset: `console` on a terminal, else `json`.", "json or console"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _check_text(cls, value: object) -> object:
        return types.plain_text(value)

    @model_validator(mode="wrap")
    @classmethod
    def _check_combinations(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Report conflicts together with wrong values, so that one attempt shows everything to correct."""
        conflicts = list(_conflicts(values)) if isinstance(values, Mapping) else []
        if not conflicts:
            return handler(values)
        wrong: list[InitErrorDetails] = []
        try:
            handler(values)
        except ValidationError as exc:
            wrong = [
                {"type": PydanticCustomError(error["type"], error["msg"]), "loc": error["loc"], "input": None}
                for error in exc.errors(include_url=False, include_context=False, include_input=False)
            ]
        raise ValidationError.from_exception_data(cls.__name__, [*wrong, *conflicts], hide_input=True)

    @property
    def instance(self) -> str:
        """``INSTANCE_ID``, or the host name."""
        return self.instance_id or socket.gethostname()

    @property
    def ledger_instance(self) -> str:
        """The instance that owns the ledger rows: this daemon, or all daemons of a shared directory."""
        return f"shared:{self.completed_dir}" if self.shared_directory else self.instance

    @property
    def served_address(self) -> str:
        """``HTTP_ADDRESS``, or its earlier name ``METRICS_ADDRESS``; empty for no HTTP server."""
        return self.http_address if self.metrics_address is None else self.metrics_address

    def bandwidth_at(self, moment: datetime) -> float | None:
        """``MAX_BANDWIDTH`` in bytes per second at a local time; None for no limit.

        It is the rate of the latest entry of the timetable; before the first one, that of the evening before.
        """
        timetable = types.bandwidth_timetable(self.max_bandwidth or "none")
        minute = 60 * moment.hour + moment.minute
        begun = [rate for begin, rate in timetable if begin <= minute]
        return (begun or [timetable[-1][1]])[-1]

    @property
    def ledger_url(self) -> str:
        """The URL of the ledger's database, password included."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        if self.model_fields_set.isdisjoint(POSTGRES_FIELDS):
            return sqlite_url(os.path.join(os.path.abspath(state_directory()), "ledger.sqlite3"))
        password = self.postgres_password.get_secret_value() if self.postgres_password else ""
        login = quote(self.postgres_user, safe="") + (f":{quote(password, safe='')}" if password else "")
        database = quote(self.postgres_db, safe="")
        # An IPv6 address stands in brackets, a socket's directory is percent-encoded (libpq, 34.1.1.2).
        host = f"[{self.postgres_host}]" if ":" in self.postgres_host else quote(self.postgres_host, safe=",")
        return f"postgresql://{login}@{host}:{self.postgres_port}/{database}"

    @property
    def on_postgresql(self) -> bool:
        """Whether the ledger lives in PostgreSQL."""
        return self.ledger_url.startswith("postgres")

    @property
    def catalog_kind(self) -> CatalogKind:
        """``CATALOG``, or the default for the kind of database."""
        return self.catalog or (CatalogKind.COMPRESSOR if self.on_postgresql else CatalogKind.OWN)

    @property
    def local_base(self) -> str:
        """Start of local URLs, without a trailing slash."""
        return self.local_base_url or f"file://{quote(self.completed_dir)}"


def state_directory(environ: Mapping[str, str] = os.environ) -> str:
    """Return the directory for state that survives a restart.

    That is systemd's (systemd.exec(5)), else one in the user's (XDG Base Directory Specification).
    """
    if given := environ.get("STATE_DIRECTORY"):
        return given.split(":")[0]
    base = environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "video-uploader")


_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
"""The texts that pydantic takes for true."""

CONFLICT = "conflict"
"""The type of errors about combinations; their messages end with what is allowed."""


def _conflicts(values: Mapping[str, Any]) -> Iterator[InitErrorDetails]:
    """Yield an error for each refused combination; works on raw values, which may themselves be wrong."""
    given = {name: _as_text(value).strip() for name, value in values.items() if value is not None}
    keys = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    if len(missing := keys - given.keys()) == 1:
        yield _conflict(missing.pop(), "it is missing; allowed: both keys or neither")
    transition = {"LIFECYCLE_TRANSITION_DAYS", "LIFECYCLE_TRANSITION_CLASS"}
    if len(missing := transition - given.keys()) == 1:
        (other,) = transition - missing
        yield _conflict(
            missing.pop(),
            f"it is missing, and {other} is {quoted(given[other])}; allowed: both days and class, or neither",
        )
    addresses = [given[name] for name in ("HTTP_ADDRESS", "METRICS_ADDRESS") if name in given]
    if len(set(addresses)) == 2:
        yield _conflict(
            "METRICS_ADDRESS",
            f"it is the earlier name of HTTP_ADDRESS, which is {quoted(addresses[0])}; "
            "allowed: one of the two",
        )
    names_postgresql = not given.keys().isdisjoint(map(str.upper, POSTGRES_FIELDS))
    url = given.get("DATABASE_URL", "postgres" if names_postgresql else "")
    on_postgresql = url.startswith("postgres")
    if given.get("CATALOG") == CatalogKind.COMPRESSOR and not on_postgresql:
        yield _conflict(
            "CATALOG", "compressor needs its PostgreSQL; allowed: with DATABASE_URL or POSTGRES_* set"
        )
    if given.get("SHARED_DIRECTORY", "").lower() in _TRUE and not on_postgresql:
        yield _conflict(
            "SHARED_DIRECTORY",
            "daemons on several machines meet in PostgreSQL; allowed: with DATABASE_URL or POSTGRES_* set",
        )
    if "AWS_S3_SSE_KMS_KEY_ID" in given and given.get("AWS_S3_SSE") != "aws:kms":
        sse = (
            f"AWS_S3_SSE is {quoted(given['AWS_S3_SSE'])}" if "AWS_S3_SSE" in given else "AWS_S3_SSE is unset"
        )
        yield _conflict("AWS_S3_SSE_KMS_KEY_ID", f"{sse}; allowed: with AWS_S3_SSE=aws:kms")
    bucket = given.get("AWS_S3_BUCKET", Settings.model_fields["aws_s3_bucket"].default)
    if given.get("AWS_ENDPOINT_URL", "").rstrip("/").endswith(f"/{bucket}"):
        yield _conflict(
            "AWS_ENDPOINT_URL",
            f"it ends in the bucket {quoted(bucket)}, which is added to it; "
            "allowed: the server's address alone",
        )
    qualities = {name.strip() for name in given.get("QUALITIES", "").split(",")} - {""}
    # What is no name at all is refused by the setting's type.
    foreign = sorted(name for name in qualities - set(QUALITIES) if re.fullmatch(types.QUALITY, name))
    if foreign and given.get("CATALOG") != CatalogKind.NONE:
        yield _conflict(
            "QUALITIES",
            f"the video_qualities table refuses {bounded(', '.join(foreign), 100)}; "
            f"allowed with a catalog: {','.join(QUALITIES)}",
        )


def _conflict(name: str, sentence: str) -> InitErrorDetails:
    return {"type": PydanticCustomError(CONFLICT, sentence), "loc": (name,), "input": None}


def _as_text(value: object) -> str:
    """Return a value as the environment would give it."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
