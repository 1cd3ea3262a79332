"""Files that a crash during a release left in quarantine are restored."""

import os
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from db import Database, Ledger, State, Upload, migrate, open_database, sqlite_url
from storage import checksums
from watcher.detection import Reading
from watcher.filesystem.hashing import Hashing
from watcher.filesystem.openat import identity_of
from watcher.filesystem.removal import Quarantined, quarantine, quarantine_name
from watcher.filesystem.tree import Tree
from watcher.stages.release import QuarantineRepair

VIDEO = "0b8e3f60-9d5c-4c1a-8f8e-3b1f0a7d2c11"
PATH = f"{VIDEO}/a_720p.mp4"
LEASE = timedelta(seconds=60)


@pytest.fixture
def database(tmp_path: os.PathLike[str]) -> Iterator[Database]:
    with closing(open_database(sqlite_url(os.path.join(tmp_path, "ledger.sqlite3")))) as database:
        migrate(database)
        yield database


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database, "test")


@pytest.fixture
def root(place: str) -> Tree:
    """The watched directory, with one directory of a video in it."""
    os.makedirs(f"{place}/{VIDEO}")
    return Tree(place)


def write(tree: Tree, path: str, content: bytes) -> None:
    with open(os.path.join(tree.root, path), "wb") as file:
        file.write(content)


def names(tree: Tree) -> list[str]:
    return sorted(os.listdir(os.path.join(tree.root, VIDEO)))


def crash_in_release(tree: Tree, ledger: Ledger) -> Upload:
    """Leave what a crash between rename and unlink leaves; returns the file's row."""
    write(tree, PATH, b"hashed")
    upload = ledger.enqueue(
        PATH,
        video_id=VIDEO,
        filename="a.mp4",
        quality="720p",
        object_key=f"videos/{PATH}",
        identity=identity_of(os.stat(os.path.join(tree.root, PATH))),
    )
    assert upload is not None
    upload = ledger.record(upload, checksum=checksums.encode(checksums.crc(b"hashed")))
    assert isinstance(quarantine(tree, PATH, upload.id, upload.identity), Quarantined)
    return upload


def repair(tree: Tree, ledger: Ledger, *, is_shared: bool = False) -> list[tuple[object, object]]:
    """Repair all quarantined files; returns the events and outcomes that were logged."""
    paths = [f"{VIDEO}/{name}" for name in names(tree) if name.endswith(".aside")]
    with capture_logs() as logged:
        QuarantineRepair(tree, ledger, Hashing(), lease=LEASE, is_shared=is_shared).run(paths)
    return [(line["event"], line.get("outcome")) for line in logged]


def test_a_quarantined_file_gets_its_name_back(root: Tree, ledger: Ledger) -> None:
    crash_in_release(root, ledger)
    assert names(root) == [quarantine_name(1)]
    assert repair(root, ledger) == [("aside_repaired", "Restored")]
    assert names(root) == ["a_720p.mp4"]


def test_a_clock_that_was_set_back_makes_no_release_of_another_daemon_last_longer(
    root: Tree, database: Database, ledger: Ledger
) -> None:
    upload = crash_in_release(root, ledger)
    moved_on = ledger.advance(upload, State.GONE)
    assert repair(root, ledger, is_shared=True) == []
    set_back = Ledger(database, "test", clock=lambda: moved_on.changed_at - timedelta(days=1))
    assert repair(root, set_back, is_shared=True) == [("aside_repaired", "Restored")]


def test_a_newer_file_under_the_name_is_never_overwritten(root: Tree, ledger: Ledger) -> None:
    crash_in_release(root, ledger)
    write(root, PATH, b"newer encode")
    assert repair(root, ledger) == [("aside_repaired", "Released")]
    assert names(root) == ["a_720p.mp4"]
    with open(os.path.join(root.root, PATH), "rb") as file:
        assert file.read() == b"newer encode"


def test_two_contents_of_which_neither_was_hashed_both_stay(root: Tree, ledger: Ledger) -> None:
    upload = crash_in_release(root, ledger)
    write(root, f"{VIDEO}/{quarantine_name(upload.id)}", b"written while it was aside")
    write(root, PATH, b"newer encode")
    assert repair(root, ledger) == [("aside_repaired", "LeftInQuarantine")]
    assert names(root) == [quarantine_name(upload.id), "a_720p.mp4"]


def test_content_that_was_edited_aside_under_the_same_size_and_time_stays(root: Tree, ledger: Ledger) -> None:
    upload = crash_in_release(root, ledger)
    aside = os.path.join(root.root, VIDEO, quarantine_name(upload.id))
    before = os.stat(aside)
    write(root, f"{VIDEO}/{quarantine_name(upload.id)}", b"edited")
    os.utime(aside, ns=(before.st_atime_ns, before.st_mtime_ns))
    write(root, PATH, b"newer encode")
    assert identity_of(os.stat(aside)) == upload.identity
    assert repair(root, ledger) == [("aside_repaired", "LeftInQuarantine")]
    assert names(root) == [quarantine_name(upload.id), "a_720p.mp4"]


def test_a_stop_ends_the_reading_of_a_quarantined_file_and_leaves_it(root: Tree, ledger: Ledger) -> None:
    upload = crash_in_release(root, ledger)
    write(root, PATH, b"newer encode")
    path = f"{VIDEO}/{quarantine_name(upload.id)}"
    QuarantineRepair(root, ledger, Hashing(), lease=LEASE).run([path], Reading(stopped=lambda: True))
    assert names(root) == [quarantine_name(upload.id), "a_720p.mp4"]
    assert ledger.uploads(ids=[upload.id])[0].claimed_by is None


def test_a_file_whose_upload_is_unknown_stays_and_is_logged(root: Tree, ledger: Ledger) -> None:
    write(root, f"{VIDEO}/{quarantine_name(77)}", b"whose?")
    assert repair(root, ledger) == [("aside_unknown", None)]
    assert names(root) == [quarantine_name(77)]


def test_a_name_that_only_looks_like_ours_stays(root: Tree, ledger: Ledger) -> None:
    write(root, f"{VIDEO}/.video-uploader-x.aside", b"not ours")
    assert repair(root, ledger) == [("aside_unknown", None)]
    assert names(root) == [".video-uploader-x.aside"]


def test_a_file_that_cannot_be_repaired_does_not_stop_the_others(root: Tree, ledger: Ledger) -> None:
    upload = crash_in_release(root, ledger)
    with capture_logs() as logged:
        QuarantineRepair(root, ledger, Hashing(), lease=LEASE).run(
            [f"gone/{quarantine_name(upload.id)}", f"{VIDEO}/{quarantine_name(upload.id)}"]
        )
    assert [line["event"] for line in logged] == ["aside_unrepaired", "aside_repaired"]
    assert names(root) == ["a_720p.mp4"]
