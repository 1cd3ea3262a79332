"""A local copy is given up only if nobody can lose anything by it; whatever happens, no content is lost."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from db import Identity
from tests.support.peer_process import Peer, writer
from tests.unit.watcher.conftest import NOBODY
from watcher.filesystem import leases
from watcher.filesystem.leases import LeaseAttempt
from watcher.filesystem.removal import (
    Kept,
    LeftInQuarantine,
    Quarantined,
    Released,
    Restored,
    delete_quarantined,
    parse_quarantine_name,
    quarantine,
    quarantine_name,
    repair,
    restore,
)
from watcher.filesystem.tree import FileMissingError, NotOursError, Tree, identity_of

RELATIVE = "x/a.mp4"
ASIDE = "x/.video-uploader-7.aside"
LIKE_AN_ENCODER = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


@pytest.fixture
def video(place: str) -> str:
    """A file in the tree, at RELATIVE."""
    os.mkdir(f"{place}/x")
    path = f"{place}/{RELATIVE}"
    with open(path, "wb") as file:
        file.write(b"hashed")
    return path


@pytest.fixture
def aside_path(place: str) -> str:
    """Where the file is while it is set aside."""
    return f"{place}/{ASIDE}"


def identity(path: str) -> Identity:
    return identity_of(os.stat(path))


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def names(path: str) -> set[str]:
    return set(os.listdir(os.path.dirname(path)))


def put_aside(tree: Tree, path: str) -> Quarantined:
    aside = quarantine(tree, RELATIVE, 7, identity(path))
    assert isinstance(aside, Quarantined)
    return aside


def test_a_file_that_nobody_needs_is_released(tree: Tree, video: str) -> None:
    aside = put_aside(tree, video)
    assert aside == Quarantined(RELATIVE, 7, aside.identity)
    assert aside.quarantine_path == ASIDE
    assert names(video) == {".video-uploader-7.aside"}
    assert delete_quarantined(tree, aside) == Released()
    assert names(video) == set()


def test_a_file_at_the_top_of_the_tree_is_released_too(tree: Tree, place: str) -> None:
    write(f"{place}/a.mp4", b"hashed")
    aside = quarantine(tree, "a.mp4", 7, identity(f"{place}/a.mp4"))
    assert isinstance(aside, Quarantined)
    assert os.listdir(place) == [aside.quarantine_path] == [quarantine_name(7)]
    assert delete_quarantined(tree, aside) == Released()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a.mp4",
        ".video-uploader-.aside",
        ".video-uploader-0.aside",
        ".video-uploader-\N{ARABIC-INDIC DIGIT THREE}.aside",
        ".video-uploader-7.aside.mp4",
        "x.video-uploader-7.aside",
        ".video-uploader-7.aside\n",
        f".video-uploader-{10**18}.aside",
        f".video-uploader-7-{10**18}.aside",
        f".video-uploader-{10**200}.aside",
    ],
)
def test_only_names_that_we_give_are_taken_for_files_set_aside(name: str) -> None:
    assert parse_quarantine_name(name) is None
    assert parse_quarantine_name(quarantine_name(1234567890123)) == 1234567890123


def test_a_file_that_is_not_the_one_hashed_is_not_touched(tree: Tree, video: str) -> None:
    hashed = identity(video)
    os.utime(video, ns=(1, 1))
    assert quarantine(tree, RELATIVE, 7, hashed) == Kept("It is not the file that was hashed any more.")
    assert names(video) == {"a.mp4"}


def test_a_file_that_is_being_written_keeps_its_name(tree: Tree, video: str) -> None:
    with open(video, "ab"):
        kept = quarantine(tree, RELATIVE, 7, identity(video))
    assert kept == Kept("Some process has it open for writing.")
    assert names(video) == {"a.mp4"}


def test_a_file_with_a_second_name_and_a_missing_one_are_not_set_aside(tree: Tree, video: str) -> None:
    os.link(video, f"{video}.second")
    with pytest.raises(NotOursError):
        quarantine(tree, RELATIVE, 7, identity(video))
    with pytest.raises(FileMissingError):
        quarantine(tree, "x/b.mp4", 7, identity(video))


def test_what_an_earlier_release_left_aside_is_not_overwritten(
    tree: Tree, video: str, aside_path: str
) -> None:
    write(aside_path, b"left")
    kept = quarantine(tree, RELATIVE, 7, identity(video))
    assert isinstance(kept, Kept)
    assert "already" in kept.reason
    assert content(aside_path) == b"left"
    assert content(video) == b"hashed"


def test_a_file_in_a_directory_that_may_not_be_changed_stays(
    tree: Tree, video: str, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    os.chmod(os.path.dirname(video), 0o555)
    with unprivileged():
        kept = quarantine(tree, RELATIVE, 7, identity(video))
    os.chmod(os.path.dirname(video), 0o755)
    assert isinstance(kept, Kept)
    assert "run the service as the user who writes the files" in kept.reason
    assert names(video) == {"a.mp4"}


def test_a_file_that_could_not_be_put_back_is_not_even_set_aside(
    tree: Tree, video: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_links(monkeypatch)
    kept = quarantine(tree, RELATIVE, 7, identity(video))
    assert isinstance(kept, Kept)
    assert "hard links" in kept.reason
    assert names(video) == {"a.mp4"}


def refuse_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)


def test_a_writer_that_had_looked_the_name_up_before_gets_its_file_back(
    tree: Tree, video: str, aside_path: str
) -> None:
    aside = put_aside(tree, video)
    with writer(aside_path, LIKE_AN_ENCODER, "new encode") as process:
        process.expect("opened")
        assert delete_quarantined(tree, aside) == Restored("Some process has it open for writing.")
        process.go_on()
        process.expect("closed")
    assert names(video) == {"a.mp4"}
    assert content(video) == b"new encode"


def under_the_lease(monkeypatch: pytest.MonkeyPatch, happens: Callable[[LeaseAttempt], None]) -> None:
    hold = leases.hold

    @contextmanager
    def hold_and_more(descriptor: int) -> Iterator[LeaseAttempt]:
        with hold(descriptor) as held:
            happens(held)
            yield held

    monkeypatch.setattr(leases, "hold", hold_and_more)


@pytest.mark.parametrize("trusted", [True, False])
def test_a_writer_that_waits_for_the_lease_in_open_does_not_lose_its_encode(
    tree: Tree, video: str, aside_path: str, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    if not trusted:
        monkeypatch.setattr(leases, "TRUSTED_FILE_SYSTEMS", frozenset())
    aside = put_aside(tree, video)
    with ExitStack() as processes:
        peers: list[Peer] = []

        def writer_comes(hold: LeaseAttempt) -> None:
            peers.append(processes.enter_context(writer(aside_path, LIKE_AN_ENCODER, "new encode")))
            while not hold.is_broken():
                os.sched_yield()

        under_the_lease(monkeypatch, writer_comes)
        outcome = delete_quarantined(tree, aside)
        peers[0].expect("opened")
        peers[0].go_on()
        peers[0].expect("closed")
    assert names(video) == {"a.mp4"}
    assert content(video) == b"new encode"
    assert outcome == Restored("Some process is about to write it.")


def test_a_writer_of_the_path_makes_a_new_file_while_the_old_one_is_aside(tree: Tree, video: str) -> None:
    aside = put_aside(tree, video)
    with writer(video, LIKE_AN_ENCODER, "new encode") as process:
        process.expect("opened")
        assert delete_quarantined(tree, aside) == Released()
        process.go_on()
        process.expect("closed")
    assert names(video) == {"a.mp4"}
    assert content(video) == b"new encode"


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
    assert names(video) == {"a.mp4", ".video-uploader-7.aside"}
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
    assert isinstance(repair(tree, "y/.video-uploader-7.aside", "a.mp4", None), Restored)
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
