"""The three methods of the platform's documented storage service, for programs that upload files themselves.

They never raise: a failure is logged and returned as None or False. `RenditionStore` raises instead.
"""

import os
from functools import cached_property
from typing import Self

import structlog

from storage.config import StorageConfig
from storage.errors import StorageError
from storage.rendition_store import RenditionStore

_log: structlog.stdlib.BoundLogger = structlog.get_logger("storage")

_FAILURES = (StorageError, OSError, ValueError)
"""ValueError stands for an impossible name, or a path that is not a regular file."""


class S3Service:
    """Objects `{prefix}/{video_id}/{base}_{quality}{ext}` in the bucket of `config`. Safe for threads.

    It connects at the first call. As a context manager it closes its connections at the end.
    """

    def __init__(self, config: StorageConfig) -> None:
        self._config = config

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        created = self.__dict__.pop("_renditions", None)
        if isinstance(created, RenditionStore):
            created.close()

    def upload_file(self, local_file_path: str, video_id: str, filename: str, quality: str) -> str | None:
        """Upload a finished file and confirm that it arrived; returns its public URL, or None."""
        try:
            # O_NONBLOCK: opening a FIFO would wait for a writer.
            fd = os.open(local_file_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
            try:
                return self._renditions.upload(fd, video_id, filename, quality).url
            finally:
                os.close(fd)
        except _FAILURES as exc:
            context = _context(exc, video_id, filename, quality)
            _log.error("service_upload_failed", path=local_file_path, **context)
            return None

    def delete_file(self, video_id: str, filename: str, quality: str) -> bool:
        """Delete an object. True also if there was none; False if it could not be deleted."""
        try:
            self._renditions.delete(video_id, filename, quality)
        except _FAILURES as exc:
            _log.error("service_delete_failed", **_context(exc, video_id, filename, quality))
            return False
        return True

    def file_exists(self, video_id: str, filename: str, quality: str) -> bool:
        """Whether there is such an object. False also if that is unknown, which is logged."""
        try:
            return self._renditions.exists(video_id, filename, quality)
        except _FAILURES as exc:
            _log.error("service_lookup_failed", **_context(exc, video_id, filename, quality))
            return False

    @cached_property
    def _renditions(self) -> RenditionStore:
        return RenditionStore(self._config)


def _context(exc: Exception, video_id: str, filename: str, quality: str) -> dict[str, str]:
    code = exc.code if isinstance(exc, StorageError) else type(exc).__name__
    name = {"video_id": video_id, "filename": filename, "quality": quality}
    return {**name, "code": code, "reason": str(exc)}
