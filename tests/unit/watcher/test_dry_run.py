"""A dry run reports what would be done with every file, and changes nothing."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing

import pytest

from db import Ledger, State, migrate
from tests.support.databases import CHECKSUM
from tests.support.fault_proxy import FaultProxy
from tests.support.harness import VIDEO_ID, settings_for
from tests.support.media import Media
from watcher.app.factories import make_naming, make_path_template, open_ledger_database
from watcher.filesystem.tree import Tree
from watcher.operations.dry_run import Plan, open_planner
from watcher.renditions import Rendition
from watcher.settings.model import CatalogKind, Settings

GOOD = f"{VIDEO_ID}/good_720p.mp4"
KEY = f"videos/{VIDEO_ID}/good_720p.mp4"


@pytest.fixture
def unused_server() -> Iterator[FaultProxy]:
    """An S3 server that must not be asked for anything."""
    with FaultProxy() as proxy:
        yield proxy
        assert proxy.requests == []


@pytest.fixture
def settings(place: str, unused_server: FaultProxy) -> Settings:
    os.makedirs(f"{place}/completed/{VIDEO_ID}")
    return settings_for(place, unused_server.url)


@pytest.fixture
def good(settings: Settings, media: Media) -> str:
    """A complete video at GOOD."""
    with open(media.faststart, "rb") as source:
        return write(settings, GOOD, source.read())


def write(settings: Settings, path: str, content: bytes) -> str:
    full = os.path.join(settings.completed_dir, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "wb") as file:
        file.write(content)
    return full


def plans(settings: Settings) -> dict[str, Plan]:
    """What would be done, by path; whatever is on the disk is the same afterwards."""
    before = everything(os.path.dirname(settings.completed_dir))
    with open_planner(settings) as planner:
        found = {plan.path: plan for plan in planner.plans()}
    assert everything(os.path.dirname(settings.completed_dir)) == before
    return found


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def everything(directory: str) -> dict[str, tuple[int, int, bytes]]:
    """Every file below a directory: inode, mtime and content.

    Except for the two files that a reader of an SQLite database in WAL mode needs beside it
    (sqlite.org/wal.html, "Read-Only Databases"): they hold no row.
    """
    found: dict[str, tuple[int, int, bytes]] = {}
    for below, _, names in os.walk(directory):
        for path in (os.path.join(below, name) for name in names):
            if not path.endswith(("-shm", "-wal")):
                found[path] = (os.stat(path).st_ino, os.stat(path).st_mtime_ns, content(path))
    return found


def recorded(settings: Settings, state: State | None = None) -> None:
    """A ledger that knows GOOD as it is, in a state."""
    rendition = make_path_template(settings).classify(GOOD)
    identity = Tree(settings.completed_dir).stat(GOOD)
    assert isinstance(rendition, Rendition)
    assert identity is not None
    with closing(open_ledger_database(settings)) as database:
        migrate(database)
        ledger = Ledger(database, settings.instance)
        upload = ledger.enqueue(
            GOOD,
            video_id=rendition.video_id,
            filename=rendition.filename,
            quality=rendition.quality,
            object_key=make_naming(settings).key(rendition),
            identity=identity,
        )
        assert upload is not None
        if state is not None:
            ledger.advance(upload, state, error="because the test says so", error_code="test")


def test_without_a_ledger_every_file_is_planned_and_none_is_made(settings: Settings, good: str) -> None:
    assert plans(settings) == {GOOD: Plan(GOOD, "upload", f"to {KEY}, as quality 720p")}
    assert not os.path.exists(os.path.join(os.path.dirname(settings.completed_dir), "state"))


def test_every_file_gets_a_word_and_a_reason(settings: Settings, good: str) -> None:
    long_name = f"{VIDEO_ID}/{'€' * 70}_720p.mp4"
    write(settings, f"{VIDEO_ID}/notes.txt", b"log")
    write(settings, f"{VIDEO_ID}/.hidden_720p.mp4", b"x")
    write(settings, f"{VIDEO_ID}/cut_480p.mp4", content(good)[:100])
    write(settings, long_name, b"x" * 10)
    found = plans(settings)
    assert found[GOOD].action == "upload"
    assert found[f"{VIDEO_ID}/notes.txt"].action == "ignore"
    assert "VIDEO_EXTENSIONS" in found[f"{VIDEO_ID}/notes.txt"].reason
    assert found[f"{VIDEO_ID}/.hidden_720p.mp4"].reason == "it matches .* of IGNORE_PATTERNS"
    assert found[f"{VIDEO_ID}/cut_480p.mp4"].action == "reject"
    assert found[long_name].action == "reject"
    assert all(plan.reason for plan in found.values())


def test_a_name_too_long_for_a_key_would_fail(settings: Settings, good: str) -> None:
    nested = settings.model_copy(update={"aws_s3_videos_prefix": "p" * 1000})
    assert plans(nested)[GOOD].action == "fail"


def test_a_file_that_is_written_is_skipped(settings: Settings, good: str) -> None:
    with open(good, "ab"):
        plan = plans(settings)[GOOD]
    assert (plan.action, plan.reason) == (
        "skip",
        "It is not finished: Some process has it open for writing.",
    )


def test_a_second_name_is_skipped(settings: Settings, good: str) -> None:
    os.link(good, f"{settings.completed_dir}/elsewhere")
    assert plans(settings)[GOOD].action == "skip"


def test_an_unreadable_directory_is_skipped_and_not_taken_for_an_empty_one(
    settings: Settings, good: str, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    os.chmod(os.path.dirname(good), 0o700)
    if os.geteuid() != 0:
        os.chmod(os.path.dirname(good), 0)
    with unprivileged(), open_planner(settings) as planner:
        (plan,) = planner.plans()
    os.chmod(os.path.dirname(good), 0o700)
    assert (plan.path, plan.action) == (VIDEO_ID, "skip")


@pytest.mark.parametrize(
    ("state", "action"),
    [(None, "upload"), (State.REJECTED, "skip"), (State.FAILED, "skip"), (State.GONE, "upload")],
)
def test_what_the_ledger_knows_counts_and_stays_as_it_is(
    settings: Settings, good: str, state: State | None, action: str
) -> None:
    recorded(settings, state)
    assert plans(settings)[GOOD].action == action
    with closing(open_ledger_database(settings)) as database:
        (row,) = Ledger(database, settings.instance).uploads()
    assert row.state is (state or State.PENDING)


def test_a_file_that_was_touched_is_hashed_again_first(settings: Settings, good: str) -> None:
    recorded(settings, None)
    os.chmod(good, 0o640)
    assert "hashed again" not in plans(settings)[GOOD].reason
    with closing(open_ledger_database(settings)) as database:
        ledger = Ledger(database, settings.instance)
        ledger.record(ledger.uploads()[0], checksum=CHECKSUM)
    plan = plans(settings)[GOOD]
    assert plan.action == "upload"
    assert plan.reason.endswith("; its ctime changed, so it is hashed again first")


def test_new_content_is_planned_anew(settings: Settings, good: str) -> None:
    recorded(settings, State.REJECTED)
    os.utime(good, (1, 1))
    assert plans(settings)[GOOD].action == "upload"


@pytest.mark.parametrize("name", ["good_4320p.mp4", "good-720p.mp4"])
def test_what_looks_like_a_rendition_is_ignored_unless_rows_decide(
    settings: Settings, good: str, name: str
) -> None:
    path = f"{VIDEO_ID}/{name}"
    os.rename(good, os.path.join(settings.completed_dir, path))
    plan = plans(settings)[path]
    assert plan.action == "ignore"
    assert "quality" in plan.reason
    beside = settings.model_copy(update={"catalog": CatalogKind.COMPRESSOR})
    assert make_path_template(beside).classify(path) == Rendition(VIDEO_ID, name, "original")
