"""Scans: a walk over the watched directory, compared with the ledger a page at a time."""

from __future__ import annotations

import itertools
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from db import Identity, Ledger, State, Upload
from watcher.detection.settler import Source
from watcher.errors import FILE_SYSTEM_CODES, Code
from watcher.filesystem import FoundFile, NotOursError, Tree, UnreadableDirectory, UnreadableError
from watcher.filesystem.hashing import Rank
from watcher.filesystem.quarantine_names import parse_quarantine_name
from watcher.filesystem.removal import is_present_or_quarantined
from watcher.renditions import Ignored, IgnoredKind, PathTemplate
from watcher.supervision import Isolation
from watcher.telemetry import row_context

log = structlog.get_logger()

PAGE = 500
"""Number of files compared with the ledger by one query."""

MAX_IGNORED_PATHS = 10_000

STATES_WITH_FILE = frozenset({State.PENDING, State.REJECTED, State.FAILED})
"""States whose rows require the local file: without it they become `gone`."""


@dataclass(slots=True)
class ScanReport:
    """The result of a scan in numbers of files; `quarantined` holds the paths of quarantined files.

    `ignored_paths` holds the first `MAX_IGNORED_PATHS` files that were ignored, `ignored_by` how many there
    were by kind.
    """

    files: int = 0
    noticed: int = 0
    ignored: int = 0
    missing: int = 0
    unreadable: int = 0
    quarantined: list[str] = field(default_factory=list)
    ignored_paths: list[str] = field(default_factory=list)
    ignored_by: Counter[IgnoredKind] = field(default_factory=Counter)

    def add_ignored(self, path: str, kind: IgnoredKind) -> None:
        """Count a file that is ignored."""
        self.ignored += 1
        self.ignored_by[kind] += 1
        if len(self.ignored_paths) < MAX_IGNORED_PATHS:
            self.ignored_paths.append(path)


class Watching(Protocol):
    """What a scan notifies of its progress; implemented by `watcher.detection.observer.TreeObserver`."""

    def watch(self, directory: str) -> None:
        """The scan is about to list this directory."""

    def begin_pass(self) -> None:
        """A scan of the whole tree begins."""

    def end_pass(self) -> None:
        """The scan of the whole tree is complete."""


class UnreadableDirectories:
    """The directories that scans could not list, each with the reason. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reasons: dict[str, str] = {}

    def __len__(self) -> int:
        with self._lock:
            return len(self._reasons)

    def add(self, path: str, reason: str) -> bool:
        """Add a directory. Returns whether path and reason are new."""
        with self._lock:
            is_news = self._reasons.get(path) != reason
            self._reasons[path] = reason
            return is_news

    def replace(self, below: str, found: Mapping[str, str]) -> list[str]:
        """Keep, of the directories below `below`, only `found`. Returns the paths that were dropped."""
        with self._lock:
            dropped = sorted(path for path in self._reasons.keys() - found.keys() if _is_within(path, below))
            for path in dropped:
                del self._reasons[path]
            return dropped

    def first(self, number: int) -> dict[str, str]:
        """The first `number` paths in alphabetical order, with their reasons."""
        with self._lock:
            return dict(sorted(self._reasons.items())[:number])


def _is_within(path: str, below: str) -> bool:
    return not below or path == below or path.startswith(f"{below}/")


class Scanner:
    """Finds the files that events did not report; its callbacks act on them.

    `check` is called for every path whose present file is not in the ledger, with ``Source.SCAN`` for a new
    file that an event should have reported, because a complete scan preceded it. `recheck` is called instead,
    with the size, if only the device or the ctime of a known copy changed: it has to be hashed again.
    `missing` is called for every waiting row whose file does not exist.
    """

    def __init__(
        self,
        *,
        tree: Tree,
        template: PathTemplate,
        ledger: Ledger,
        check: Callable[[str, Source], None],
        recheck: Callable[[str, int], None],
        missing: Callable[[Upload], None],
    ) -> None:
        self._tree = tree
        self._template = template
        self._ledger = ledger
        self._check = check
        self._recheck = recheck
        self._missing = missing
        self._watching: Watching | None = None
        self._has_scanned_all = False
        self.unreadable = UnreadableDirectories()
        self.ignored_by: Mapping[str, int] = dict.fromkeys(IgnoredKind, 0)
        """The number of ignored files by kind, as of the last scan of the whole tree."""
        self.isolation = Isolation("missing files")

    def watch_with(self, watching: Watching) -> None:
        """Watch every directory before it is listed, so that no file is missed between the two."""
        self._watching = watching

    def scan(self, below: str = "", *, stopped: Callable[[], bool] = lambda: False) -> ScanReport:
        """Compare the files below a directory with the ledger and, for the whole tree, the ledger with them.

        Raises `RootUnavailableError` and `db.DatabaseError`; callbacks made until then stay valid.
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
            self._compare(page, report, self._source_of_new(below))
        for path in self.unreadable.replace(below, unreadable):
            log.info("directory_readable", path=path)
        if not below:
            self._find_missing(report, stopped)
            if stopped():
                return report
            self._has_scanned_all = True
            self.ignored_by = {kind.value: report.ignored_by[kind] for kind in IgnoredKind}
            if self._watching is not None:
                self._watching.end_pass()
        return report

    def _descends_into(self, path: str) -> bool:
        if self._template.ignores(path) is not None:
            return False
        if self._watching is not None:
            self._watching.watch(path)
        return True

    def _candidates(self, below: str, report: ScanReport, unreadable: dict[str, str]) -> Iterator[FoundFile]:
        for entry in self._tree.walk(below, enter=self._descends_into):
            if isinstance(entry, UnreadableDirectory):
                report.unreadable += 1
                unreadable[entry.path] = entry.reason
                if self.unreadable.add(entry.path, entry.reason):
                    hint = "Let the daemon's user read it; its files count as unknown until then."
                    log.warning("directory_unreadable", path=entry.path, reason=entry.reason, hint=hint)
            elif parse_quarantine_name(os.path.basename(entry.path)) is not None:
                report.quarantined.append(entry.path)
            elif isinstance(found := self._template.classify_name(entry.path), Ignored):
                report.add_ignored(entry.path, found.kind)
            else:
                report.files += 1
                yield entry

    def _compare(self, page: Iterable[FoundFile], report: ScanReport, source_of_new: Source) -> None:
        # Clamped like the identity in the row of a file that the ledger cannot hold as it is.
        found = {entry.path: entry.identity.clamped() for entry in page}
        known = self._ledger.current_many(found)
        for path, identity in found.items():
            row = known.get(path)
            if row is None and isinstance(ignored := self._template.classify(path), Ignored):
                # It is a part of a package. That of a known file, which may be many, is left to the stages.
                report.files -= 1
                report.add_ignored(path, ignored.kind)
            elif row is None or not row.holds(identity):
                report.noticed += 1
                if row is not None and _is_touched_copy(row, identity):
                    self._recheck(path, identity.size)
                else:
                    self._check(path, source_of_new)
            elif not is_settled(row):
                report.noticed += 1
                self._check(path, Source.PRESENT)

    def _source_of_new(self, below: str) -> Source:
        if below:
            # Files of a new directory are as new as it is.
            return Source.EVENT
        return Source.SCAN if self._has_scanned_all else Source.PRESENT

    def _find_missing(self, report: ScanReport, stopped: Callable[[], bool]) -> None:
        for upload in self._ledger.iter_in_states(STATES_WITH_FILE):
            if stopped():
                return
            if self.isolation.seconds_left(upload.id):
                continue
            try:
                is_missing = self._tree.stat(upload.path) is None
                if is_missing and is_present_or_quarantined(self._tree, upload, self._ledger.token):
                    continue
            except (NotOursError, UnreadableError):
                continue
            if is_missing:
                self._tree.ensure_mounted()
                report.missing += 1
                with self.isolation.item(upload.id, **row_context(upload)):
                    self._missing(upload)


def _pages(found: Iterator[FoundFile]) -> Iterator[list[FoundFile]]:
    while page := list(itertools.islice(found, PAGE)):
        yield page


def _is_touched_copy(row: Upload, identity: Identity) -> bool:
    return row.state.is_live and row.checksum is not None and Rank.of(row, identity) is Rank.COPY


def is_settled(row: Upload) -> bool:
    """Whether a file with its row's identity needs no further check."""
    return row.state.is_live and not is_resolved_by_file(row)


def is_resolved_by_file(row: Upload) -> bool:
    """Whether a row stopped because its file was missing or unreadable, which its presence resolves."""
    if row.state is State.GONE:
        return row.error_code != Code.ROW_GONE
    return row.state is State.FAILED and row.error_code in FILE_SYSTEM_CODES
