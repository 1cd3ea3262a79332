"""At the start: files that a crash in the middle of a release left set aside get their names back."""

from __future__ import annotations

import os
from collections.abc import Iterable

import structlog

from db import LedgerReader
from watcher import release
from watcher.openat import FileMissingError, NotOursError, UnreadableError
from watcher.release import LeftAside
from watcher.tree import Tree

log = structlog.get_logger()


def repair_asides(tree: Tree, ledger: LedgerReader, paths: Iterable[str]) -> None:
    """Repair every set-aside file; only while no release is under way, for those are not crashes.

    A file whose upload the ledger does not know stays where it is, for its name cannot be known.
    Raises `db.DatabaseError` and `watcher.openat.RootUnavailableError`.
    """
    for path in paths:
        upload_id = release.parse_aside_name(os.path.basename(path))
        known = [] if upload_id is None else ledger.uploads(ids=[upload_id])
        if not known:
            log.warning(
                "aside_unknown",
                path=path,
                hint="The ledger has no such upload; rename the file back by hand if it is wanted.",
            )
            continue
        upload = known[0]
        try:
            outcome = release.repair(tree, path, os.path.basename(upload.path), upload.identity)
        except (FileMissingError, NotOursError, UnreadableError, OSError) as exc:
            log.warning("aside_unrepaired", path=path, upload=upload.id, reason=str(exc))
            continue
        told = log.warning if isinstance(outcome, LeftAside) else log.info
        told("aside_repaired", path=path, upload=upload.id, outcome=type(outcome).__name__)
