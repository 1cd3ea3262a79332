"""After scans: files that a crash in the middle of a release left set aside get their names back."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta

import structlog

from db import Ledger, State, Upload
from watcher.filesystem import removal
from watcher.filesystem.openat import FileMissingError, NotOursError, UnreadableError
from watcher.filesystem.removal import LeftInQuarantine
from watcher.filesystem.tree import Tree
from watcher.telemetry.logging import RepeatFilter

log = structlog.get_logger()


class Quarantine:
    """Repairs set-aside files whose upload nobody works on: each under a claim, so never two at once.

    `lease` is how long such a claim lasts. Where several daemons work on one directory (`is_shared`) an
    upload that moved on while its file was aside has no claim any more, though its release may still be under
    way: such a file is left alone for as long as a claim lasts.
    """

    def __init__(self, tree: Tree, ledger: Ledger, *, lease: timedelta, is_shared: bool = False) -> None:
        self._tree = tree
        self._ledger = ledger
        self._lease = lease
        self._is_shared = is_shared
        self._told = RepeatFilter()

    def repair(self, paths: Iterable[str]) -> None:
        """Repair what is set aside at these paths.

        A file whose upload the ledger does not know stays where it is, for its name cannot be known.
        Raises `db.DatabaseError` and `watcher.filesystem.openat.RootUnavailableError`.
        """
        for path in paths:
            upload_id = removal.parse_quarantine_name(os.path.basename(path))
            known = [] if upload_id is None else self._ledger.uploads(ids=[upload_id])
            if not known:
                if self._told.is_news(path, "unknown"):
                    log.warning(
                        "aside_unknown",
                        path=path,
                        hint="The ledger has no such upload; rename the file back by hand if it is wanted.",
                    )
            elif not self._may_be_under_way(known[0]):
                self._repair(path, known[0].id)

    def _may_be_under_way(self, upload: Upload) -> bool:
        has_moved_on = self._is_shared and upload.state is not State.PUBLISHED
        return has_moved_on and abs(self._ledger.now() - upload.changed_at) < self._lease

    def _repair(self, path: str, upload_id: int) -> None:
        upload = self._ledger.claim_one(upload_id, lease=self._lease)
        if upload is None:
            return
        try:
            outcome = removal.repair(self._tree, path, os.path.basename(upload.path), upload.identity)
        except (FileMissingError, NotOursError, UnreadableError, OSError) as exc:
            log.warning("aside_unrepaired", path=path, upload=upload.id, reason=str(exc))
        else:
            name = type(outcome).__name__
            if not isinstance(outcome, LeftInQuarantine):
                log.info("aside_repaired", path=path, upload=upload.id, outcome=name)
            elif self._told.is_news(path, outcome.reason):
                log.warning("aside_repaired", path=path, upload=upload.id, outcome=name)
        finally:
            self._ledger.release_claim(upload)
