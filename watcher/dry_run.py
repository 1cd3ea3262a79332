"""Says for every file what a run would do and why, and does nothing: no table, no row, no request is made."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from db import LedgerReader, State, pending_migrations
from storage import StorageError
from watcher.configuration import connect, ledger_of, naming, path_template, tree_of
from watcher.examining import in_words
from watcher.finished import Finished, Quiet, examine
from watcher.scanner import is_settled
from watcher.settings import Settings
from watcher.template import Ignored, Rendition
from watcher.tree import FoundFile, UnreadableDirectory


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done with one path: `action` is a single word, `reason` says why."""

    path: str
    action: str
    reason: str


class Planner:
    """Compares the directory with the ledger, or with an empty one where there is none yet."""

    def __init__(self, settings: Settings, ledger: LedgerReader | None) -> None:
        self._settings = settings
        self._tree = tree_of(settings)
        self._template = path_template(settings)
        self._naming = naming(settings)
        self._ledger = ledger

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
            return Plan(entry.path, *_WORDS_OF_KNOWN[known.state])
        return self._plan_new(entry, rendition)

    def _plan_new(self, entry: FoundFile, rendition: Rendition) -> Plan:
        examination = examine(
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
        match examination:
            case Finished(_, None):
                return Plan(entry.path, "upload", f"to {key}, as quality {rendition.quality}")
            case Finished(_, str(finding)):
                return Plan(entry.path, "reject", finding)
            case Quiet():
                seconds = f"{self._settings.settle_seconds:g}"
                return Plan(entry.path, "upload", f"to {key}, if it does not change for {seconds} s")
            case _:
                return Plan(entry.path, "skip", in_words(examination))


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


def count_actions(plans: Iterator[Plan], tally: Counter[str]) -> Iterator[Plan]:
    """Pass the plans through and count their actions."""
    for plan in plans:
        tally[plan.action] += 1
        yield plan
