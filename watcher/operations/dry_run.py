"""Plans what a run would do with every file, and why; writes nothing and sends no request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

from db import LedgerReader, State, Upload, pending_migrations
from storage import StorageError
from watcher.app.factories import (
    make_gate,
    make_ledger,
    make_naming,
    make_path_template,
    make_tree,
    open_ledger_database,
)
from watcher.catalog import CatalogGate
from watcher.catalog.gate import Admitted, Rejected, Waiting
from watcher.detection import check_complete
from watcher.detection.completeness import Finished, QuietPeriod, describe_status
from watcher.detection.scanner import is_settled
from watcher.filesystem import FoundFile, UnreadableDirectory
from watcher.renditions import Ignored, Rendition
from watcher.settings import Settings


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do with one path: `action` is a single word, `reason` a phrase."""

    path: str
    action: str
    reason: str


class Planner:
    """Compares the directory with the ledger, or with an empty one if there is none yet."""

    def __init__(
        self, settings: Settings, ledger: LedgerReader | None, gate: CatalogGate | None = None
    ) -> None:
        self._settings = settings
        self._tree = make_tree(settings)
        self._template = make_path_template(settings)
        self._naming = make_naming(settings)
        self._ledger = ledger
        self._gate = gate

    def plans(self) -> Iterator[Plan]:
        """Yield a plan for every file, in the order of the directory. Uses constant memory."""
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
            if known.state is State.PENDING and self._gate is not None:
                return _plan_at_gate(self._gate, known)
            action, reason = _PLAN_BY_STATE[known.state]
            if not known.holds(entry.identity):
                reason += "; its ctime changed, so it is hashed again first"
            return Plan(entry.path, action, reason)
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
            case Finished(_, finding) if self._gate is not None:
                return _plan_at_gate(self._gate, _as_recorded(entry, rendition, key, finding))
            case Finished(_, None):
                return Plan(entry.path, "upload", f"to {key}, as quality {rendition.quality}")
            case Finished(_, str(finding)):
                return Plan(entry.path, "reject", finding)
            case QuietPeriod():
                seconds = f"{self._settings.settle_seconds:g}"
                return Plan(entry.path, "upload", f"to {key}, if it does not change for {seconds} s")
            case _:
                return Plan(entry.path, "skip", describe_status(file_status))


def _plan_at_gate(gate: CatalogGate, upload: Upload) -> Plan:
    """Plan a finished file by the present rows of the compressor's catalog."""
    try:
        decision = gate.admit(upload, record=False)
    except StorageError as exc:
        return Plan(upload.path, "fail", str(exc))
    match decision:
        case Waiting(_, reason):
            return Plan(upload.path, "wait", reason)
        case Rejected(_, reason):
            return Plan(upload.path, "reject", reason)
        case Admitted(admission):
            key, quality = admission["object_key"], admission["quality"]
            row_id = admission["catalog_row_id"]
            return Plan(upload.path, "upload", f"to {key}, as quality {quality}: row {row_id} is ready")


def _as_recorded(entry: FoundFile, rendition: Rendition, key: str, finding: str | None) -> Upload:
    """Return the row that the ledger would hold for a finished file."""
    values: dict[str, Any] = dict.fromkeys(field.name for field in fields(Upload))
    values |= asdict(entry.identity)
    values |= {"path": entry.path, "video_id": rendition.video_id, "filename": rendition.filename}
    values |= {"quality": rendition.quality, "object_key": key, "finding": finding, "state": State.PENDING}
    return Upload(**values)


_PLAN_BY_STATE = {
    State.PENDING: ("upload", "it is in the ledger already and waits to be uploaded"),
    State.VERIFIED: ("publish", "it is confirmed in S3, and its URL is not published yet"),
    State.PUBLISHED: ("release", "it is published; its local copy is released after the retention"),
    State.REJECTED: ("skip", "it was rejected, and has not changed since; see `explain`"),
    State.FAILED: ("skip", "it failed and needs action; see `explain`"),
}


@contextmanager
def open_planner(settings: Settings) -> Iterator[Planner]:
    """Open a planner that reads the ledger if it exists, and the compressor's catalog if it is in use."""
    with closing(open_ledger_database(settings, read_only=True)) as database, database.session():
        ledger = make_ledger(settings, database)
        gate = make_gate(settings, ledger, make_naming(settings), wake=lambda _: None)
        has_ledger = database.exists() and not pending_migrations(database)
        yield Planner(settings, ledger if has_ledger else None, gate)
