"""The scan: which files and rows it reports, and which it skips."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from db import State, Upload
from tests.support.databases import CHECKSUM, STATE_FACTS, advance_to
from tests.support.harness import VIDEO_ID, Harness
from tests.support.unprivileged import give_away
from watcher.app.factories import make_path_template
from watcher.detection import scanner as scanner_module
from watcher.detection.scanner import Scanner, UnreadableDirectories
from watcher.detection.settler import Source
from watcher.filesystem.openat import RootUnavailableError

PATH = f"{VIDEO_ID}/my_video_720p.mp4"
OTHER = f"{VIDEO_ID}/my_video_144p.mp4"


@dataclass
class Scans:
    """A scanner, and what it reported."""

    scanner: Scanner
    noticed: list[str]
    missing: list[Upload]
    found: list[str]
    rechecked: list[tuple[str, int]]


@dataclass
class Watched:
    """The directories that the scanner watched; `then` is called for each of them."""

    told: list[str] = field(default_factory=list)
    then: Callable[[str], None] = lambda _: None

    def watch(self, directory: str) -> None:
        self.told.append(directory)
        self.then(directory)

    def begin_pass(self) -> None:
        self.told.append("(begin)")

    def end_pass(self) -> None:
        self.told.append("(end)")


@pytest.fixture
def scans(harness: Harness) -> Scans:
    noticed: list[str] = []
    missing: list[Upload] = []
    found: list[str] = []
    rechecked: list[tuple[str, int]] = []
    app = harness.app
    scanner = Scanner(
        tree=app.tree,
        template=make_path_template(app.settings),
        ledger=app.ledger,
        check=lambda path, source: (found if source is Source.SCAN else noticed).append(path),
        recheck=lambda path, size: rechecked.append((path, size)),
        missing=missing.append,
    )
    return Scans(scanner, noticed, missing, found, rechecked)


def test_a_new_file_counts_as_found_only_by_a_full_scan_after_the_first(
    harness: Harness, scans: Scans, video: bytes
) -> None:
    harness.write(PATH, video)
    scans.scanner.scan(VIDEO_ID)
    scans.scanner.scan()
    assert (scans.noticed, scans.found) == ([PATH, PATH], [])
    harness.settle(PATH)
    harness.write(OTHER, video)
    scans.scanner.scan(VIDEO_ID)
    assert (scans.noticed, scans.found) == ([PATH, PATH, OTHER], [])
    scans.scanner.scan()
    assert (scans.noticed, scans.found) == ([PATH, PATH, OTHER], [OTHER])


def test_a_file_that_is_checked_again_does_not_count_as_found(
    harness: Harness, scans: Scans, video: bytes
) -> None:
    row = harness.put(PATH, video)
    scans.scanner.scan()
    harness.app.ledger.advance(row, State.FAILED, error="Because.", error_code="unreadable")
    scans.scanner.scan()
    assert (scans.noticed, scans.found) == ([PATH], [])


def test_a_copy_that_was_only_touched_is_left_to_the_reading_thread(
    harness: Harness, scans: Scans, video: bytes
) -> None:
    """A row without a checksum is not concerned by its file's ctime, and is no copy of anything."""
    row = harness.put(PATH, video)
    os.chmod(harness.absolute(PATH), 0o640)
    scans.scanner.scan()
    assert (scans.noticed, scans.rechecked) == ([], [])
    row = harness.app.ledger.record(row, checksum=CHECKSUM)
    harness.app.ledger.advance(row, State.VERIFIED, **STATE_FACTS[State.VERIFIED])
    scans.scanner.scan()
    assert (scans.noticed, scans.rechecked) == ([], [(PATH, len(video))])
    os.utime(harness.absolute(PATH), ns=(1, 1))
    scans.scanner.scan()
    assert (scans.noticed, scans.rechecked) == ([], [(PATH, len(video))])
    assert scans.found == [PATH]


def test_every_directory_is_watched_before_it_is_listed(harness: Harness, scans: Scans, video: bytes) -> None:
    """A file created right after its directory is watched is found by the scan or reported by an event."""
    os.makedirs(harness.absolute(VIDEO_ID))
    os.makedirs(harness.absolute(f"{VIDEO_ID}/.cache"))

    def write(directory: str) -> None:
        if directory == VIDEO_ID:
            harness.write(PATH, video)

    watched = Watched(then=write)
    scans.scanner.watch_with(watched)
    scans.scanner.scan()
    assert scans.noticed == [PATH]
    assert watched.told == ["(begin)", "", VIDEO_ID, "(end)"]
    scans.scanner.scan(VIDEO_ID)
    assert watched.told[4:] == [VIDEO_ID]


def test_a_scan_that_fails_or_is_stopped_does_not_end_its_pass(harness: Harness, scans: Scans) -> None:
    watched = Watched()
    harness.write(PATH, b"x")
    scans.scanner.watch_with(watched)
    scans.scanner.scan(stopped=lambda: True)
    os.rename(harness.app.tree.root, f"{harness.app.tree.root}.moved")
    with pytest.raises(RootUnavailableError):
        scans.scanner.scan()
    assert "(end)" not in watched.told


def test_an_unknown_file_is_noticed_and_a_settled_one_is_not(
    harness: Harness, scans: Scans, video: bytes
) -> None:
    harness.put(PATH, video)
    harness.write(OTHER, video)
    report = scans.scanner.scan()
    assert scans.noticed == [OTHER]
    assert (report.files, report.noticed, report.ignored, report.missing) == (2, 1, 0, 0)


def test_a_changed_file_is_noticed(harness: Harness, scans: Scans, video: bytes) -> None:
    harness.put(PATH, video)
    os.utime(harness.absolute(PATH), ns=(1, 1))
    scans.scanner.scan()
    assert scans.noticed == [PATH]


@pytest.mark.parametrize(
    ("state", "code", "is_noticed"),
    [
        (State.PENDING, None, False),
        (State.VERIFIED, None, False),
        (State.PUBLISHED, None, False),
        (State.REJECTED, "incomplete", False),
        (State.FAILED, "key-taken", False),
        (State.FAILED, "unreadable", True),
        (State.FAILED, "not-ours", True),
        (State.GONE, "local-missing", True),
        (State.RELEASED, None, True),
    ],
)
def test_a_file_that_did_not_change_is_checked_only_where_that_can_help(
    harness: Harness, scans: Scans, video: bytes, state: State, code: str | None, is_noticed: bool
) -> None:
    row = harness.put(PATH, video)
    if code is None:
        advance_to(harness.app.ledger, row, state)
    else:
        harness.app.ledger.advance(row, state, error="Because.", error_code=code)
    scans.scanner.scan()
    assert scans.noticed == [PATH] * is_noticed


def test_files_are_compared_with_the_ledger_a_page_at_a_time(
    harness: Harness, scans: Scans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanner_module, "PAGE", 4)
    paths = {harness.write(f"{VIDEO_ID}/{number}_720p.mp4", b"x") for number in range(10)}
    asked: list[int] = []
    current_many = harness.app.ledger.current_many

    def counted(paths: Iterable[str]) -> dict[str, Upload]:
        page = list(paths)
        asked.append(len(page))
        return current_many(page)

    monkeypatch.setattr(harness.app.ledger, "current_many", counted)
    scans.scanner.scan()
    assert set(scans.noticed) == paths
    assert asked == [4, 4, 2]


def test_a_stopped_scan_ends_between_two_pages(
    harness: Harness, scans: Scans, monkeypatch: pytest.MonkeyPatch, video: bytes
) -> None:
    monkeypatch.setattr(scanner_module, "PAGE", 4)
    harness.put(PATH, video)
    os.unlink(harness.absolute(PATH))
    for number in range(10):
        harness.write(f"{VIDEO_ID}/{number}_720p.mp4", b"x")
    scans.scanner.scan(stopped=lambda: bool(scans.noticed))
    assert len(scans.noticed) == 4
    assert scans.missing == []


def test_other_files_are_ignored_and_ignored_directories_are_not_listed(
    harness: Harness, scans: Scans
) -> None:
    harness.write(f"{VIDEO_ID}/notes.txt", b"x")
    harness.write(f"{VIDEO_ID}/b\udcff_720p.mp4", b"x")
    harness.write(f"{VIDEO_ID}/.cache/x_720p.mp4", b"x")
    harness.write(".trash/deep/x_720p.mp4", b"x")
    report = scans.scanner.scan()
    assert scans.noticed == []
    assert (report.files, report.ignored) == (0, 2)


def test_a_partial_scan_reads_only_its_directory(harness: Harness, scans: Scans, video: bytes) -> None:
    row = harness.put(PATH, video)
    os.unlink(harness.absolute(PATH))
    harness.write(OTHER, video)
    harness.write(f"{VIDEO_ID[::-1]}/x_720p.mp4", video)
    report = scans.scanner.scan(VIDEO_ID)
    assert scans.noticed == [OTHER]
    assert report.files == 1
    assert scans.missing == []
    scans.scanner.scan()
    assert scans.missing == [row]


@pytest.mark.parametrize(
    ("state", "is_missed"),
    [
        (State.PENDING, True),
        (State.REJECTED, True),
        (State.FAILED, True),
        (State.VERIFIED, False),
        (State.PUBLISHED, False),
        (State.RELEASED, False),
        (State.GONE, False),
    ],
)
def test_a_row_that_needs_its_file_is_reported_when_it_is_missing(
    harness: Harness, scans: Scans, video: bytes, state: State, is_missed: bool
) -> None:
    row = advance_to(harness.app.ledger, harness.put(PATH, video), state)
    os.unlink(harness.absolute(PATH))
    report = scans.scanner.scan()
    assert [upload.id for upload in scans.missing] == [row.id] * is_missed
    assert report.missing == is_missed


def test_something_else_at_the_path_is_not_a_missing_file(
    harness: Harness, scans: Scans, video: bytes
) -> None:
    harness.put(PATH, video)
    os.link(harness.absolute(PATH), harness.absolute(f"{VIDEO_ID}/second"))
    scans.scanner.scan()
    assert scans.missing == []


def test_an_empty_root_is_an_error(harness: Harness, scans: Scans, video: bytes) -> None:
    harness.put(PATH, video)
    shutil.rmtree(harness.absolute(VIDEO_ID))
    with pytest.raises(RootUnavailableError, match="is its file system mounted"):
        scans.scanner.scan()
    assert scans.missing == []
    assert harness.row(PATH).state is State.PENDING


def test_a_missing_root_is_an_error_and_not_an_empty_directory(
    harness: Harness, scans: Scans, video: bytes
) -> None:
    harness.put(PATH, video)
    os.rename(harness.app.tree.root, f"{harness.app.tree.root}.moved")
    with pytest.raises(RootUnavailableError):
        scans.scanner.scan()
    assert scans.missing == []


def test_an_unreadable_directory_is_counted_each_time_and_reported_once(
    harness: Harness,
    scans: Scans,
    video: bytes,
    unprivileged: Callable[[], AbstractContextManager[None]],
) -> None:
    row = harness.put(PATH, video)
    give_away(os.path.dirname(harness.app.tree.root))
    os.chmod(harness.absolute(VIDEO_ID), 0)
    with capture_logs() as logs, unprivileged():
        counted = [scans.scanner.scan().unreadable for _ in range(2)]
    os.chmod(harness.absolute(VIDEO_ID), 0o755)
    assert counted == [1, 1]
    assert list(scans.scanner.unreadable.first(5)) == [VIDEO_ID]
    with capture_logs() as later_logs:
        scans.scanner.scan(VIDEO_ID)
    assert len(scans.scanner.unreadable) == 0
    told = [(log["event"], log["log_level"], log["path"]) for log in logs + later_logs]
    assert told == [("directory_unreadable", "warning", VIDEO_ID), ("directory_readable", "info", VIDEO_ID)]
    assert scans.missing == []
    assert harness.row(PATH) == row


def test_quarantined_files_are_reported_and_not_checked(harness: Harness, scans: Scans) -> None:
    aside = harness.write(f"{VIDEO_ID}/.video-uploader-7.aside", b"x")
    report = scans.scanner.scan()
    assert report.quarantined == [aside]
    assert scans.noticed == []
    assert (report.files, report.ignored) == (0, 0)


def test_a_reason_for_an_unreadable_directory_is_news_once() -> None:
    directories = UnreadableDirectories()
    assert [directories.add("a", "No."), directories.add("a", "No."), directories.add("a", "Never.")] == [
        True,
        False,
        True,
    ]
    assert directories.first(5) == {"a": "Never."}


def test_a_scan_updates_only_unreadable_directories_below_its_own() -> None:
    directories = UnreadableDirectories()
    for path in ("a", "a/b", "ab", "c"):
        directories.add(path, "No.")
    assert directories.replace("a", {"a/b": "No."}) == ["a"]
    assert list(directories.first(5)) == ["a/b", "ab", "c"]
    assert directories.replace("", {"c": "No."}) == ["a/b", "ab"]
    assert len(directories) == 1


def test_the_first_unreadable_directories_are_in_order() -> None:
    directories = UnreadableDirectories()
    for path in ("c", "a", "b"):
        directories.add(path, "No.")
    assert list(directories.first(2)) == ["a", "b"]
