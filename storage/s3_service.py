"""The three methods of the platform's documented storage service, for programs that upload files themselves.

They never raise, whatever they are given: a failure is logged and returned as None or False. `RenditionStore`
raises instead.
"""

import os
import threading
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import PurePath
from typing import Self

import structlog

from storage.config import StorageConfig
from storage.errors import StorageError
from storage.keys import rendition_filename
from storage.rendition_store import RenditionStore

_log: structlog.stdlib.BoundLogger = structlog.get_logger("storage")


class S3Service:
    """Objects `{prefix}/{video_id}/{base}_{quality}.mp4` in the bucket of `config`. Safe for threads.

    `filename` is the name of the source. Its original keeps the extension: `{base}_original{ext}`; so does a
    rendition whose local file has the extension of the source. An object that the compressor stored under
    the extension of the source is found and deleted too.

    It connects at the first call. As a context manager it closes its connections at the end.
    """

    def __init__(self, config: StorageConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._store: RenditionStore | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            store, self._store = self._store, None
        if store is not None:
            store.close()

    def upload_file(
        self, local_file_path: str, video_id: uuid.UUID | str, filename: str, quality: str
    ) -> str | None:
        """Upload a finished file and confirm that it arrived; returns its public URL, or None."""
        with _Failure() as failure:
            # Refuses what is no name before the file is opened.
            self._renditions.key(video_id, filename, quality)
            path = os.fsdecode(local_file_path)
            # O_NONBLOCK: opening a FIFO would wait for a writer.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
            try:
                stored_as = rendition_filename(filename, quality, path)
                return self._renditions.upload(fd, video_id, stored_as, quality).url
            finally:
                os.close(fd)
        with suppress(Exception):
            names = {"path": local_file_path, "video_id": video_id, "filename": filename, "quality": quality}
            _log.error("service_upload_failed", **failure.context(names))
        return None

    def delete_file(self, video_id: uuid.UUID | str, filename: str, quality: str) -> bool:
        """Delete an object. True also if there was none; False if it could not be deleted."""
        with _Failure() as failure:
            for key in self._renditions.keys_of_source(video_id, filename, quality):
                self._renditions.delete(key)
            return True
        with suppress(Exception):
            names = {"video_id": video_id, "filename": filename, "quality": quality}
            _log.error("service_delete_failed", **failure.context(names))
        return False

    def file_exists(self, video_id: uuid.UUID | str, filename: str, quality: str) -> bool:
        """Whether there is such an object. False also if that is unknown, which is logged."""
        with _Failure() as failure:
            keys = self._renditions.keys_of_source(video_id, filename, quality)
            return any(self._renditions.exists(key) for key in keys)
        with suppress(Exception):
            names = {"video_id": video_id, "filename": filename, "quality": quality}
            _log.error("service_lookup_failed", **failure.context(names))
        return False

    @property
    def _renditions(self) -> RenditionStore:
        with self._lock:
            if self._store is None:
                self._store = RenditionStore(self._config)
            return self._store


class _Failure(AbstractContextManager["_Failure", bool]):
    """Suppresses an exception of its block and describes it for the log, which may itself raise."""

    _exc: BaseException | None = None

    def __exit__(self, _kind: object, exc: BaseException | None, _traceback: object) -> bool:
        self._exc = exc
        return isinstance(exc, Exception)

    def context(self, arguments: Mapping[str, object]) -> dict[str, str]:
        """The arguments of the call, the error's code and the reason, as texts."""
        code = self._exc.code if isinstance(self._exc, StorageError) else type(self._exc).__name__
        shown = {name: _as_text(value) for name, value in arguments.items()}
        return {**shown, "code": code, "reason": _as_text(str(self._exc))}


def _as_text(value: object) -> str:
    """A value for the log; of an unknown object its type, because its `repr` may raise."""
    if not isinstance(value, str | uuid.UUID | PurePath):
        return f"<{type(value).__name__}>"
    return str(value).encode(errors="backslashreplace").decode()
