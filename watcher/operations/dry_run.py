"""Says for every file what a run would do and why, and does nothing: no table, no row, no request is made."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from typing import Any

from db import GateVerdict, LedgerReader, State, Upload, pending_migrations
from storage import StorageError
from watcher.app.factories import connect, ledger_of, make_catalog, naming, path_template, tree_of
from watcher.catalog.compressor_catalog import CompressorCatalog
from watcher.catalog.row_matching import admission
from watcher.detection.completeness import Finished, QuietPeriod, check_complete, describe_status
from watcher.detection.scanner import is_settled
from watcher.filesystem.tree import FoundFile, UnreadableDirectory
from watcher.renditions import Ignored, Rendition
from watcher.settings.model import Settings


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done with one path: `action` is a single word, `reason` says why."""

    path: str
    action: str
    reason: str


class Planner:
    """Compares the directory with the ledger, or with an empty one where there is none yet."""

    def __init__(
        self, settings: Settings, ledger: LedgerReader | None, catalog: CompressorCatalog | None = None
    ) -> None:
        self._settings = settings
        self._tree = tree_of(settings)
        self._template = path_template(settings)
        self._naming = naming(settings)
        self._ledger = ledger
        self._catalog = catalog

    def plans(self) -> Iterator[Plan]:
        """A plan for every file, in the order of the directory; memory does not grow with their number."""
        for entry in self._tree.walk(enter=lambda path: self._template.ignores(path) is None):
            if isinstance(entry, UnreadableDirectory):
                yield Plan(entry.path, "skip", entry.reason)
            else:
                yield self._plan(entry)

    def _plan(self, entry: FoundFile) -> Plan:
        rendition = self._template.classify(entry.path)
        if isinstance(rendition, Ignored):
            return Plan(entry.path, "ignore", rendition.reason)
        known = self._ledger.current(entry.path) if self._ledger else None
        if known is not None and known.identity == entry.identity and is_settled(known):
            if known.state is State.PENDING and self._catalog is not None:
                return self._plan_at_gate(known)
            return Plan(entry.path, *_WORDS_OF_KNOWN[known.state])
        return self._plan_new(entry, rendition)

    def _plan_new(self, entry: FoundFile, rendition: Rendition) -> Plan:
        file_status = check_complete(
            self._tree,
            entry.path,
            previous=None,
            now=time.monotonic(),
            settle_seconds=self._settings.settle_seconds,
        )
        try:
            key = self._naming.key(rendition)
        except StorageError as exc:
            return Plan(entry.path, "fail", str(exc))
        match file_status:
            case Finished(_, finding) if self._catalog is not None:
                return self._plan_at_gate(_as_recorded(entry, rendition, key, finding))
            case Finished(_, None):
                return Plan(entry.path, "upload", f"to {key}, as quality {rendition.quality}")
            case Finished(_, str(finding)):
                return Plan(entry.path, "reject", finding)
            case QuietPeriod():
                seconds = f"{self._settings.settle_seconds:g}"
                return Plan(entry.path, "upload", f"to {key}, if it does not change for {seconds} s")
            case _:
                return Plan(entry.path, "skip", describe_status(file_status))

    def _plan_at_gate(self, upload: Upload) -> Plan:
        """What the compressor's catalog says of a finished file at this moment."""
        if self._catalog is None:
            raise ValueError("there is no gate without the compressor's catalog")
        gate = self._catalog.gate(upload)
        if gate.row is None:
            return Plan(upload.path, _WORDS_OF_GATE[gate.verdict], gate.reason)
        try:
            settled = admission(upload, gate.row, self._naming)
        except StorageError as exc:
            return Plan(upload.path, "fail", str(exc))
        told = f"to {settled['object_key']}, as quality {settled['quality']}: row {gate.row.id} is ready"
        return Plan(upload.path, "upload", told)


def _as_recorded(entry: FoundFile, rendition: Rendition, key: str, finding: str | None) -> Upload:
    """A finished file as the ledger would have it."""
    values: dict[str, Any] = dict.fromkeys(field.name for field in fields(Upload))
    values |= {name: getattr(entry.identity, name) for name in ("device", "inode", "size", "mtime_ns")}
    values |= {"path": entry.path, "video_id": rendition.video_id, "filename": rendition.filename}
    values |= {"quality": rendition.quality, "object_key": key, "finding": finding, "state": State.PENDING}
    return Upload(**values)


_WORDS_OF_GATE = {GateVerdict.WAIT: "wait", GateVerdict.REJECTED: "reject", GateVerdict.OPEN: "upload"}
_WORDS_OF_KNOWN = {
    State.PENDING: ("upload", "it is in the ledger already and waits for its turn"),
    State.VERIFIED: ("publish", "it is in S3, confirmed, and its URL is not published yet"),
    State.PUBLISHED: ("release", "it is published; its local copy goes when the retention is over"),
    State.REJECTED: ("skip", "it was rejected, and has not changed since; see `explain`"),
    State.FAILED: ("skip", "it failed and a person must act; see `explain`"),
}


@contextmanager
def reading_ledger(settings: Settings) -> Iterator[LedgerReader | None]:
    """The ledger for reading only; None where there is none yet."""
    database = connect(settings, read_only=True)
    try:
        with database.session():
            is_there = database.exists() and not pending_migrations(database)
            yield ledger_of(settings, database) if is_there else None
    finally:
        database.close()


@contextmanager
def reading_catalog(settings: Settings) -> Iterator[CompressorCatalog | None]:
    """The compressor's catalog for reading only, be there a ledger or not; None if another one is in use."""
    with closing(connect(settings, read_only=True)) as database, database.session():
        catalog = make_catalog(settings, ledger_of(settings, database))
        yield catalog if isinstance(catalog, CompressorCatalog) else None


def count_actions(plans: Iterator[Plan], tally: Counter[str]) -> Iterator[Plan]:
    """Pass the plans through and count their actions."""
    for plan in plans:
        tally[plan.action] += 1
        yield plan
