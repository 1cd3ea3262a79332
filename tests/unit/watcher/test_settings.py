"""The settings: sources, valid values, derived values, and that no secret is shown."""

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from db import QUALITIES
from storage import CONTENT_TYPES
from watcher.app.factories import make_naming, make_path_template, make_storage_config
from watcher.renditions import Ignored, Rendition
from watcher.settings.loading import SECRETS, SettingsError, load_settings, read_sources
from watcher.settings.model import CatalogKind, Settings, state_directory
from watcher.settings.report import mask_url, report_settings
from watcher.settings.unused import unused_settings
from watcher.telemetry.formatting import quoted
from watcher.telemetry.redaction import MASK

VIDEO_ID = "0b8e3f60-9d5c-4c1a-8f8e-3b1f0a7d2c11"
SECRET = "s3cr3t-that-nobody-may-see"


class Given:
    """The two sources of settings, filled by a test."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.env_file = str(directory / "settings.env")
        self._monkeypatch = monkeypatch
        for name in [*map(str.upper, Settings.model_fields), "STATE_DIRECTORY", "XDG_STATE_HOME"]:
            monkeypatch.delenv(name, raising=False)
        self.environment(COMPLETED_DIR="/srv/completed", XDG_STATE_HOME="/home/u/.state")

    def environment(self, **values: str) -> "Given":
        for name, value in values.items():
            self._monkeypatch.setenv(name, value)
        return self

    def file(self, text: str) -> "Given":
        with open(self.env_file, "w", encoding="utf-8") as file:
            file.write(text)
        return self

    def settings(self) -> Settings:
        return load_settings(self.env_file)

    def problems(self) -> list[str]:
        with pytest.raises(SettingsError) as wrong:
            self.settings()
        assert SECRET not in str(wrong.value)
        assert SECRET not in repr(wrong.value)
        return wrong.value.problems

    def report(self, name: str) -> tuple[str, str]:
        """Value and source of a setting, as `config` shows them."""
        by_name = {entry.name: entry for entry in report_settings(self.settings(), self.env_file)}
        return by_name[name].value, by_name[name].source


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Given:
    return Given(tmp_path, monkeypatch)


def test_only_the_directory_is_required(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    assert given.settings().completed_dir == "/srv/completed"
    monkeypatch.delenv("COMPLETED_DIR")
    assert given.problems() == [
        "COMPLETED_DIR: it is required and not set; allowed: a directory's absolute path"
    ]


def test_the_environment_wins_over_the_file(given: Given) -> None:
    given.file("AWS_S3_BUCKET=from-file\nAWS_REGION=eu-west-1\n").environment(AWS_S3_BUCKET="from-env")
    settings = given.settings()
    assert (settings.aws_s3_bucket, settings.aws_region) == ("from-env", "eu-west-1")


def test_an_empty_value_means_unset_so_that_the_file_or_the_default_counts(given: Given) -> None:
    given.file("AWS_S3_BUCKET=from-file\nUPLOAD_CONCURRENCY=\n")
    given.environment(AWS_S3_BUCKET="", RESCAN_SECONDS="", AWS_ACCESS_KEY_ID="", POSTGRES_DB="")
    settings = given.settings()
    assert (settings.aws_s3_bucket, settings.upload_concurrency) == ("from-file", 4)
    assert settings.rescan_seconds == 300
    assert settings.aws_access_key_id is None
    assert not settings.on_postgresql


def test_an_empty_metrics_address_switches_metrics_off_also_over_the_file(given: Given) -> None:
    given.file("METRICS_ADDRESS=127.0.0.1:9999\n").environment(METRICS_ADDRESS="")
    assert given.settings().metrics_address == ""


def test_names_of_others_are_ignored_and_names_are_case_sensitive(given: Given) -> None:
    given.file("PENDING_DIR=/x\nSECRET_KEY=y\nupload_concurrency=9\n").environment(upload_concurrency="9")
    assert given.settings().upload_concurrency == 4


def test_a_missing_file_gives_nothing(given: Given) -> None:
    assert read_sources(given.env_file)[given.env_file] == {}


def test_a_file_that_is_no_text_is_one_sentence(given: Given) -> None:
    with open(given.env_file, "wb") as file:
        file.write(b"AWS_S3_BUCKET=\xff\xfe\n")
    assert given.problems() == [
        f"{given.env_file} is not UTF-8 text (invalid start byte at byte 14); save it as UTF-8"
    ]


def test_a_file_that_cannot_be_read_is_one_sentence(
    given: Given, unprivileged: Callable[[], object], place: str
) -> None:
    given.env_file = os.path.join(place, "settings.env")
    given.file("AWS_REGION=x\n")
    os.chmod(given.env_file, 0)
    with unprivileged():  # type: ignore[attr-defined]  # a context manager of no named type
        assert given.problems() == [f"{given.env_file} cannot be read (Permission denied); make it readable"]


WRONG = {
    "COMPLETED_DIR": "relative/dir",
    "PATH_TEMPLATE": "{video_id}/{nonsense}{ext}",
    "VIDEO_EXTENSIONS": "mp4",
    "QUALITIES": "720p,bad word",
    "IGNORE_PATTERNS": "a/b",
    "ACCEPT_LIVE_CONTAINERS": "sometimes",
    "ALLOW_HARD_LINKS": "2",
    "DATABASE_URL": f"mysql://user:{SECRET}@host/db",
    "DATABASE_SCHEMA": "Not An Identifier",
    "DATABASE_AUTO_MIGRATE": "later",
    "CATALOG": "theirs",
    "CATALOG_SCHEMA": "public.x",
    "CATALOG_ROW_TIMEOUT": "0.5",
    "DELETE_ORPHANS": "all",
    "LOCAL_BASE_URL": "no-url",
    "POSTGRES_HOST": "db example",
    "POSTGRES_PORT": "70000",
    "POSTGRES_USER": "u" * 64,
    "POSTGRES_PASSWORD": f"{SECRET}\x1b",
    "POSTGRES_DB": "d" * 64,
    "AWS_ACCESS_KEY_ID": f"{SECRET} x",
    "AWS_SECRET_ACCESS_KEY": f"{SECRET} x",
    "AWS_SESSION_TOKEN": f"{SECRET} x",
    "AWS_REGION": "eu west",
    "AWS_S3_CACHE_CONTROL": "max-age=é",
    "AWS_S3_STORAGE_CLASS": "standard ia",
    "AWS_S3_BUCKET": "Not_A_Bucket",
    "AWS_S3_BASE_URL": f"https://cdn.example.com/?x={SECRET}",
    "CLOUDFRONT_DOMAIN": "https://cdn.example.com",
    "CLOUDFRONT_DISTRIBUTION_ID": "E-1",
    "AWS_ENDPOINT_URL_CLOUDFRONT": f"http://{SECRET}@cdn.example",
    "VERIFY_PUBLIC_URL": "maybe",
    "AWS_S3_VIDEOS_PREFIX": "/videos/",
    "AWS_ENDPOINT_URL": "127.0.0.1:9000",
    "AWS_S3_ADDRESSING": "host",
    "AWS_S3_CHECKSUM": "sha1",
    "AWS_S3_MAX_PARTS": "99",
    "AWS_S3_PROVE_BY_READING": "often",
    "AWS_S3_ACL": "public-read-write",
    "AWS_S3_SSE": "aes",
    "AWS_S3_SSE_KMS_KEY_ID": "a key",
    "AWS_S3_TAGS": "team",
    "AWS_S3_EXPECTED_BUCKET_OWNER": "1234",
    "MAX_BANDWIDTH": "07:00 fast",
    "STALL_SECONDS": "1e6",
    "CORS_ORIGINS": "example.com",
    "LIFECYCLE_TRANSITION_DAYS": "-3",
    "LIFECYCLE_TRANSITION_CLASS": "COLD",
    "LIFECYCLE_EXPIRE_DAYS": "1.5",
    "INSTANCE_ID": "i" * 101,
    "SHARED_DIRECTORY": "both",
    "CLAIM_SECONDS": "4.9",
    "UPLOAD_CONCURRENCY": "0",
    "UPLOAD_ORDER": "newest",
    "SETTLE_SECONDS": "soon",
    "RESCAN_SECONDS": "0",
    "RELEASE_AFTER_SECONDS": "-1",
    "DISK_PRESSURE_PERCENT": "101",
    "KEEP_LOCAL": "perhaps",
    "PRUNE_DIRECTORIES_AFTER_DAYS": "0",
    "RECEIPTS_KEEP_DAYS": "0",
    "HTTP_ADDRESS": "9108",
    "HTTP_HOSTS": "a b",
    "METRICS_ADDRESS": "9108",
    "ON_PUBLISHED": "tell 'all of them",
    "ON_VIDEO_COMPLETE": "''",
    "WEBHOOK_URL": f"https://me:{SECRET}@hooks.example:port/",
    "WEBHOOK_SECRET": f"{SECRET} key",
    "HEARTBEAT_URL": f"ftp://ping.example/{SECRET}",
    "LOG_LEVEL": "LOUD",
    "LOG_FORMAT": "xml",
}
"""A wrong value of every setting, with a secret where one can be."""

SHOWN = {
    "AWS_S3_BASE_URL": f"https://cdn.example.com/?{MASK}",
    "AWS_ENDPOINT_URL_CLOUDFRONT": f"http://{MASK}cdn.example",
}
"""How a value is shown that is not shown as it is."""


RIGHT = {
    "COMPLETED_DIR": "/srv/completed",
    "PATH_TEMPLATE": "{video_id}/{quality}{ext}",
    "VIDEO_EXTENSIONS": ".mp4,.mov",
    "QUALITIES": "720p,original",
    "IGNORE_PATTERNS": "*.tmp,.*",
    "ACCEPT_LIVE_CONTAINERS": "false",
    "ALLOW_HARD_LINKS": "true",
    "DATABASE_URL": "postgresql://u:p@h/d",
    "DATABASE_SCHEMA": "uploader",
    "DATABASE_AUTO_MIGRATE": "false",
    "CATALOG": "compressor",
    "CATALOG_SCHEMA": "public",
    "CATALOG_ROW_TIMEOUT": "99",
    "DELETE_ORPHANS": "true",
    "LOCAL_BASE_URL": "https://example.com/videos",
    "POSTGRES_HOST": "db.example",
    "POSTGRES_PORT": "6432",
    "POSTGRES_USER": "user",
    "POSTGRES_PASSWORD": SECRET,
    "POSTGRES_DB": "lambrk",
    "AWS_ACCESS_KEY_ID": SECRET,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_SESSION_TOKEN": SECRET,
    "AWS_REGION": "eu-west-1",
    "AWS_S3_BUCKET": "my-videos",
    "AWS_S3_BASE_URL": "https://cdn.example",
    "CLOUDFRONT_DOMAIN": "cdn.example",
    "CLOUDFRONT_DISTRIBUTION_ID": "E1A2",
    "AWS_ENDPOINT_URL_CLOUDFRONT": "http://127.0.0.1:9",
    "VERIFY_PUBLIC_URL": "true",
    "AWS_S3_VIDEOS_PREFIX": "a/b",
    "AWS_ENDPOINT_URL": "http://[::1]:9000",
    "AWS_S3_ADDRESSING": "virtual",
    "AWS_S3_CHECKSUM": "md5",
    "AWS_S3_MAX_PARTS": "1000",
    "AWS_S3_PROVE_BY_READING": "false",
    "AWS_S3_ACL": "none",
    "AWS_S3_CACHE_CONTROL": "public, max-age=9",
    "AWS_S3_STORAGE_CLASS": "STANDARD_IA",
    "AWS_S3_SSE": "aws:kms",
    "AWS_S3_SSE_KMS_KEY_ID": "arn:aws:kms:eu-west-1:123456789012:key/0b8e-1",
    "AWS_S3_TAGS": "a=b&c=d",
    "AWS_S3_EXPECTED_BUCKET_OWNER": "123456789012",
    "MAX_BANDWIDTH": "07:00 20MB/s 23:00 none",
    "STALL_SECONDS": "30",
    "CORS_ORIGINS": "https://a.example,https://b.example",
    "LIFECYCLE_TRANSITION_DAYS": "30",
    "LIFECYCLE_TRANSITION_CLASS": "GLACIER",
    "LIFECYCLE_EXPIRE_DAYS": "90",
    "INSTANCE_ID": "one two",
    "SHARED_DIRECTORY": "true",
    "CLAIM_SECONDS": "30",
    "UPLOAD_CONCURRENCY": "12",
    "UPLOAD_ORDER": "oldest",
    "SETTLE_SECONDS": "10",
    "RESCAN_SECONDS": "60",
    "RELEASE_AFTER_SECONDS": "60",
    "DISK_PRESSURE_PERCENT": "80",
    "KEEP_LOCAL": "true",
    "PRUNE_DIRECTORIES_AFTER_DAYS": "30",
    "RECEIPTS_KEEP_DAYS": "365",
    "HTTP_ADDRESS": "127.0.0.1:9",
    "HTTP_HOSTS": "uploader.example,status",
    "METRICS_ADDRESS": "127.0.0.1:9",
    "ON_PUBLISHED": "/usr/local/bin/tell 'all of them'",
    "ON_VIDEO_COMPLETE": "tell",
    "WEBHOOK_URL": "https://hooks.example/T0/B0/x",
    "WEBHOOK_SECRET": "a-key",
    "HEARTBEAT_URL": "https://ping.example/5d41f7c2e9",
    "LOG_LEVEL": "ERROR",
    "LOG_FORMAT": "json",
}
"""A valid value of every setting."""


def test_white_space_around_a_value_does_not_count(given: Given) -> None:
    assert [*RIGHT] == [name.upper() for name in Settings.model_fields]
    exact = given.environment(**RIGHT).settings()
    given.environment(**{name: f" \t{value}\r\n" for name, value in RIGHT.items()})
    assert given.settings() == exact
    padded: dict[str, Any] = {name: f" {value}\n" for name, value in RIGHT.items()}
    assert Settings(**padded) == exact
    given.environment(AWS_S3_BUCKET=" \t", LOG_FORMAT="\n")
    assert (given.settings().aws_s3_bucket, given.settings().log_format) == ("lam-brk", None)


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("character", ["\n", "\t", "\x1b", "\x7f", "\x85", "\udcff"])
def test_a_control_character_in_a_value_is_refused_by_name_without_the_value(
    given: Given, name: str, character: str
) -> None:
    value = RIGHT[name]
    given.environment(**{**RIGHT, name: value[:1] + character + value[1:]})
    sentences = given.problems()
    reason = "it is not valid UTF-8" if character == "\udcff" else "it contains a control character"
    assert any(sentence.startswith(f"{name}: {reason}") for sentence in sentences)
    assert all(SECRET[1:] not in sentence and sentence.isprintable() for sentence in sentences)


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
@pytest.mark.parametrize("value", [f"{SECRET} x", f"x\N{NO-BREAK SPACE}{SECRET}", f"é{SECRET}"])
def test_a_credential_that_no_header_can_hold_is_refused(given: Given, name: str, value: str) -> None:
    (sentence,) = given.environment(**{**RIGHT, name: value}).problems()
    assert sentence.startswith(f"{name}: it contains white space")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_S3_SSE_KMS_KEY_ID", "a key"),
        ("AWS_ENDPOINT_URL", "ftp://s3.example"),
        ("AWS_ENDPOINT_URL", "http://s3.example:port"),
        ("AWS_ENDPOINT_URL_CLOUDFRONT", "file:///x"),
        ("AWS_S3_BASE_URL", "https://cdn.example/a b"),
        ("AWS_S3_VIDEOS_PREFIX", "videos/../other"),
        ("AWS_S3_VIDEOS_PREFIX", ".."),
        ("AWS_S3_VIDEOS_PREFIX", "./a"),
        ("POSTGRES_HOST", "user@host"),
        ("POSTGRES_HOST", "host/db"),
    ],
)
def test_a_value_of_another_shape_is_refused(given: Given, name: str, value: str) -> None:
    (sentence,) = given.environment(**{**RIGHT, name: value}).problems()
    assert sentence.startswith(f"{name}: it")


@pytest.mark.parametrize("value", ["..a/b..", "a/.b", "...", "a.b"])
def test_dots_in_a_prefix_are_allowed(given: Given, value: str) -> None:
    assert given.environment(AWS_S3_VIDEOS_PREFIX=value).settings().aws_s3_videos_prefix == value


@pytest.mark.parametrize(
    "password",
    ["first@second", "12/first@second", "12?first@second", "12#first", "first%zz", "12/3?first@second"],
)
def test_a_password_that_is_not_encoded_is_refused_without_any_part_of_it(
    given: Given, password: str
) -> None:
    """libpq takes what follows its first '@' or '/' for a host or a database, and quotes that."""
    given.environment(DATABASE_URL=f"postgresql://u:{password}@host/db")
    (sentence,) = given.problems()
    assert sentence.startswith("DATABASE_URL: it")
    assert not any(part in sentence for part in ("first", "second", "12"))


def test_every_wrong_value_is_reported_at_once_with_its_name_and_what_is_allowed(given: Given) -> None:
    given.environment(**{**WRONG, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": SECRET})
    problems = given.problems()
    assert {failure.partition(":")[0] for failure in problems} >= WRONG.keys() - {"AWS_SECRET_ACCESS_KEY"}
    assert any(failure.startswith("AWS_ACCESS_KEY_ID: it is missing") for failure in problems)
    assert all("; allowed" in failure for failure in problems)


def test_there_is_a_wrong_value_of_every_setting() -> None:
    assert WRONG.keys() == {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("name", WRONG)
def test_one_wrong_value_is_one_sentence_with_the_value_unless_it_is_secret(given: Given, name: str) -> None:
    given.environment(**{name: WRONG[name]})
    allowed = Settings.model_fields[name.lower()].json_schema_extra
    assert isinstance(allowed, dict)
    first = given.problems()[0]
    shown = "" if name in SECRETS else f" (given: {quoted(SHOWN.get(name, WRONG[name]))})"
    assert re.fullmatch(
        rf"{name}: [^(].*{re.escape(shown)}; allowed: {re.escape(str(allowed['allowed']))}", first
    )
    assert first.isprintable()
    assert ("(given: " in first) == (name not in SECRETS)


@pytest.mark.parametrize("name", [name for name in WRONG if name not in SECRETS])
def test_a_value_of_any_length_and_any_characters_makes_a_short_printable_sentence(
    given: Given, name: str
) -> None:
    given.environment(**{name: f"'//\N{RIGHT-TO-LEFT OVERRIDE}{'/?x, ' * 2_000}"})
    first = given.problems()[0]
    assert first.isprintable()
    assert len(first) < 700


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (f"http://u:{SECRET}@h", f"http://{MASK}h"),
        (f"http://u:{SECRET}/x@h:1/videos", f"http://{MASK}h:1/videos"),
        (f"http://u:{SECRET}", f"http://u:{MASK}"),
        (f"u:{SECRET}@h", f"{MASK}h"),
        (f"http://h/videos?token={SECRET}", f"http://h/videos?{MASK}"),
        ("http://h:99999999/videos", f"http://h:{MASK}/videos"),
        ("ftp://h:1", "ftp://h:1"),
        ("http://[::1]:1/my videos", "http://[::1]:1/my videos"),
    ],
)
def test_a_wrong_url_is_shown_without_what_may_be_a_secret(given: Given, value: str, shown: str) -> None:
    (sentence,) = given.environment(AWS_ENDPOINT_URL=value).problems()
    assert f"(given: {shown!r})" in sentence


@pytest.mark.parametrize("name", ["AWS_REGION", "AWS_S3_BUCKET", "CATALOG_SCHEMA", "ON_PUBLISHED"])
def test_a_secret_that_is_given_in_the_wrong_place_is_not_shown(given: Given, name: str) -> None:
    given.environment(AWS_ACCESS_KEY_ID="A", AWS_SECRET_ACCESS_KEY=SECRET, **{name: f"x, '{SECRET}"})
    assert MASK in given.problems()[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", f"postgresql://u:{SECRET}\N{ACCOUNT OF}@h/db"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}[@h/db"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}/x@h/db"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}?x@h/db"),
        ("AWS_ENDPOINT_URL", f"http://u:{SECRET}\N{ACCOUNT OF}@h"),
        ("AWS_S3_BASE_URL", f"http://u:{SECRET}[@h"),
        ("AWS_S3_BASE_URL", f"http://u:{SECRET}@cdn.example.com"),
    ],
)
def test_a_malformed_url_is_refused_without_repeating_its_password(
    given: Given, name: str, value: str
) -> None:
    given.environment(**{name: value})
    (failure,) = given.problems()
    assert failure.startswith(f"{name}: it")


@pytest.mark.parametrize("value", ["127.0.0.1:0", "127.0.0.1:65536", ":9108", "host", "http://h:1"])
def test_a_metrics_address_without_a_possible_port_and_host_is_refused(given: Given, value: str) -> None:
    given.environment(METRICS_ADDRESS=value)
    assert given.problems()[0].startswith("METRICS_ADDRESS: ")


def test_the_earlier_name_of_the_http_address_stays_an_alias(given: Given) -> None:
    assert given.settings().served_address == "127.0.0.1:9108"
    assert given.environment(METRICS_ADDRESS="").settings().served_address == ""
    assert given.environment(METRICS_ADDRESS="[::1]:1").settings().served_address == "[::1]:1"
    given.environment(HTTP_ADDRESS="[::1]:1", METRICS_ADDRESS="[::1]:1")
    assert given.settings().served_address == "[::1]:1"


def test_two_different_http_addresses_are_refused(given: Given) -> None:
    given.environment(HTTP_ADDRESS="127.0.0.1:1", METRICS_ADDRESS="")
    (sentence,) = given.problems()
    assert sentence == (
        "METRICS_ADDRESS: it is the earlier name of HTTP_ADDRESS, which is '127.0.0.1:1' (given: ''); "
        "allowed: one of the two"
    )


@pytest.mark.parametrize("value", ["127.0.0.1:1", "[::1]:65535", "localhost:9108"])
def test_a_metrics_address_may_be_any_host_and_port(given: Given, value: str) -> None:
    assert given.environment(METRICS_ADDRESS=value).settings().metrics_address == value


def test_lists_are_words_between_commas(given: Given) -> None:
    given.environment(VIDEO_EXTENSIONS=" .mp4 ,.MOV,, ", QUALITIES="720p,original")
    settings = given.settings()
    assert settings.video_extensions == (".mp4", ".MOV")
    assert settings.qualities == ("720p", "original")


def test_originals_of_every_known_format_are_uploaded_by_default_except_segments(given: Given) -> None:
    """The compressor takes any source that ffmpeg reads, and its original keeps the extension."""
    template = make_path_template(given.settings())
    for extension in (*CONTENT_TYPES, ".FLV", ".Mpg", ".TS"):
        path = f"{VIDEO_ID}/movie{extension}"
        assert isinstance(template.classify(path), Ignored) == (extension.lower() == ".ts"), extension
    chosen = make_path_template(given.environment(VIDEO_EXTENSIONS=".ts").settings())
    assert not isinstance(chosen.classify(f"{VIDEO_ID}/movie.ts"), Ignored)


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
def test_a_log_level_is_one_of_the_compressors_in_any_case(given: Given, level: str) -> None:
    for written in (level, level.lower(), level.title()):
        assert given.environment(LOG_LEVEL=written).settings().log_level == level


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_one_key_without_the_other_is_refused(given: Given, name: str) -> None:
    given.environment(**{name: SECRET})
    (failure,) = given.problems()
    assert failure.endswith("it is missing; allowed: both keys or neither")
    assert not failure.startswith(name)


@pytest.mark.parametrize("url", ["", "sqlite:////var/lib/x.sqlite3"])
def test_the_compressors_catalog_without_its_database_is_refused(given: Given, url: str) -> None:
    given.environment(CATALOG="compressor", DATABASE_URL=url)
    (failure,) = given.problems()
    assert failure.startswith("CATALOG: compressor needs its PostgreSQL")


@pytest.mark.parametrize("catalog", ["own", "compressor", ""])
def test_a_quality_that_the_catalog_lacks_is_refused(given: Given, catalog: str) -> None:
    given.environment(CATALOG=catalog, QUALITIES="720p,hd,original", POSTGRES_DB="x")
    (failure,) = given.problems()
    assert failure.startswith("QUALITIES: the video_qualities table refuses hd (given: '720p,hd,original');")
    assert failure.endswith(",".join(QUALITIES))


@pytest.mark.parametrize("word", ["true", "1", "ON", "Yes"])
def test_a_shared_directory_needs_a_database_that_can_be_shared(given: Given, word: str) -> None:
    """On an SQLite file of each machine's own, every one of them would upload every file."""
    given.environment(SHARED_DIRECTORY=word)
    (failure,) = given.problems()
    assert failure.startswith(
        f"SHARED_DIRECTORY: daemons on several machines meet in PostgreSQL (given: {word!r});"
    )
    given.environment(DATABASE_URL="sqlite:////var/lib/x.sqlite3")
    assert given.problems() == [failure]
    given.environment(DATABASE_URL="postgresql://h/d")
    assert given.settings().ledger_instance == "shared:/srv/completed"
    given.environment(SHARED_DIRECTORY="false", DATABASE_URL="sqlite:////var/lib/x.sqlite3")
    assert given.settings().ledger_instance == given.settings().instance


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("AWS_ACCESS_KEY_ID", {"AWS_SECRET_ACCESS_KEY": SECRET}),
        ("LIFECYCLE_TRANSITION_DAYS", {"LIFECYCLE_TRANSITION_CLASS": "GLACIER"}),
        ("AWS_S3_SSE_KMS_KEY_ID", {"AWS_S3_SSE_KMS_KEY_ID": "key"}),
        ("AWS_ENDPOINT_URL", {"AWS_ENDPOINT_URL": "https://s3.example/vid/", "AWS_S3_BUCKET": "vid"}),
        ("AWS_ENDPOINT_URL", {"AWS_ENDPOINT_URL": "https://s3.example/lam-brk"}),
        ("CATALOG", {"CATALOG": CatalogKind.COMPRESSOR}),
        ("SHARED_DIRECTORY", {"SHARED_DIRECTORY": True}),
        ("QUALITIES", {"QUALITIES": ("720p", "hd")}),
    ],
)
def test_the_model_itself_refuses_settings_that_conflict_and_every_wrong_value_with_them(
    given: Given, name: str, values: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError, match=f"(?s){name}\n.*; allowed") as refused:
        Settings(**{"COMPLETED_DIR": "/srv/completed", **values})
    assert [error["loc"] for error in refused.value.errors()] == [(name,)]
    with pytest.raises(ValidationError) as refused:
        Settings(**{"COMPLETED_DIR": "relative", **values})
    assert [error["loc"] for error in refused.value.errors()] == [("COMPLETED_DIR",), (name,)]
    assert SECRET not in repr(refused.value.errors())


def test_any_quality_goes_without_a_catalog(given: Given) -> None:
    settings = given.environment(CATALOG="none", QUALITIES="hd").settings()
    assert settings.qualities == make_storage_config(settings).qualities == ("hd",)
    assert make_naming(settings).key(Rendition(VIDEO_ID, "a.mp4", "hd")).endswith("/a_hd.mp4")


def test_a_row_may_have_a_quality_that_is_left_out(given: Given) -> None:
    settings = given.environment(POSTGRES_DB="d", QUALITIES="360p,original").settings()
    assert make_naming(settings).key(Rendition(VIDEO_ID, "a.mp4", "720p")).endswith("/a_720p.mp4")


def test_the_ledger_is_a_file_in_the_state_directory(given: Given) -> None:
    assert given.settings().ledger_url == "sqlite:///home/u/.state/video-uploader/ledger.sqlite3"
    given.environment(STATE_DIRECTORY="/var/lib/a b:/second")
    assert given.settings().ledger_url == "sqlite:///var/lib/a%20b/ledger.sqlite3"
    assert given.settings().catalog_kind is CatalogKind.OWN


def test_the_users_state_directory_is_below_home_unless_it_is_named() -> None:
    assert state_directory({}) == os.path.expanduser("~/.local/state/video-uploader")


@pytest.mark.parametrize(
    ("name", "value", "url"),
    [
        ("POSTGRES_HOST", "db.example", "postgresql://postgres@db.example:5432/lambrk"),
        ("POSTGRES_HOST", "::1", "postgresql://postgres@[::1]:5432/lambrk"),
        ("POSTGRES_HOST", "/run/postgresql", "postgresql://postgres@%2Frun%2Fpostgresql:5432/lambrk"),
        ("POSTGRES_PORT", "5432", "postgresql://postgres@localhost:5432/lambrk"),
        ("POSTGRES_USER", "u", "postgresql://u@localhost:5432/lambrk"),
        ("POSTGRES_PASSWORD", "p", "postgresql://postgres:p@localhost:5432/lambrk"),
        ("POSTGRES_PASSWORD", "", "postgresql://postgres@localhost:5432/lambrk"),
        ("POSTGRES_DB", "d", "postgresql://postgres@localhost:5432/d"),
    ],
)
@pytest.mark.parametrize("place", ["file", "environment"])
def test_any_postgres_name_means_postgresql_with_the_compressors_defaults_for_the_others(
    given: Given, name: str, value: str, url: str, place: str
) -> None:
    """The compressor's documented examples give host, user and password, and no database."""
    if place == "file":
        given.file(f"{name}={value}\n")
    else:
        given.environment(**{name: value})
    settings = given.settings()
    assert settings.ledger_url == url
    assert settings.catalog_kind is CatalogKind.COMPRESSOR
    assert given.environment(SHARED_DIRECTORY="true", CATALOG="compressor").settings().on_postgresql


def test_the_postgres_names_make_one_url_with_everything_encoded(given: Given) -> None:
    given.file("POSTGRES_HOST=db.example\nPOSTGRES_PORT=6432\nPOSTGRES_USER=a@b\nPOSTGRES_DB=l/k\n")
    given.environment(POSTGRES_PASSWORD="p:/@?#%")
    settings = given.settings()
    assert settings.ledger_url == "postgresql://a%40b:p%3A%2F%40%3F%23%25@db.example:6432/l%2Fk"
    assert settings.on_postgresql
    assert settings.catalog_kind is CatalogKind.COMPRESSOR


def test_an_empty_postgres_password_is_trust_authentication(given: Given) -> None:
    given.environment(POSTGRES_DB="lambrk", POSTGRES_PASSWORD="")
    assert given.settings().ledger_url == "postgresql://postgres@localhost:5432/lambrk"


def test_a_database_url_wins_over_the_postgres_names(given: Given) -> None:
    given.environment(POSTGRES_DB="lambrk", DATABASE_URL="sqlite:////tmp/x.sqlite3")
    settings = given.settings()
    assert settings.ledger_url == "sqlite:////tmp/x.sqlite3"
    assert settings.catalog_kind is CatalogKind.OWN


UNUSED = {
    "POSTGRES_HOST": ({"DATABASE_URL": "postgresql://h/d", "POSTGRES_HOST": "h"}, {"DATABASE_URL": ""}),
    "POSTGRES_PORT": ({"DATABASE_URL": "postgresql://h/d", "POSTGRES_PORT": "1"}, {"DATABASE_URL": ""}),
    "POSTGRES_USER": ({"DATABASE_URL": "postgresql://h/d", "POSTGRES_USER": "u"}, {"DATABASE_URL": ""}),
    "POSTGRES_PASSWORD": (
        {"DATABASE_URL": "postgresql://h/d", "POSTGRES_PASSWORD": "p"},
        {"DATABASE_URL": ""},
    ),
    "POSTGRES_DB": ({"DATABASE_URL": "sqlite:////tmp/x", "POSTGRES_DB": "d"}, {"DATABASE_URL": ""}),
    "DATABASE_SCHEMA": ({"DATABASE_SCHEMA": "s"}, {"POSTGRES_DB": "d"}),
    "CATALOG_SCHEMA": ({"CATALOG_SCHEMA": "s"}, {"POSTGRES_DB": "d"}),
    "CATALOG_ROW_TIMEOUT": ({"CATALOG_ROW_TIMEOUT": "9"}, {"POSTGRES_DB": "d"}),
    "ACCEPT_LIVE_CONTAINERS": (
        {"POSTGRES_DB": "d", "ACCEPT_LIVE_CONTAINERS": "true"},
        {"CATALOG": "own"},
    ),
    "DELETE_ORPHANS": ({"CATALOG": "own", "DELETE_ORPHANS": "true", "POSTGRES_DB": "d"}, {"CATALOG": ""}),
    "LOCAL_BASE_URL": ({"CATALOG": "none", "LOCAL_BASE_URL": "http://h"}, {"CATALOG": "own"}),
    "AWS_SESSION_TOKEN": (
        {"AWS_SESSION_TOKEN": "t"},
        {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"},
    ),
    "AWS_S3_BASE_URL": (
        {"AWS_S3_BASE_URL": "https://b.example", "CLOUDFRONT_DOMAIN": "c.example"},
        {"CLOUDFRONT_DOMAIN": ""},
    ),
    "CLOUDFRONT_DISTRIBUTION_ID": (
        {"CLOUDFRONT_DISTRIBUTION_ID": "E1"},
        {"CLOUDFRONT_DOMAIN": "c.example"},
    ),
    "AWS_ENDPOINT_URL_CLOUDFRONT": (
        {"AWS_ENDPOINT_URL_CLOUDFRONT": "http://h", "CLOUDFRONT_DOMAIN": "c.example"},
        {"CLOUDFRONT_DISTRIBUTION_ID": "E1"},
    ),
    "RELEASE_AFTER_SECONDS": ({"KEEP_LOCAL": "true", "RELEASE_AFTER_SECONDS": "9"}, {"KEEP_LOCAL": "no"}),
    "DISK_PRESSURE_PERCENT": ({"KEEP_LOCAL": "true", "DISK_PRESSURE_PERCENT": "9"}, {"KEEP_LOCAL": "no"}),
}
"""For each setting: values that leave it without effect, and a change that gives it one."""


@pytest.mark.parametrize("name", UNUSED)
def test_a_setting_that_is_given_and_has_no_effect_is_reported(given: Given, name: str) -> None:
    unused, remedy = UNUSED[name]
    assert unused_settings(given.settings()) == []
    (found,) = unused_settings(given.environment(**unused).settings())
    assert found.name == name
    assert found.reason.endswith(".")
    assert unused_settings(given.environment(**remedy).settings()) == []


@pytest.mark.parametrize("host", ["h1:5432,h2:5433", "[::1]:5432", "h", "/db"])
def test_a_postgresql_url_may_name_its_servers_in_libpqs_ways(given: Given, host: str) -> None:
    url = f"postgresql://u:p%40@{host}/db" if host != "/db" else "postgresql:///db?host=/run"
    assert given.environment(DATABASE_URL=url).settings().ledger_url == url


def test_what_is_not_set_is_derived(given: Given) -> None:
    given.environment(COMPLETED_DIR="/srv/a b/")
    settings = given.settings()
    assert settings.local_base == "file:///srv/a%20b"
    assert settings.instance == socket.gethostname()
    given.environment(LOCAL_BASE_URL="https://example.com/videos/", INSTANCE_ID="one")
    assert (given.settings().local_base, given.settings().instance) == ("https://example.com/videos", "one")


def test_the_report_tells_where_each_value_came_from(given: Given) -> None:
    given.file("AWS_S3_BUCKET=from-file\nAWS_REGION=from-file\n").environment(AWS_REGION="eu-west-1")
    assert given.report("AWS_REGION") == ("eu-west-1", "environment")
    assert given.report("AWS_S3_BUCKET") == ("from-file", given.env_file)
    assert given.report("UPLOAD_CONCURRENCY") == ("4", "default")
    assert given.report("KEEP_LOCAL") == ("false", "default")
    assert given.report("VIDEO_EXTENSIONS")[0].startswith(".3g2,.3gp,.asf,.avi,")
    assert given.report("CATALOG") == ("own", "default")
    assert given.report("LOCAL_BASE_URL") == ("file:///srv/completed", "default")


def test_the_report_has_every_setting_and_no_secret(given: Given) -> None:
    given.environment(
        AWS_ACCESS_KEY_ID=SECRET,
        AWS_SECRET_ACCESS_KEY=SECRET,
        AWS_SESSION_TOKEN=SECRET,
        POSTGRES_PASSWORD=SECRET,
        POSTGRES_DB="lambrk",
    )
    settings = given.settings()
    reports = report_settings(settings, given.env_file)
    assert [report.name for report in reports] == [name.upper() for name in Settings.model_fields]
    assert SECRET not in repr(reports)
    assert SECRET not in repr(settings)
    assert given.report("AWS_SECRET_ACCESS_KEY") == (MASK, "environment")
    assert given.report("POSTGRES_PASSWORD") == (MASK, "environment")
    given.environment(POSTGRES_PASSWORD="")
    assert given.report("POSTGRES_PASSWORD") == ("", "environment")
    given.environment(POSTGRES_PASSWORD=SECRET)
    assert given.report("DATABASE_URL") == (f"postgresql://postgres:{MASK}@localhost:5432/lambrk", "default")


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://u:p@h/d", f"postgresql://u:{MASK}@h/d"),
        ("postgresql://u:p:q@h/d", f"postgresql://u:{MASK}@h/d"),
        ("postgresql://u:12/p@q@h/d", f"postgresql://u:{MASK}@h/d"),
        ("postgresql://:p@h/d", f"postgresql://:{MASK}@h/d"),
        ("postgresql://h:5432/d", "postgresql://h:5432/d"),
        ("postgresql://u@h/d?password=p&x=1", f"postgresql://u@h/d?password={MASK}&x=1"),
        ("postgresql:///d?sslpassword=p", f"postgresql:///d?sslpassword={MASK}"),
        ("sqlite:////var/lib/x.sqlite3", "sqlite:////var/lib/x.sqlite3"),
    ],
)
def test_a_password_in_a_url_is_masked_wherever_it_stands(url: str, masked: str) -> None:
    assert mask_url(url) == masked
