"""What stands in a settings file and probably does not mean what it should is named, never its value."""

from __future__ import annotations

import os

import pytest

from watcher.settings import doubtful_settings, load_settings
from watcher.settings.doubts import Doubt


@pytest.fixture
def env_file(place: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of a settings file, in an environment without any setting that is doubtful."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    return os.path.join(place, "settings.env")


def doubts(env_file: str, text: str) -> list[Doubt]:
    """What is doubtful in a file with this text."""
    with open(env_file, "w", encoding="utf-8") as file:
        file.write(text)
    return doubtful_settings(env_file)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("UPLOAD_CONCURENCY", "UPLOAD_CONCURRENCY"),
        ("KEEP_LOCALS", "KEEP_LOCAL"),
        ("keep_local", "KEEP_LOCAL"),
        ("AWS_S3_BUKET", "AWS_S3_BUCKET"),
    ],
)
def test_a_name_that_is_nearly_one_of_ours_is_named_with_it(env_file: str, name: str, meant: str) -> None:
    [found] = doubts(env_file, f"\n# ours\n{name}=hunter2\n")
    assert (found.name, found.place) == (name, f"{env_file}:3")
    assert meant in found.reason
    assert "hunter2" not in found.sentence


def test_a_name_in_the_environment_counts_too(env_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLOAD_CONCURENCY", "8")
    [found] = doubts(env_file, "")
    assert (found.name, found.place) == ("UPLOAD_CONCURENCY", "environment")


def test_names_of_others_are_their_affair(env_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://localhost:1")
    theirs = (
        "PENDING_DIR",
        "POSTGRES_DB",
        "LOG_LEVEL",
        "AWS_PROFILE",
        "AWS_DEFAULT_REGION",
        "DJANGO_SECRET_KEY",
    )
    assert doubts(env_file, "".join(f"{name}=x\n" for name in theirs)) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("export KEEP_LOCAL=true", "export"),
        ("AWS_S3_BUCKET=videos # of production", "#"),
        ("COMPLETED_DIR=${HOME}/completed", "${"),
        ("AWS_SECRET_ACCESS_KEY=a\\b", "backslash"),
        ('AWS_SECRET_ACCESS_KEY="a\\nb"', "backslash"),
        ("AWS_SECRET_ACCESS_KEY='a\\\\b'", "backslash"),
        ("KEEP_LOCAL", "no value"),
    ],
)
def test_a_line_that_systemd_reads_in_another_way_is_named(env_file: str, line: str, reason: str) -> None:
    [found] = doubts(env_file, f"LOG_LEVEL=INFO\n\n{line}\n")
    assert found.place == f"{env_file}:3"
    assert reason in found.reason.lower()
    assert line.partition("=")[2] not in {found.reason, found.sentence}


def test_a_line_that_is_not_understood_is_named(env_file: str) -> None:
    [found] = doubts(env_file, "LOG_LEVEL=INFO\nKEEP_LOCAL='true\n")
    assert "not understood" in found.reason
    assert found.place.endswith(":2")


@pytest.mark.parametrize(
    "line",
    [
        "KEEP_LOCAL=true",
        "COMPLETED_DIR='/srv/my videos'",
        'COMPLETED_DIR="/srv/#1 of $ all"',
        "AWS_S3_BASE_URL=https://example.org/#fragment",
        "  LOG_LEVEL = INFO  ",
        "# export KEEP_LOCAL=${X} # no setting",
        "",
    ],
)
def test_a_line_that_all_read_alike_is_not(env_file: str, line: str) -> None:
    assert doubts(env_file, f"{line}\n") == []


def test_of_two_files_the_later_takes_precedence(env_file: str, place: str) -> None:
    theirs, ours = os.path.join(place, "theirs.env"), env_file
    for path, text in ((theirs, "LOG_LEVEL=DEBUG\nAWS_S3_BUCKET=theirs\n"), (ours, "AWS_S3_BUCKET=ours\n")):
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"COMPLETED_DIR={place}\n{text}")
    settings = load_settings(theirs, ours)
    assert (settings.log_level, settings.aws_s3_bucket) == ("DEBUG", "ours")
    assert load_settings(ours, theirs).aws_s3_bucket == "theirs"
