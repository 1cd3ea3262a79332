"""A local copy is deleted only if its content is safe elsewhere; whatever happens, no content is lost."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

import pytest

from tests.support.peer_process import Peer, writer
from tests.support.quarantine_files import (
    ASIDE,
    LIKE_AN_ENCODER,
    RELATIVE,
    TOKEN,
    content,
    identity,
    make_video,
    names,
    put_aside,
    refuse_links,
    under_the_lease,
    write,
)
from watcher.filesystem import leases
from watcher.filesystem.leases import LeaseAttempt
from watcher.filesystem.openat import FileMissingError, NotOursError
from watcher.filesystem.quarantine_names import QuarantineName, parse_quarantine_name, quarantine_name
from watcher.filesystem.removal import (
    Kept,
    Quarantined,
    Released,
    Restored,
    delete_quarantined,
    quarantine,
)
from watcher.filesystem.tree import Tree


@pytest.fixture
def video(place: str) -> str:
    """A file in the tree, at RELATIVE."""
    return make_video(place)


@pytest.fixture
def aside_path(place: str) -> str:
    """Where the file is while it is set aside."""
    return f"{place}/{ASIDE}"


def test_a_file_that_nobody_needs_is_released(tree: Tree, video: str) -> None:
    aside = put_aside(tree, video)
    assert aside == Quarantined(RELATIVE, 7, aside.identity, 0, TOKEN)
    assert aside.quarantine_path == ASIDE
    assert names(video) == {os.path.basename(ASIDE)}
    assert delete_quarantined(tree, aside) == Released()
    assert names(video) == set()


def test_a_file_at_the_top_of_the_tree_is_released_too(tree: Tree, place: str) -> None:
    write(f"{place}/a.mp4", b"hashed")
    aside = quarantine(tree, "a.mp4", 7, identity(f"{place}/a.mp4"), token=TOKEN)
    assert isinstance(aside, Quarantined)
    assert os.listdir(place) == [aside.quarantine_path] == [quarantine_name("a.mp4", 7, 0, TOKEN)]
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
        f".video-uploader-{TOKEN}-7-1.aside",
        f".video-uploader-{TOKEN}-7-1-.aside",
        f".video-uploader-{TOKEN}-07-1-a.mp4.aside",
        f".video-uploader-{TOKEN.upper()}-7-1-a.mp4.aside",
        f".video-uploader-{TOKEN}-{10**18}-1-a.mp4.aside",
        f".video-uploader-{TOKEN}-7-1~{TOKEN[1:]}-a.aside",
        f"x.video-uploader-{TOKEN}-7-1-a.mp4.aside",
    ],
)
def test_only_names_that_we_give_are_taken_for_files_set_aside(name: str) -> None:
    assert parse_quarantine_name(name) is None


@pytest.mark.parametrize("original", ["a.mp4", "a-7~b.aside", "\n", "\udcff.mp4", "ü" * 80, "7"])
def test_a_name_of_a_quarantined_file_has_ledger_upload_and_original_name(original: str) -> None:
    name = quarantine_name(original, 10**17, 10**17, TOKEN)
    assert len(os.fsencode(name)) <= 255
    assert parse_quarantine_name(name) == QuarantineName(10**17, TOKEN, original)
    assert parse_quarantine_name(".video-uploader-7.aside") == QuarantineName(7)
    assert parse_quarantine_name(".video-uploader-7-3.aside") == QuarantineName(7)


@pytest.mark.parametrize("original", ["a" * 251 + ".mp4", "ü" * 127, "€" * 85])
def test_a_name_that_would_be_too_long_has_a_digest_and_its_start(original: str) -> None:
    name = quarantine_name(original, 10**17, 10**17, TOKEN)
    assert 252 <= len(os.fsencode(name)) <= 255
    assert original[:40] in name
    found = parse_quarantine_name(name)
    assert found is not None
    assert (found.upload_id, found.token, found.original) == (10**17, TOKEN, None)
    assert name != quarantine_name(original[:-1] + "x", 10**17, 10**17, TOKEN)


def test_a_file_that_is_not_the_one_hashed_is_not_touched(tree: Tree, video: str) -> None:
    hashed = identity(video)
    os.utime(video, ns=(1, 1))
    assert quarantine(tree, RELATIVE, 7, hashed, token=TOKEN) == Kept(
        "It is not the file that was hashed any more."
    )
    assert names(video) == {"a.mp4"}


def test_a_file_that_is_being_written_keeps_its_name(tree: Tree, video: str) -> None:
    with open(video, "ab"):
        kept = quarantine(tree, RELATIVE, 7, identity(video), token=TOKEN)
    assert kept == Kept("Some process has it open for writing.")
    assert names(video) == {"a.mp4"}


def test_a_file_with_a_second_name_and_a_missing_one_are_not_set_aside(tree: Tree, video: str) -> None:
    os.link(video, f"{video}.second")
    with pytest.raises(NotOursError):
        quarantine(tree, RELATIVE, 7, identity(video), token=TOKEN)
    with pytest.raises(FileMissingError):
        quarantine(tree, "x/b.mp4", 7, identity(video), token=TOKEN)


def test_what_an_earlier_release_left_aside_is_not_overwritten(
    tree: Tree, video: str, aside_path: str
) -> None:
    write(aside_path, b"left")
    kept = quarantine(tree, RELATIVE, 7, identity(video), token=TOKEN)
    assert isinstance(kept, Kept)
    assert "already" in kept.reason
    assert content(aside_path) == b"left"
    assert content(video) == b"hashed"


def test_a_file_in_a_directory_that_may_not_be_changed_stays(
    tree: Tree, video: str, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    os.chmod(os.path.dirname(video), 0o555)
    with unprivileged():
        kept = quarantine(tree, RELATIVE, 7, identity(video), token=TOKEN)
    os.chmod(os.path.dirname(video), 0o755)
    assert isinstance(kept, Kept)
    assert "run the service as the user who writes the files" in kept.reason
    assert names(video) == {"a.mp4"}


def test_a_file_that_could_not_be_put_back_is_not_even_set_aside(
    tree: Tree, video: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_links(monkeypatch)
    kept = quarantine(tree, RELATIVE, 7, identity(video), token=TOKEN)
    assert isinstance(kept, Kept)
    assert "hard links" in kept.reason
    assert names(video) == {"a.mp4"}


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
