"""Files that a crash during a release left in quarantine are restored."""

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from db import Database, Ledger, State, Upload, migrate, open_database, sqlite_url
from storage import checksums
from watcher.detection import Reading
from watcher.filesystem.hashing import Hashing
from watcher.filesystem.openat import identity_of
from watcher.filesystem.quarantine_names import quarantine_name
from watcher.filesystem.removal import Quarantined, quarantine, quarantined_paths
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
    assert isinstance(quarantine(tree, PATH, upload.id, upload.identity, token=ledger.token), Quarantined)
    return upload


def name_of(ledger: Ledger, upload_id: int, original: str = "a_720p.mp4") -> str:
    return quarantine_name(original, upload_id, 0, ledger.token)


def repair(tree: Tree, ledger: Ledger, *, is_shared: bool = False) -> list[tuple[object, object]]:
    """Repair all quarantined files; returns the events and outcomes that were logged."""
    paths = [f"{VIDEO}/{name}" for name in names(tree) if name.endswith(".aside")]
    with capture_logs() as logged:
        QuarantineRepair(tree, ledger, Hashing(), lease=LEASE, is_shared=is_shared).run(paths)
    return [(line["event"], line.get("outcome")) for line in logged]


def test_a_quarantined_file_gets_its_name_back(root: Tree, ledger: Ledger) -> None:
    crash_in_release(root, ledger)
    assert names(root) == [name_of(ledger, 1)]
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
    write(root, f"{VIDEO}/{name_of(ledger, upload.id)}", b"written while it was aside")
    write(root, PATH, b"newer encode")
    assert repair(root, ledger) == [("aside_repaired", "LeftInQuarantine")]
    assert names(root) == [name_of(ledger, upload.id), "a_720p.mp4"]


def test_content_that_was_edited_aside_under_the_same_size_and_time_stays(root: Tree, ledger: Ledger) -> None:
    upload = crash_in_release(root, ledger)
    aside = os.path.join(root.root, VIDEO, name_of(ledger, upload.id))
    before = os.stat(aside)
    write(root, f"{VIDEO}/{name_of(ledger, upload.id)}", b"edited")
    os.utime(aside, ns=(before.st_atime_ns, before.st_mtime_ns))
    write(root, PATH, b"newer encode")
    assert identity_of(os.stat(aside)) == upload.identity
    assert repair(root, ledger) == [("aside_repaired", "LeftInQuarantine")]
    assert names(root) == [name_of(ledger, upload.id), "a_720p.mp4"]


def test_a_stop_ends_the_reading_of_a_quarantined_file_and_leaves_it(root: Tree, ledger: Ledger) -> None:
    upload = crash_in_release(root, ledger)
    write(root, PATH, b"newer encode")
    path = f"{VIDEO}/{name_of(ledger, upload.id)}"
    QuarantineRepair(root, ledger, Hashing(), lease=LEASE).run([path], Reading(stopped=lambda: True))
    assert names(root) == [name_of(ledger, upload.id), "a_720p.mp4"]
    assert ledger.uploads(ids=[upload.id])[0].claimed_by is None


@pytest.mark.parametrize("name", [".video-uploader-77.aside", ".video-uploader-77-3.aside"])
def test_a_file_whose_upload_is_unknown_stays_and_is_logged(root: Tree, ledger: Ledger, name: str) -> None:
    """An earlier version has given it a name without its original one."""
    write(root, f"{VIDEO}/{name}", b"whose?")
    assert repair(root, ledger) == [("aside_unknown", None)]
    assert names(root) == [name]


def test_a_file_of_an_id_that_the_restored_ledger_has_not_given_gets_its_own_name_back(
    root: Tree, ledger: Ledger
) -> None:
    write(root, f"{VIDEO}/{name_of(ledger, 77, 'b_480p.mp4')}", b"b")
    assert repair(root, ledger) == [("aside_repaired", "Restored")]
    assert names(root) == ["b_480p.mp4"]


def test_a_file_of_an_id_that_is_given_again_never_gets_the_other_uploads_name(
    root: Tree, ledger: Ledger
) -> None:
    """The ledger was restored: the file has the number of an upload of another path."""
    upload = crash_in_release(root, ledger)
    write(root, f"{VIDEO}/{name_of(ledger, upload.id, 'b_480p.mp4')}", b"b")
    assert sorted(repair(root, ledger)) == [("aside_repaired", "Restored")] * 2
    assert names(root) == ["a_720p.mp4", "b_480p.mp4"]
    with open(os.path.join(root.root, PATH), "rb") as file:
        assert file.read() == b"hashed"


def test_a_file_of_another_ledger_is_reported_and_left(
    root: Tree, ledger: Ledger, tmp_path: os.PathLike[str]
) -> None:
    """A second ledger gives the same ids: its own upload of this number has nothing to do with the file."""
    crash_in_release(root, ledger)
    (foreign,) = names(root)
    with closing(open_database(sqlite_url(os.path.join(tmp_path, "second.sqlite3")))) as database:
        migrate(database)
        second = Ledger(database, "test")
        assert second.token != ledger.token
        upload = crash_in_release(root, second)
        assert upload.id == 1
        assert sorted(repair(root, second)) == [("aside_foreign", None), ("aside_repaired", "Restored")]
        assert names(root) == [foreign, "a_720p.mp4"]
        repairing = QuarantineRepair(root, second, Hashing(), lease=LEASE)
        with capture_logs() as logged:
            for _ in range(2):
                repairing.run([f"{VIDEO}/{foreign}"])
        assert [(line["event"], line["log_level"]) for line in logged] == [("aside_foreign", "warning")]
        assert repairing.left == {f"{VIDEO}/{foreign}": "It belongs to another ledger."}
        assert quarantined_paths(root, upload, second.token) == []
    os.unlink(os.path.join(root.root, PATH))
    assert repair(root, ledger) == [("aside_repaired", "Restored")]
    assert names(root) == ["a_720p.mp4"]


def test_a_file_of_another_instance_of_the_database_is_left_to_it(
    root: Tree, database: Database, ledger: Ledger
) -> None:
    crash_in_release(root, ledger)
    before = names(root)
    assert repair(root, Ledger(database, "other")) == [("aside_foreign", None)]
    assert names(root) == before


@pytest.mark.parametrize("claim", ["", "-3"])
def test_a_name_of_an_earlier_version_is_restored_if_the_identity_is_the_uploads(
    root: Tree, ledger: Ledger, claim: str
) -> None:
    upload = crash_in_release(root, ledger)
    directory = os.path.join(root.root, VIDEO)
    earlier = f".video-uploader-{upload.id}{claim}.aside"
    os.rename(f"{directory}/{name_of(ledger, upload.id)}", f"{directory}/{earlier}")
    # The device may have another number since the last boot.
    ledger.update_identity(upload, replace(upload.identity, device=1))
    assert repair(root, ledger) == [("aside_repaired", "Restored")]
    assert names(root) == ["a_720p.mp4"]


@pytest.mark.parametrize("name", ["", "a" * 245 + "_720p.mp4"])
def test_without_the_original_name_in_it_another_file_is_left_although_the_name_is_free(
    root: Tree, ledger: Ledger, name: str
) -> None:
    """A's 480p must not become B's 720p, only because B has its id by now."""
    upload = crash_in_release(root, ledger)
    directory = os.path.join(root.root, VIDEO)
    os.unlink(f"{directory}/{name_of(ledger, upload.id)}")
    left = name_of(ledger, upload.id, name) if name else f".video-uploader-{upload.id}.aside"
    write(root, f"{VIDEO}/{left}", b"of another upload")
    assert quarantined_paths(root, upload, ledger.token) == []
    assert repair(root, ledger) == [("aside_foreign", None)]
    assert names(root) == [left]


def test_a_name_that_only_looks_like_ours_stays(root: Tree, ledger: Ledger) -> None:
    write(root, f"{VIDEO}/.video-uploader-x.aside", b"not ours")
    assert repair(root, ledger) == [("aside_unknown", None)]
    assert names(root) == [".video-uploader-x.aside"]


def test_a_file_that_cannot_be_repaired_does_not_stop_the_others(root: Tree, ledger: Ledger) -> None:
    upload = crash_in_release(root, ledger)
    with capture_logs() as logged:
        QuarantineRepair(root, ledger, Hashing(), lease=LEASE).run(
            [f"gone/{name_of(ledger, upload.id)}", f"{VIDEO}/{name_of(ledger, upload.id)}"]
        )
    assert [line["event"] for line in logged] == ["aside_unrepaired", "aside_repaired"]
    assert names(root) == ["a_720p.mp4"]
