"""Counts the files that settings ignore although the compressor's rows of them are ready."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from urllib.parse import unquote
from uuid import UUID

import structlog

from db import CompressorTable
from watcher.renditions import Ignored, PathTemplate, normal_form

log = structlog.get_logger()


class IgnoredFiles:
    """Compares ignored files with the catalog: those of ready rows are never uploaded, and players get none.

    `paths` are such files of the last check, with the reason why each is ignored.
    """

    def __init__(self, table: CompressorTable, template: PathTemplate) -> None:
        self._table = table
        self._template = template
        self.paths: dict[str, str] = {}

    def check(self, ignored: Iterable[str]) -> None:
        """Look up the rows of ignored files, and warn if other ones than before are ready.

        Raises `db.DatabaseError`.
        """
        found = self.find(ignored)
        if found and found != self.paths:
            log.warning(
                "ready_files_ignored",
                files=len(found),
                path=min(found),
                reason=found[min(found)],
                hint="Their catalog rows are ready. To have them uploaded, change VIDEO_EXTENSIONS or "
                "IGNORE_PATTERNS, or move the playlist that names them; `video-uploader status` lists them.",
            )
        self.paths = found

    def find(self, ignored: Iterable[str]) -> dict[str, str]:
        """Those of the ignored files whose rows are ready, with the reasons. Raises `db.DatabaseError`."""
        by_video: dict[str, list[str]] = {}
        for path in ignored:
            if (video_id := _video_of(path)) is not None:
                by_video.setdefault(video_id, []).append(path)
        found: dict[str, str] = {}
        for row in self._table.ready_rows(list(by_video)):
            name = posixpath.basename(row.url)
            names = {normal_form(name), normal_form(unquote(name))}
            for path in by_video[row.video_id]:
                classified = self._template.classify(path)
                if normal_form(posixpath.basename(path)) in names and isinstance(classified, Ignored):
                    found[path] = classified.reason
        return found


def _video_of(path: str) -> str | None:
    """The video in whose directory a file is, in lower case; None for a directory that is no UUID's."""
    directory = posixpath.dirname(path)
    try:
        video_id = str(UUID(directory))
    except ValueError:
        return None
    return video_id if directory.lower() == video_id else None
