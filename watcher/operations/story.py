"""The history of a file: what is on the disk, what happened to each of its uploads, and what happens next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from db import CatalogRow, Ledger, State, Upload, UploadEvent
from watcher.app.factories import make_catalog, make_live_acceptance, make_naming, make_path_template
from watcher.catalog.row_matching import describe_others, rows_of_file
from watcher.detection.completeness import describe_file
from watcher.errors import Code
from watcher.filesystem import Packages, Tree, TreeError
from watcher.operations.next_step import describe_gate, describe_next_step
from watcher.renditions import Ignored
from watcher.settings import Settings
from watcher.telemetry import human_time


@dataclass(frozen=True, slots=True)
class UploadStory:
    """What happened to one upload. Each sentence is empty if there is nothing to say."""

    upload: Upload
    confirmed: str
    events: list[UploadEvent]
    waits: str
    """For what it waits, beside its error."""
    next_step: str


class Storyteller:
    """Tells the stories of files and uploads. Every method may raise `db.DatabaseError`.

    `paused` returns the paused stages by name, with the reasons. Without a `tree` the disk is not looked at.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        tree: Tree | None,
        *,
        is_running: Callable[[], bool],
        paused: Callable[[], Mapping[str, str]],
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._tree = tree
        self._is_running = is_running
        self._paused = paused
        self.template = make_path_template(settings, None if tree is None else Packages(tree))

    def on_disk(self, path: str) -> str:
        """The status of the file at a path, as a sentence."""
        classified = self.template.classify(path)
        if isinstance(classified, Ignored):
            return f"It is ignored: {classified.reason}."
        if self._tree is None:
            return "The watched directory cannot be read now."
        try:
            return describe_file(self._tree, path, make_live_acceptance(self._settings, self.template))
        except TreeError as exc:
            return f"Unknown: {exc}"

    def uploads(self, path: str) -> list[UploadStory]:
        """The stories of a path's uploads, oldest first."""
        return [self.upload(upload) for upload in self._ledger.uploads(path=path)] if _is_text(path) else []

    def upload(self, upload: Upload) -> UploadStory:
        """The story of one upload."""
        return UploadStory(
            upload,
            _confirmed(upload) if upload.verified_at else "",
            self._ledger.events(upload.id),
            self._waits(upload),
            describe_next_step(
                upload,
                now=self._ledger.now(),
                is_running=self._is_running(),
                paused=self._paused(),
                keep_local=self._settings.keep_local,
            ),
        )

    def catalog_rows(self, video_id: str) -> list[CatalogRow]:
        """The catalog rows of a video, whose URLs players get."""
        return list(make_catalog(self._settings, self._ledger).rows(video_id))

    def _waits(self, upload: Upload) -> str:
        if upload.awaits_row:
            rows = self.catalog_rows(upload.video_id)
            return describe_gate(
                upload,
                rows_of_file(upload, rows, make_naming(self._settings), ledger=self._ledger),
                now=self._ledger.now(),
                timeout=timedelta(seconds=self._settings.catalog_row_timeout),
                others=describe_others(upload, rows),
            )
        if upload.state is State.PUBLISHED and upload.error_code == Code.CATALOG_BUSY:
            return make_catalog(self._settings, self._ledger).reason_to_keep_copy(upload) or ""
        return ""


def _confirmed(upload: Upload) -> str:
    proof = f"{upload.confirmed_by} {upload.etag}"
    if upload.confirmed_by == "checksum":
        proof = f"checksum {upload.checksum}"
    elif upload.confirmed_by == "reading":
        proof = f"reading it back, with the checksum {upload.checksum}, under the ETag {upload.etag}"
    return f"Confirmed {human_time(upload.verified_at)} by {proof}"


def _is_text(path: str) -> bool:
    """Whether a database can hold the path: undecodable names (PEP 383) are never recorded."""
    return path.isascii() or not any("\ud800" <= character <= "\udfff" for character in path)
