"""An edit that keeps size and time, as of `rsync --inplace -t`, is noticed by the ctime and loses nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from db import State
from storage import SourceFile
from tests.support.fault_proxy import FaultProxy
from tests.support.harness import Harness, MakeHarness
from tests.support.uploads_in_progress import content, published
from tests.support.video_files import LARGE, PATH, padded
from watcher import failpoints
from watcher.errors import Code
from watcher.failpoints import Point
from watcher.filesystem.quarantine_names import quarantine_name

pytestmark = pytest.mark.long


def edited(video: bytes) -> bytes:
    """Other content of the same size that is as complete."""
    return video[:-1] + bytes([video[-1] ^ 1])


def edit(path: str) -> None:
    """Edit a file in place and give it back its time."""
    before = os.stat(path)
    with open(path, "r+b") as file:
        video = file.read()
        file.seek(0)
        file.write(edited(video))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = os.stat(path)
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
        before.st_ino,
        before.st_size,
        before.st_mtime_ns,
    )


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of every file that is hashed as a whole."""
    sizes: list[int] = []
    checksum = SourceFile.checksum

    def count(source: SourceFile, *done: Any, **options: Any) -> str:
        sizes.append(source.size)
        return checksum(source, *done, **options)

    monkeypatch.setattr(SourceFile, "checksum", count)
    return sizes


def test_an_edit_before_the_release_is_uploaded_and_not_unlinked(
    make_harness: MakeHarness, video: bytes
) -> None:
    harness = make_harness()
    published(harness, video)
    edit(harness.absolute(PATH))
    (row,) = harness.step(State.PUBLISHED)
    assert (row.state, row.error_code) == (State.PUBLISHED, Code.LOCAL_CHANGED)
    assert content(harness) == edited(video)
    fresh = harness.settle(PATH)
    assert fresh is not None
    assert (fresh.id, fresh.state) == (row.id + 1, State.PENDING)
    assert harness.finish(PATH).state is State.RELEASED
    assert harness.object(fresh) == edited(video)


def test_an_edit_in_quarantine_is_put_back_and_uploaded(make_harness: MakeHarness, video: bytes) -> None:
    harness = make_harness()
    published(harness, video)
    row = harness.row(PATH)
    directory, name = os.path.split(harness.absolute(PATH))
    aside = os.path.join(directory, quarantine_name(name, row.id, row.claim + 1, harness.app.ledger.token))
    harness.while_waiting = lambda: edit(aside)
    (row,) = harness.step(State.PUBLISHED)
    assert (row.state, content(harness)) == (State.PUBLISHED, edited(video))
    harness.while_waiting = lambda: None
    harness.settle(PATH)
    assert harness.object(harness.finish(PATH)) == edited(video)


@pytest.mark.parametrize("size", [70_000, LARGE])
def test_an_edit_between_hashing_and_sending_is_hashed_again_before_anything_is_in_s3(
    make_harness: MakeHarness,
    video: bytes,
    proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    harness = make_harness()
    harness.put(PATH, padded(video, size))

    def edit_once(point: Point) -> None:
        if point is Point.HASHED:
            monkeypatch.setattr(failpoints, "hook", None)
            edit(harness.absolute(PATH))

    monkeypatch.setattr(failpoints, "hook", edit_once)
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.error_code) == (State.PENDING, Code.LOCAL_CHANGED)
    assert not {"PutObject", "CompleteMultipartUpload"} & set(proxy.actions)
    fresh = harness.settle(PATH)
    assert fresh is not None
    assert (fresh.id, fresh.state) == (row.id + 1, State.PENDING)
    assert harness.finish(PATH).state is State.RELEASED
    assert harness.object(fresh) == edited(padded(video, size))


def test_an_edit_between_two_attempts_is_no_damage(
    make_harness: MakeHarness, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the ctime of the first hashing it would be: no process can have written the content."""
    harness = make_harness()
    harness.put(PATH, video)

    class Killed(BaseException):
        pass

    def kill(point: Point) -> None:
        if point is Point.HASHED:
            raise Killed

    monkeypatch.setattr(failpoints, "hook", kill)
    with pytest.raises(Killed):
        harness.step(State.PENDING)
    monkeypatch.setattr(failpoints, "hook", None)
    harness.app.ledger.release_all_claims()
    edit(harness.absolute(PATH))
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.error_code) == (State.PENDING, Code.LOCAL_CHANGED)
    harness.settle(PATH)
    assert harness.object(harness.finish(PATH)) == edited(video)


def test_the_scan_has_an_edited_copy_hashed_again_whatever_its_retention(
    make_harness: MakeHarness, video: bytes
) -> None:
    harness = make_harness(RELEASE_AFTER_SECONDS=3600)
    published(harness, video)
    assert harness.app.scanner.scan().noticed == 0
    edit(harness.absolute(PATH))
    assert harness.app.scanner.scan().noticed == 1
    assert harness.app.settler.unsettled() == [PATH]


def give_other_permissions(path: str) -> None:
    os.chmod(path, 0o640)


def give_a_second_name_for_a_moment(path: str) -> None:
    os.link(path, f"{path}.link")
    os.unlink(f"{path}.link")


@pytest.mark.parametrize("touch", [give_other_permissions, give_a_second_name_for_a_moment])
def test_what_changes_the_ctime_alone_has_the_file_hashed_once_more_and_not_sent_again(
    make_harness: MakeHarness,
    video: bytes,
    proxy: FaultProxy,
    hashed: list[int],
    touch: Callable[[str], None],
) -> None:
    harness = make_harness()
    published(harness, video)
    touch(harness.absolute(PATH))
    del proxy.requests[:]
    harness.step(State.PUBLISHED)
    row = harness.settle(PATH)
    assert row is not None
    assert row.ctime_ns == os.stat(harness.absolute(PATH)).st_ctime_ns
    assert harness.step(State.PUBLISHED)[0].state is State.RELEASED
    assert hashed == [len(video)] * 2
    assert proxy.actions == ["HeadObject"]


def as_copy2_does(harness: Harness, video: bytes) -> None:
    """Write, settle, and then set the times and the permissions, which may come after the settling."""
    harness.put(PATH, video)
    os.utime(harness.absolute(PATH), ns=(10**9, 10**9))
    os.chmod(harness.absolute(PATH), 0o644)
    harness.settle(PATH)
    os.chmod(harness.absolute(PATH), 0o664)


def as_ffmpeg_does(harness: Harness, video: bytes) -> None:
    """Write and close; ffprobe reads the file."""
    harness.put(PATH, video)
    assert content(harness) == video


@pytest.mark.parametrize("write", [as_copy2_does, as_ffmpeg_does])
def test_a_file_is_hashed_once_on_its_whole_way(
    make_harness: MakeHarness, video: bytes, hashed: list[int], write: Callable[[Harness, bytes], None]
) -> None:
    harness = make_harness()
    write(harness, video)
    for state in (State.PENDING, State.VERIFIED, State.PUBLISHED):
        assert harness.app.scanner.scan().noticed == 0
        harness.settle(PATH)
        harness.step(state)
    (row,) = harness.app.ledger.uploads()
    assert row.state is State.RELEASED
    assert hashed == [len(video)]


def test_a_row_of_an_earlier_version_is_compared_without_ctime(
    make_harness: MakeHarness, video: bytes, hashed: list[int]
) -> None:
    harness = make_harness()
    published(harness, video)
    uploads = harness.app.context.database.tables.uploads
    with harness.app.context.database.transaction("forget the ctime"):
        uploads.update(ctime_ns=None).execute()
    os.chmod(harness.absolute(PATH), 0o640)
    assert harness.app.scanner.scan().noticed == 0
    assert harness.step(State.PUBLISHED)[0].state is State.RELEASED
    assert hashed == [len(video)]
