"""A quarantined file that must be kept returns to its name, also after a crash, and overwrites nothing."""

import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import pytest

from tests.support.quarantine_files import (
    ASIDE,
    content,
    identity,
    make_video,
    names,
    put_aside,
    refuse_links,
    under_the_lease,
    write,
)
from tests.support.unprivileged import NOBODY
from watcher.filesystem import leases, removal
from watcher.filesystem.openat import FileMissingError
from watcher.filesystem.removal import (
    LeftInQuarantine,
    Quarantined,
    Released,
    Restored,
    delete_quarantined,
    restore,
)
from watcher.filesystem.tree import Tree


def has_hashed_content(descriptor: int) -> bool:
    return os.pread(descriptor, 100, 0) == b"hashed"


repair = partial(removal.repair, is_hashed_content=has_hashed_content)


@pytest.fixture
def video(place: str) -> str:
    """A file in the tree, at RELATIVE."""
    return make_video(place)


@pytest.fixture
def aside_path(place: str) -> str:
    """Where the file is while it is set aside."""
    return f"{place}/{ASIDE}"


def test_a_file_swapped_between_hashing_and_release_survives(tree: Tree, video: str, aside_path: str) -> None:
    aside = put_aside(tree, video)
    write(f"{video}.new", b"swapped")
    os.rename(f"{video}.new", aside_path)
    assert delete_quarantined(tree, aside) == Restored("It is not the file that was hashed any more.")
    assert names(video) == {"a.mp4"}
    assert content(video) == b"swapped"


def test_a_file_that_was_written_while_it_was_aside_is_put_back(
    tree: Tree, video: str, aside_path: str
) -> None:
    aside = put_aside(tree, video)
    write(aside_path, b"new encode")
    assert isinstance(delete_quarantined(tree, aside), Restored)
    assert content(video) == b"new encode"


def test_a_file_that_got_a_second_name_is_put_back(tree: Tree, video: str, aside_path: str) -> None:
    aside = put_aside(tree, video)
    os.link(aside_path, f"{video}.second")
    outcome = delete_quarantined(tree, aside)
    assert isinstance(outcome, Restored)
    assert "2 names" in outcome.reason
    assert names(video) == {"a.mp4", "a.mp4.second"}


def test_a_file_that_got_a_second_name_under_the_lease_is_put_back(
    tree: Tree, video: str, aside_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = put_aside(tree, video)
    under_the_lease(monkeypatch, lambda _: os.link(aside_path, f"{video}.second"))
    assert delete_quarantined(tree, aside) == Restored("It has 2 names.")
    assert names(video) == {"a.mp4", "a.mp4.second"}


@pytest.fixture
def lenient(place: str) -> Tree:
    """The tree, where files may have other names."""
    return Tree(place, allows_hard_links=True)


def test_where_hard_links_are_allowed_the_name_here_goes_and_the_content_stays(
    lenient: Tree, video: str
) -> None:
    os.link(video, f"{video}.second")
    assert delete_quarantined(lenient, put_aside(lenient, video)) == Released(other_names=1)
    assert names(video) == {"a.mp4.second"}
    assert content(f"{video}.second") == b"hashed"


def test_a_file_that_is_written_under_its_other_name_is_put_back(lenient: Tree, video: str) -> None:
    os.link(video, f"{video}.second")
    aside = put_aside(lenient, video)
    with open(f"{video}.second", "ab"):
        assert delete_quarantined(lenient, aside) == Restored("Some process has it open for writing.")
    assert names(video) == {"a.mp4", "a.mp4.second"}


def test_where_no_lease_tells_of_writers_a_file_with_other_names_is_put_back(
    lenient: Tree, video: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "TRUSTED_FILE_SYSTEMS", frozenset())
    os.link(video, f"{video}.second")
    assert delete_quarantined(lenient, put_aside(lenient, video)) == Restored("It has 2 names.")
    assert names(video) == {"a.mp4", "a.mp4.second"}


def test_a_file_that_may_not_be_read_any_more_is_put_back(
    tree: Tree, video: str, aside_path: str, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    aside = put_aside(tree, video)
    if os.geteuid() == 0:
        os.chown(os.path.dirname(video), NOBODY, NOBODY)
        os.chown(aside_path, NOBODY, NOBODY)
    os.chmod(aside_path, 0)
    with unprivileged():
        outcome = delete_quarantined(tree, aside)
    assert isinstance(outcome, Restored)
    assert "Permission denied" in outcome.reason
    assert names(video) == {"a.mp4"}


def test_a_file_that_cannot_be_removed_is_put_back(
    tree: Tree, video: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = put_aside(tree, video)
    unlink = os.unlink
    refusals = [OSError(errno.EPERM, "Operation not permitted")]

    def refuse_once(name: str, *, dir_fd: int) -> None:
        if refusals:
            raise refusals.pop()
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse_once)
    outcome = delete_quarantined(tree, aside)
    assert outcome == Restored("It could not be removed. The system says: Operation not permitted.")
    assert names(video) == {"a.mp4"}


def test_putting_back_never_overwrites_and_neither_content_is_lost(
    tree: Tree, video: str, aside_path: str
) -> None:
    aside = put_aside(tree, video)
    write(aside_path, b"written aside")
    write(video, b"new encode")
    outcome = delete_quarantined(tree, aside)
    assert isinstance(outcome, LeftInQuarantine)
    assert "Another file has its name" in outcome.reason
    assert content(video) == b"new encode"
    assert content(aside_path) == b"written aside"


def test_a_file_whose_link_is_refused_stays_aside_and_says_so(
    tree: Tree, video: str, aside_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = put_aside(tree, video)
    write(aside_path, b"written aside")
    refuse_links(monkeypatch)
    outcome = delete_quarantined(tree, aside)
    assert isinstance(outcome, LeftInQuarantine)
    assert "Operation not permitted" in outcome.reason
    assert content(aside_path) == b"written aside"


def test_the_old_name_does_not_go_before_the_disk_knows_the_new_one(
    tree: Tree, video: str, aside_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = put_aside(tree, video)

    def broken_disk(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken_disk)
    outcome = restore(tree, aside, "The program ends.")
    assert isinstance(outcome, LeftInQuarantine)
    assert "both names" in outcome.reason
    assert names(video) == {"a.mp4", os.path.basename(ASIDE)}
    monkeypatch.undo()
    assert repair(tree, ASIDE, "a.mp4", aside.identity) == Restored("It was found in quarantine.")
    assert names(video) == {"a.mp4"}


def test_a_release_that_the_disk_does_not_know_of_is_an_error(
    tree: Tree, video: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = put_aside(tree, video)

    def broken_disk(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken_disk)
    with pytest.raises(OSError, match="Input/output error"):
        delete_quarantined(tree, aside)


def test_a_file_system_with_nothing_to_sync_about_directories_will_do(
    tree: Tree, video: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = put_aside(tree, video)

    def nothing_to_sync(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", nothing_to_sync)
    assert delete_quarantined(tree, aside) == Released()


def test_a_file_can_be_put_back_without_an_attempt_to_release_it(tree: Tree, video: str) -> None:
    aside = put_aside(tree, video)
    assert restore(tree, aside, "The program ends.") == Restored("The program ends.")
    assert names(video) == {"a.mp4"}
    assert identity(video) == aside.identity


@pytest.mark.parametrize("use", [delete_quarantined, lambda tree, aside: restore(tree, aside, "")])
def test_a_file_that_vanished_from_aside_is_missing(
    tree: Tree, video: str, aside_path: str, use: Callable[[Tree, Quarantined], object]
) -> None:
    aside = put_aside(tree, video)
    os.unlink(aside_path)
    with pytest.raises(FileMissingError):
        use(tree, aside)


@pytest.mark.parametrize("known", [True, False])
def test_a_crash_after_setting_aside_is_repaired(tree: Tree, video: str, known: bool) -> None:
    aside = put_aside(tree, video)
    outcome = repair(tree, ASIDE, "a.mp4", aside.identity if known else None)
    assert outcome == Restored("It was found in quarantine.")
    assert names(video) == {"a.mp4"}
    assert content(video) == b"hashed"


def test_a_crash_is_repaired_also_in_a_directory_that_was_moved(tree: Tree, place: str, video: str) -> None:
    put_aside(tree, video)
    os.rename(f"{place}/x", f"{place}/y")
    assert isinstance(repair(tree, f"y/{os.path.basename(ASIDE)}", "a.mp4", None), Restored)
    assert content(f"{place}/y/a.mp4") == b"hashed"


def test_what_was_hashed_is_given_up_when_a_newer_file_has_taken_its_name(tree: Tree, video: str) -> None:
    aside = put_aside(tree, video)
    write(video, b"new encode")
    assert repair(tree, ASIDE, "a.mp4", aside.identity) == Released()
    assert names(video) == {"a.mp4"}
    assert content(video) == b"new encode"


def test_what_may_not_have_been_hashed_stays_beside_a_newer_file(
    tree: Tree, video: str, aside_path: str
) -> None:
    aside = put_aside(tree, video)
    write(video, b"new encode")
    assert isinstance(repair(tree, ASIDE, "a.mp4", None), LeftInQuarantine)
    with open(aside_path, "ab"):
        assert isinstance(repair(tree, ASIDE, "a.mp4", aside.identity), LeftInQuarantine)
    write(aside_path, b"written aside")
    assert isinstance(repair(tree, ASIDE, "a.mp4", aside.identity), LeftInQuarantine)
    assert content(video) == b"new encode"
    assert content(aside_path) == b"written aside"


@pytest.mark.parametrize("changed", [False, True])
def test_without_reliable_leases_the_identity_decides(
    tree: Tree, video: str, aside_path: str, monkeypatch: pytest.MonkeyPatch, changed: bool
) -> None:
    monkeypatch.setattr(leases, "TRUSTED_FILE_SYSTEMS", frozenset())
    aside = put_aside(tree, video)
    if changed:
        write(aside_path, b"written aside")
    assert isinstance(delete_quarantined(tree, aside), Restored if changed else Released)
