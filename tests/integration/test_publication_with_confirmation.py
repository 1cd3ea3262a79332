"""What is confirmed is published in the same transaction, unless anything stands between."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from db import Identity, State
from tests.support.catalog_rows import BASE_URL, CatalogRows
from tests.support.harness import VIDEO_ID, Harness, MakeHarness
from watcher import failpoints
from watcher.errors import Code, Failure, FailureKind
from watcher.failpoints import Point
from watcher.filesystem import Packages, Tree

PATH = f"{VIDEO_ID}/my video_720p.mp4"
NAME = "my video_720p.mp4"


class CrashError(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def crash_at(point: Point, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(reached: Point) -> None:
        if reached is point:
            raise CrashError

    monkeypatch.setattr(failpoints, "hook", crash)


def published(harness: Harness) -> float | None:
    return harness.app.context.metrics.registry.get_sample_value("video_uploader_published_uploads_total")


def test_one_transaction_tells_both_steps(
    make_harness: MakeHarness, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = make_harness()
    harness.put(PATH, video)
    with monkeypatch.context() as crashing:
        crash_at(Point.ROW_PUBLISHED, crashing)
        with pytest.raises(CrashError):
            harness.step(State.PENDING, publishes=True)
    assert harness.events(PATH) == ["discovered"]
    harness.app.ledger.release_all_claims()
    (row,) = harness.step(State.PENDING, publishes=True)
    assert row.state is State.PUBLISHED
    assert harness.events(PATH) == ["discovered", "adopted", "verified", "published"]
    assert harness.catalog_urls() == [urlsplit(row.url).path]
    assert row.verified_at is not None
    assert row.published_at is not None
    assert harness.finish(PATH).state is State.RELEASED


def test_what_is_published_at_once_is_told_and_counted_after_the_commit(
    make_harness: MakeHarness, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = make_harness()
    harness.put(PATH, video)
    seen: list[tuple[Point, State, float | None]] = []
    monkeypatch.setattr(
        failpoints, "hook", lambda point: seen.append((point, harness.row(PATH).state, published(harness)))
    )
    harness.step(State.PENDING, publishes=True)
    assert [found for found in seen if found[0] in {Point.VERIFIED, Point.PUBLISHED}] == [
        (Point.VERIFIED, State.PUBLISHED, 0.0),
        (Point.PUBLISHED, State.PUBLISHED, 0.0),
    ]
    assert published(harness) == 1.0


def test_a_deleted_row_leaves_the_upload_verified_and_the_stage_decides(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_id = rows.insert(NAME, "720p")
    harness = make_catalog_harness()
    harness.put(PATH, video)
    harness.admit_waiting()
    monkeypatch.setattr(
        failpoints, "hook", lambda point: rows.delete(row_id) if point is Point.CONFIRMED else None
    )
    (row,) = harness.step(State.PENDING, publishes=True)
    assert (row.state, row.last_error) == (State.VERIFIED, None)
    assert harness.events(PATH)[-1] == "verified"
    (row,) = harness.step(State.VERIFIED)
    assert (row.state, row.error_code) == (State.GONE, Code.ROW_GONE)


def test_a_locked_row_leaves_the_upload_verified_and_is_published_onto_later(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    row_id = rows.insert(NAME, "720p")
    harness = make_catalog_harness()
    harness.put(PATH, video)
    harness.admit_waiting()
    with psycopg.connect(rows.url) as compressor:
        compressor.execute("SELECT * FROM video_qualities FOR UPDATE")
        (row,) = harness.step(State.PENDING, publishes=True)
    assert row.state is State.VERIFIED
    assert rows.url_of(row_id) == f"{BASE_URL}/{VIDEO_ID}/{NAME}"
    (row,) = harness.step(State.VERIFIED)
    assert row.state is State.PUBLISHED
    assert rows.url_of(row_id) == row.url


def test_a_ready_row_shows_the_object_once_it_is_confirmed(
    make_catalog_harness: MakeHarness, rows: CatalogRows, video: bytes
) -> None:
    row_id = rows.insert(NAME, "720p")
    harness = make_catalog_harness()
    harness.put(PATH, video)
    harness.admit_waiting()
    (row,) = harness.step(State.PENDING, publishes=True)
    assert row.state is State.PUBLISHED
    assert rows.url_of(row_id) == row.url


def test_a_url_that_must_be_fetched_first_is_left_to_the_stage(
    make_harness: MakeHarness, video: bytes
) -> None:
    harness = make_harness(VERIFY_PUBLIC_URL=True)
    harness.put(PATH, video)
    (row,) = harness.step(State.PENDING, publishes=True)
    assert row.state is State.VERIFIED


def test_while_the_publish_stage_is_paused_nothing_is_published_at_once(
    make_harness: MakeHarness, video: bytes
) -> None:
    harness = make_harness()
    harness.put(PATH, video)
    breaker = harness.app.runners[State.VERIFIED].breaker
    breaker.trip(Failure(FailureKind.ENVIRONMENT, Code.DATABASE, "The catalog is away."))
    assert harness.app.runners[State.PENDING].publisher() is None
    (row,) = harness.step(State.PENDING, publishes=True)
    assert row.state is State.VERIFIED
    breaker.succeed()
    assert harness.app.runners[State.PENDING].publisher() is not None


def test_the_directory_is_not_read_while_others_wait_for_the_transaction(
    make_harness: MakeHarness, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that does not answer keeps no other thread from the ledger."""
    harness = make_harness()
    harness.put(PATH, video)
    peewee: Any = harness.app.context.database._peewee
    reads: list[bool] = []
    is_unchanged, reason = Tree.is_unchanged, Packages.reason

    def read(tree: Tree, path: str, identity: Identity) -> bool:
        reads.append(peewee.in_transaction())
        return is_unchanged(tree, path, identity)

    def ask(packages: Packages, path: str) -> str | None:
        reads.append(peewee.in_transaction())
        return reason(packages, path)

    monkeypatch.setattr(Tree, "is_unchanged", read)
    monkeypatch.setattr(Packages, "reason", ask)
    (row,) = harness.step(State.PENDING, publishes=True)
    assert row.state is State.PUBLISHED
    assert len(reads) >= 3
    assert not any(reads)


@pytest.mark.parametrize(("seconds", "woken"), [(29, 1), (30, 0)])
def test_the_release_stage_is_woken_only_for_what_it_would_find_too_late_by_itself(
    make_harness: MakeHarness, video: bytes, monkeypatch: pytest.MonkeyPatch, seconds: int, woken: int
) -> None:
    """It queries the ledger every 30 seconds: waking it for each file costs as much as publishing one."""
    harness = make_harness(RELEASE_AFTER_SECONDS=seconds)
    harness.put(PATH, video)
    states: list[State] = []
    monkeypatch.setattr(harness.app.context.signals, "wake_stage", states.append)
    harness.step(State.PENDING, publishes=True)
    assert states.count(State.PUBLISHED) == woken
