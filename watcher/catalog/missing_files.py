"""Counts the ready rows of the compressor whose files do not exist and were never uploaded."""

from __future__ import annotations

import posixpath
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from urllib.parse import unquote

import structlog

from db import MAX_ZONE_DIFFERENCE, CatalogRow, Ledger, State
from watcher.catalog.compressor_catalog import CompressorCatalog
from watcher.catalog.row_matching import is_newer, rows_of_file
from watcher.filesystem import NotOursError, Tree, UnreadableError
from watcher.filesystem.openat import RootUnavailableError
from watcher.renditions import Naming
from watcher.supervision.background_thread import Supervisor
from watcher.supervision.isolation import Isolation
from watcher.telemetry import human_time

log = structlog.get_logger()

GRACE_SECONDS = 600.0
"""How long after a row has become ready, or its file was missed first, the file may still arrive."""
PERIOD_SECONDS = 3600.0
"""Between two looks; `GRACE_SECONDS` if the first one found files missing that were not before."""
MAX_MISSING = 10_000
"""A look ends when it has found so many rows."""
MAX_PATHS = 20
"""How many paths are kept."""

_ABSENT = frozenset({State.GONE, State.SUPERSEDED})
"""The states of uploads whose file does not exist, and of which there is no object either."""


@dataclass(slots=True)
class Missing:
    """How many rows there are, and the first `MAX_PATHS` of their paths with the reasons."""

    count: int = 0
    first: dict[str, str] = field(default_factory=dict)

    def add(self, path: str, reason: str) -> None:
        """Count a row."""
        self.count += 1
        if len(self.first) < MAX_PATHS:
            self.first[path] = reason


class MissingFiles:
    """Looks for rows without files every hour, a page of rows at a time. `clock` gives monotonic seconds.

    A row counts if its file is missing at two looks, at least `GRACE_SECONDS` apart, or if the row is so old
    that it is older than that in every time zone. `found` is what the last complete look has found.
    """

    def __init__(
        self,
        catalog: CompressorCatalog,
        ledger: Ledger,
        tree: Tree,
        naming: Naming,
        *,
        supervisor: Supervisor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._ledger = ledger
        self._tree = tree
        self._naming = naming
        self._clock = clock
        self._after: str | None = None
        self._due_at = float("-inf")
        self._look = Missing()
        self._since: dict[str, float] = {}
        self._missed_since: Mapping[str, float] = {}
        self.found = Missing()
        self.isolation = Isolation("rows without files", supervisor=supervisor)

    def run_due(self) -> float:
        """Examine a page of rows if it is due; return the seconds until the next call.

        Raises `db.DatabaseError`.
        """
        if self._after is None:
            if (left := self._due_at - self._clock()) > 0:
                return left
            self._look, self._since = Missing(), {}
        try:
            found, self._after = self._of_page(self._after)
        except RootUnavailableError:
            # Which files are missing is unknown; the observer reports the directory.
            self._after = None
        else:
            for row, path in found:
                self._count(row, path)
            if self._after is not None and self._look.count < MAX_MISSING:
                return 0.0
            self._end_look()
        has_new = self._since.keys() - self._missed_since.keys()
        self._after, self._missed_since = None, self._since
        self._due_at = self._clock() + (GRACE_SECONDS if has_new else PERIOD_SECONDS)
        return self._due_at - self._clock()

    def find(self) -> Iterator[tuple[str, str]]:
        """The paths of the missing files of all rows, with the reasons; writes nothing.

        Leaves out rows that have changed lately. Raises `watcher.filesystem.openat.RootUnavailableError` and
        `db.DatabaseError`.
        """
        after, now = None, self._ledger.now()
        while True:
            found, after = self._of_page(after)
            for row, path in found:
                if abs(now - row.updated_at) >= timedelta(seconds=GRACE_SECONDS):
                    yield path, _reason(row)
            if after is None:
                return

    def _count(self, row: CatalogRow, path: str) -> None:
        now = self._clock()
        since = self._missed_since.get(row.id, now)
        if len(self._since) < MAX_MISSING:
            self._since[row.id] = since
        if now - since >= GRACE_SECONDS or _is_old(row, self._ledger.now()):
            self._look.add(path, _reason(row))

    def _end_look(self) -> None:
        if self._look.count and self._look.first != self.found.first:
            path, reason = next(iter(self._look.first.items()))
            log.warning(
                "ready_files_missing",
                rows=self._look.count,
                path=path,
                reason=reason,
                hint="Players cannot get these files. Restore them or have the videos compressed again; "
                "`video-uploader status --ignored` lists them.",
            )
        self.found = self._look

    def _of_page(self, after: str | None) -> tuple[list[tuple[CatalogRow, str]], str | None]:
        """The rows of a page whose files are missing, with the paths, and where the next page begins."""
        rows, following = self._catalog.table.unshown_rows(after)
        # In this order, so that a file that is uploaded and removed meanwhile is in the ledger.
        absent: list[CatalogRow] = []
        for row in rows:
            if row.oddity is None and self._naming.key_of(row.url) is None:
                with self.isolation.item(row.id, row=row.id, video_id=row.video_id):
                    if self._is_absent(row):
                        absent.append(row)
        if absent:
            self._tree.ensure_mounted()
        found: list[tuple[CatalogRow, str]] = []
        absent.sort(key=lambda row: (row.video_id, row.id))
        for video_id, of_video in groupby(absent, key=lambda row: row.video_id):
            with self.isolation.item(video_id, video_id=video_id):
                unknown = self._unknown_rows(video_id)
                found += [(row, _paths(row)[0]) for row in of_video if row.id in unknown]
        return found, following

    def _is_absent(self, row: CatalogRow) -> bool:
        """Whether the file that a row names does not exist, for certain."""
        try:
            return all(self._tree.stat(path) is None for path in _paths(row))
        except (NotOursError, UnreadableError):
            return False

    def _unknown_rows(self, video_id: str) -> set[str]:
        """The ready rows of a video of whose files the ledger has neither an upload nor an object."""
        uploads = self._ledger.uploads(video_id=video_id, all_instances=True)
        if any(upload.instance != self._ledger.instance for upload in uploads):
            # The files of the video are in the directory of another daemon.
            return set()
        rows = self._catalog.rows(video_id)
        unknown = {row.id for row in rows if row.status == "ready"}
        for upload in uploads:
            if upload.state not in _ABSENT:
                urls = self._ledger.urls_of_path(upload.path)
                of_file = rows_of_file(upload, rows, self._naming, known_urls=urls, ledger=self._ledger)
                # A newer row waits for a file of its own.
                unknown -= {row.id for row in of_file if not is_newer(row, upload)}
        return unknown


def _paths(row: CatalogRow) -> list[str]:
    """Where the file of a row may be: its name as it is written first, then decoded and in other forms."""
    name = posixpath.basename(row.url)
    directory = posixpath.basename(posixpath.dirname(row.url))
    parent = directory if directory.lower() == row.video_id else row.video_id
    names = [name, unquote(name, errors="surrogateescape")]
    names += [unicodedata.normalize(form, one) for one in names for form in ("NFC", "NFD")]
    return [f"{parent}/{one}" for one in dict.fromkeys(names)]


def _reason(row: CatalogRow) -> str:
    return f"catalog row {row.id} ({row.quality}) is ready since {human_time(row.updated_at)}"


def _is_old(row: CatalogRow, now: datetime) -> bool:
    """Whether a row has not changed lately by the clock of any time zone."""
    return now - row.updated_at >= MAX_ZONE_DIFFERENCE + timedelta(seconds=GRACE_SECONDS)
