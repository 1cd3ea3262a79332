"""The directory itself is the truth: a walk over all of it, compared with the ledger a page at a time."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import structlog

from db import Ledger, State, Upload
from watcher.logs import RepeatFilter
from watcher.openat import NotOursError, UnreadableError
from watcher.problems import MENDABLE_CODES, ROW_GONE
from watcher.release import is_away, parse_aside_name
from watcher.template import Ignored, PathTemplate
from watcher.tree import FoundFile, Tree, UnreadableDirectory

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


class Scanner:
    """Finds what the events did not tell. It only looks: whoever is told acts.

    `notice` gets every path that the ledger does not know as it is now; `missing` every waiting row
    whose file is not there.
    """

    def __init__(
        self,
        *,
        tree: Tree,
        template: PathTemplate,
        ledger: Ledger,
        notice: Callable[[str], None],
        missing: Callable[[Upload], None],
    ) -> None:
        self._tree = tree
        self._template = template
        self._ledger = ledger
        self._notice = notice
        self._missing = missing
        self._unreadable = RepeatFilter()

    def scan(self, below: str = "", *, stopped: Callable[[], bool] = lambda: False) -> ScanReport:
        """Compare everything below a directory with the ledger; the whole tree also the other way round.

        Raises `watcher.tree.RootUnavailableError` and `db.DatabaseError`; what was noticed until then stays.
        """
        report = ScanReport()
        for page in _pages(self._candidates(below, report)):
            if stopped():
                return report
            self._compare(page, report)
        if not below:
            self._sweep(report, stopped)
        return report

    def _candidates(self, below: str, report: ScanReport) -> Iterator[FoundFile]:
        for entry in self._tree.walk(below, enter=lambda path: self._template.ignores(path) is None):
            if isinstance(entry, UnreadableDirectory):
                report.unreadable += 1
                if self._unreadable.is_news(entry.path, entry.reason):
                    log.warning("directory_unreadable", path=entry.path, reason=entry.reason)
            elif parse_aside_name(os.path.basename(entry.path)) is not None:
                report.asides.append(entry.path)
            elif isinstance(self._template.classify(entry.path), Ignored):
                report.ignored += 1
            else:
                report.files += 1
                yield entry

    def _compare(self, page: Iterable[FoundFile], report: ScanReport) -> None:
        found = {entry.path: entry.identity for entry in page}
        known = self._ledger.current_many(found)
        for path, identity in found.items():
            row = known.get(path)
            if row is None or row.identity != identity or not is_settled(row):
                report.noticed += 1
                self._notice(path)

    def _sweep(self, report: ScanReport, stopped: Callable[[], bool]) -> None:
        for upload in self._ledger.live_uploads(SWEPT_STATES):
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
        return row.error_code != ROW_GONE
    return row.state is State.FAILED and row.error_code in MENDABLE_CODES
