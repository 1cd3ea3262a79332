"""An unfinished file is never reported as finished."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

import pytest

from db import Identity
from tests.support.media import Media, encoding
from tests.support.peer_process import peer, writer
from watcher import containers
from watcher.detection.completeness import (
    Busy,
    FileStatus,
    Finished,
    Missing,
    Observation,
    QuietPeriod,
    Refused,
    Unreadable,
    check_complete,
    describe_status,
)
from watcher.filesystem import leases
from watcher.filesystem.openat import RootUnavailableError, identity_of
from watcher.filesystem.tree import Tree


@pytest.fixture
def video(place: str, media: Media) -> str:
    """A complete video in the tree, called "a.mp4"."""
    path = f"{place}/a.mp4"
    with open(media.faststart, "rb") as source, open(path, "wb") as target:
        target.write(source.read())
    return path


def identity(path: str) -> Identity:
    return identity_of(os.stat(path))


def look(
    tree: Tree,
    *,
    name: str = "a.mp4",
    previous: Observation | None = None,
    now: float = 100.0,
    accepts_live: bool = False,
) -> FileStatus:
    return check_complete(
        tree,
        name,
        previous=previous,
        now=now,
        settle_seconds=5.0,
        accepts_live=lambda _: accepts_live,
    )


@pytest.fixture
def no_leases(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the file system of `place` one whose leases are not trusted."""
    monkeypatch.setattr(leases, "TRUSTED_FILE_SYSTEMS", frozenset())


def test_a_complete_video_without_a_writer_is_finished_at_the_first_check(tree: Tree, video: str) -> None:
    assert look(tree) == Finished(identity(video), None)


def test_a_video_that_a_process_has_open_for_writing_is_busy_until_it_closes(tree: Tree, video: str) -> None:
    with writer(video, os.O_WRONLY | os.O_APPEND) as process:
        process.expect("opened")
        assert look(tree) == Busy("Some process has it open for writing.")
        process.go_on()
        process.expect("closed")
        assert isinstance(look(tree), Finished)


_HOLD_A_WRITE_LEASE = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
descriptor = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("leased", flush=True)
sys.stdin.readline()
"""


def test_a_file_that_a_file_server_holds_a_write_lease_on_is_busy(tree: Tree, video: str) -> None:
    with peer(_HOLD_A_WRITE_LEASE, video) as process:
        process.expect("leased")
        assert isinstance(look(tree), Busy)


def test_a_file_that_ffmpeg_writes_is_busy(tree: Tree, place: str) -> None:
    with encoding(f"{place}/a.mp4"):
        assert isinstance(look(tree), Busy)


def test_a_truncated_video_is_finished_with_a_finding(tree: Tree, video: str) -> None:
    os.truncate(video, os.path.getsize(video) - 1)
    found = look(tree)
    assert isinstance(found, Finished)
    assert found.finding == f"It is truncated in the mdat box at byte {mdat(video)}: 1 bytes are missing."


def mdat(path: str) -> int:
    with open(path, "rb") as file:
        return file.read().index(b"mdat") - 4


def test_a_link_is_refused_and_a_missing_file_is_missing(tree: Tree, place: str, video: str) -> None:
    os.symlink(video, f"{place}/link.mp4")
    assert isinstance(look(tree, name="link.mp4"), Refused)
    assert isinstance(look(tree, name="../a.mp4"), Refused)
    assert look(tree, name="b.mp4") == Missing()


def test_a_file_that_may_not_be_read_is_unreadable(
    tree: Tree, video: str, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    os.chmod(video, 0)
    with unprivileged():
        found = look(tree)
    assert isinstance(found, Unreadable)
    assert "Permission denied" in found.reason


def test_a_file_whose_content_cannot_be_read_is_unreadable(
    tree: Tree, video: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_disk(*_: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", broken_disk)
    assert look(tree) == Unreadable("Reading it failed. The system says: Input/output error.")


def test_a_missing_root_is_an_error(place: str) -> None:
    root = f"{place}/root"
    os.mkdir(root)
    tree = Tree(root)
    os.rmdir(root)
    with pytest.raises(RootUnavailableError):
        look(tree)


@pytest.mark.usefixtures("no_leases")
def test_without_leases_a_file_is_finished_after_a_quiet_period(tree: Tree, video: str) -> None:
    first = look(tree, now=100.0)
    assert first == QuietPeriod(Observation(identity(video), 100.0), until=105.0)
    assert isinstance(first, QuietPeriod)
    assert look(tree, previous=first.observation, now=104.9) == first
    assert look(tree, previous=first.observation, now=105.0) == Finished(identity(video), None)


@pytest.mark.usefixtures("no_leases")
@pytest.mark.parametrize("what", ["size", "mtime", "inode"])
def test_without_leases_any_change_restarts_the_quiet_period(tree: Tree, video: str, what: str) -> None:
    observation = Observation(identity(video), 100.0)
    match what:
        case "size":
            status = os.stat(video)
            os.truncate(video, status.st_size + 1)
            os.utime(video, ns=(status.st_atime_ns, status.st_mtime_ns))
        case "mtime":
            os.utime(video, ns=(1, 1))
        case "inode":
            os.rename(video, f"{video}.old")
            with open(f"{video}.old", "rb") as old, open(video, "wb") as new:
                new.write(old.read())
            os.utime(video, ns=(observation.identity.mtime_ns, observation.identity.mtime_ns))
    assert look(tree, previous=observation, now=200.0) == QuietPeriod(
        Observation(identity(video), 200.0), until=205.0
    )


@pytest.mark.usefixtures("no_leases")
def test_without_leases_a_detected_writer_makes_the_file_busy(tree: Tree, video: str) -> None:
    observation = Observation(identity(video), 100.0)
    with open(video, "ab"):
        assert isinstance(look(tree, previous=observation, now=200.0), Busy)


def during_the_look(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    inspect = containers.inspect

    def inspect_and_more(descriptor: int, size: int, extension: str, *, accepts_live: bool) -> str | None:
        finding = inspect(descriptor, size, extension, accepts_live=accepts_live)
        happens()
        return finding

    monkeypatch.setattr(containers, "inspect", inspect_and_more)


def test_a_file_that_grows_during_the_check_is_busy(
    tree: Tree, video: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    during_the_look(monkeypatch, lambda: os.truncate(video, os.path.getsize(video) + 1))
    assert isinstance(look(tree), Busy)


def test_a_writer_that_arrives_during_the_check_and_has_written_nothing_is_detected(
    tree: Tree, video: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as files:
        during_the_look(monkeypatch, lambda: files.enter_context(open(video, "ab")))
        assert isinstance(look(tree), Busy)


def test_a_live_container_is_finished_once_it_has_not_changed_for_a_while(
    tree: Tree, place: str, media: Media
) -> None:
    """A server may append to a recording in pieces, and have it closed in between."""
    path = f"{place}/a.webm"
    with open(media.live, "rb") as file:
        content = file.read()
    last = content.rindex(bytes.fromhex("1F43B675"))
    with open(path, "wb") as file:
        file.write(content[:last])
    first = look(tree, name="a.webm", accepts_live=True)
    assert isinstance(first, QuietPeriod)
    assert first.until == 105.0
    assert describe_status(first).startswith("Its container has no end of its own")
    with open(path, "ab") as file:
        file.write(content[last:])
    second = look(tree, name="a.webm", previous=first.observation, now=106.0, accepts_live=True)
    assert isinstance(second, QuietPeriod)
    assert second.until == 111.0
    third = look(tree, name="a.webm", previous=second.observation, now=111.0, accepts_live=True)
    assert third == Finished(identity(path), None)
    refused = look(tree, name="a.webm")
    assert isinstance(refused, Finished)
    assert "never closed" in (refused.finding or "")


def test_a_live_container_that_is_written_is_busy_and_a_truncated_one_has_a_finding(
    tree: Tree, place: str, media: Media
) -> None:
    path = f"{place}/a.webm"
    with open(media.live, "rb") as source, open(path, "wb") as target:
        target.write(source.read()[:-1])
    with writer(path, os.O_WRONLY | os.O_APPEND) as process:
        process.expect("opened")
        assert isinstance(look(tree, name="a.webm", accepts_live=True), Busy)
        process.go_on()
        process.expect("closed")
    since = Observation(identity(path), 0.0)
    found = look(tree, name="a.webm", previous=since, accepts_live=True)
    assert isinstance(found, Finished)
    assert "is truncated" in (found.finding or "")


def test_a_closed_container_needs_no_quiet_period(tree: Tree, place: str, media: Media) -> None:
    with open(media.webm, "rb") as source, open(f"{place}/a.webm", "wb") as target:
        target.write(source.read())
    assert isinstance(look(tree, name="a.webm", accepts_live=True), Finished)
