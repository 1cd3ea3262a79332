"""The directory itself is the truth: a walk over all of it, compared with the ledger a page at a time."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from db import Ledger, State, Upload
from watcher.detection.blind_spots import UnreadableDirectories
from watcher.detection.settler import Source
from watcher.errors import MENDABLE_CODES, Code
from watcher.filesystem.openat import NotOursError, UnreadableError
from watcher.filesystem.removal import is_away, parse_quarantine_name
from watcher.filesystem.tree import FoundFile, Tree, UnreadableDirectory
from watcher.renditions import Ignored, PathTemplate

log = structlog.get_logger()

PAGE = 500
"""Files that are compared with the ledger by one query."""

SWEPT_STATES = frozenset({State.PENDING, State.REJECTED, State.FAILED})
"""States whose rows need their local file: without it they are `gone`."""


@dataclass(slots=True)
class ScanReport:
    """What one scan met; `asides` are the paths of files that a release had set aside."""

    files: int = 0
    noticed: int = 0
    ignored: int = 0
    missing: int = 0
    unreadable: int = 0
    asides: list[str] = field(default_factory=list)


class Watching(Protocol):
    """Is told of every directory that a scan visits; see `watcher.detection.observer.TreeObserver`."""

    def watch(self, directory: str) -> None:
        """The scan is about to list this directory."""

    def begin_pass(self) -> None:
        """A scan of everything begins."""

    def end_pass(self) -> None:
        """It came to its end."""


class Scanner:
    """Finds what the events did not tell. It only looks: whoever is told acts.

    `check` gets every path that the ledger does not know as it is now, with ``Source.SCAN`` when it is a new
    file which events should have reported, since everything was scanned before. `missing` gets every waiting
    row whose file is not there.
    """

    def __init__(
        self,
        *,
        tree: Tree,
        template: PathTemplate,
        ledger: Ledger,
        check: Callable[[str, Source], None],
        missing: Callable[[Upload], None],
    ) -> None:
        self._tree = tree
        self._template = template
        self._ledger = ledger
        self._check = check
        self._missing = missing
        self._watching: Watching | None = None
        self._has_scanned_all = False
        self.unreadable = UnreadableDirectories()

    def watch_with(self, watching: Watching) -> None:
        """Have every directory watched before it is listed, so that nothing is lost between the two."""
        self._watching = watching

    def scan(self, below: str = "", *, stopped: Callable[[], bool] = lambda: False) -> ScanReport:
        """Compare everything below a directory with the ledger; the whole tree also the other way round.

        Raises `RootUnavailableError` and `db.DatabaseError`; what was noticed until then stays.
        """
        report = ScanReport()
        unreadable: dict[str, str] = {}
        if self._watching is not None:
            if not below:
                self._watching.begin_pass()
            self._watching.watch(below)
        for page in _pages(self._candidates(below, report, unreadable)):
            if stopped():
                return report
            self._compare(page, report, Source.SCAN if self._has_scanned_all and not below else Source.EVENT)
        for path in self.unreadable.replace(below, unreadable):
            log.info("directory_readable", path=path)
        if not below:
            self._sweep(report, stopped)
            if stopped():
                return report
            self._has_scanned_all = True
            if self._watching is not None:
                self._watching.end_pass()
        return report

    def _enters(self, path: str) -> bool:
        if self._template.ignores(path) is not None:
            return False
        if self._watching is not None:
            self._watching.watch(path)
        return True

    def _candidates(self, below: str, report: ScanReport, unreadable: dict[str, str]) -> Iterator[FoundFile]:
        for entry in self._tree.walk(below, enter=self._enters):
            if isinstance(entry, UnreadableDirectory):
                report.unreadable += 1
                unreadable[entry.path] = entry.reason
                if self.unreadable.add(entry.path, entry.reason):
                    log.warning("directory_unreadable", path=entry.path, reason=entry.reason)
            elif parse_quarantine_name(os.path.basename(entry.path)) is not None:
                report.asides.append(entry.path)
            elif isinstance(self._template.classify(entry.path), Ignored):
                report.ignored += 1
            else:
                report.files += 1
                yield entry

    def _compare(self, page: Iterable[FoundFile], report: ScanReport, source_of_new: Source) -> None:
        found = {entry.path: entry.identity for entry in page}
        known = self._ledger.current_many(found)
        for path, identity in found.items():
            row = known.get(path)
            if row is None or row.identity != identity:
                report.noticed += 1
                self._check(path, source_of_new)
            elif not is_settled(row):
                report.noticed += 1
                self._check(path, Source.EVENT)

    def _sweep(self, report: ScanReport, stopped: Callable[[], bool]) -> None:
        for upload in self._ledger.iter_in_states(SWEPT_STATES):
            if stopped():
                return
            try:
                is_missing = self._tree.stat(upload.path) is None
                if is_missing and is_away(self._tree, upload.path, upload.id):
                    continue
            except (NotOursError, UnreadableError):
                continue
            if is_missing:
                self._tree.believe_missing()
                report.missing += 1
                self._missing(upload)


def _pages(found: Iterator[FoundFile]) -> Iterator[list[FoundFile]]:
    while page := list(itertools.islice(found, PAGE)):
        yield page


def is_settled(row: Upload) -> bool:
    """Whether a file that is there, with its row's identity, needs no further look."""
    return row.state.is_live and not is_mended_by_file(row)


def is_mended_by_file(row: Upload) -> bool:
    """Whether a row stopped for want of a readable file, so that its being there takes the reason away."""
    if row.state is State.GONE:
        return row.error_code != Code.ROW_GONE
    return row.state is State.FAILED and row.error_code in MENDABLE_CODES
