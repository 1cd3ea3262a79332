"""What the compressor writes down while it works: its database, seen from its own side."""

from __future__ import annotations

import uuid
from typing import Protocol

from tests.compressor.ffmpeg import Probe


class Recorder(Protocol):
    """The compressor's rows, one call for each thing it writes, in the order in which it writes them.

    Rows are named by the id that the call which inserts them returns.
    """

    def processing(self, video_id: str, quality: str, url: str) -> str:
        """Insert a row of status ``processing`` with the local fallback URL."""
        ...

    def ready(self, row: str, url: str, found: Probe) -> None:
        """The encode is good: metadata, status ``ready``, and the local URL once more."""
        ...

    def failed(self, row: str) -> None:
        """The encode is not good: status ``failed``."""
        ...

    def finished(self, video_id: str, default_row: str | None) -> None:
        """All qualities are through: the default row and the video's status; ``None`` if every one failed."""
        ...

    def original(self, video_id: str, url: str) -> str:
        """Insert the row of the original, which begins its life as ``ready``."""
        ...

    def describe(self, row: str, found: Probe) -> None:
        """The original's metadata; its URL is left alone."""
        ...


class NoDatabase:
    """The recorder of a compressor without a database: rows have ids and are written nowhere."""

    def processing(self, video_id: str, quality: str, url: str) -> str:
        """See `Recorder.processing`."""
        del video_id, quality, url
        return str(uuid.uuid4())

    def ready(self, row: str, url: str, found: Probe) -> None:
        """See `Recorder.ready`."""

    def failed(self, row: str) -> None:
        """See `Recorder.failed`."""

    def finished(self, video_id: str, default_row: str | None) -> None:
        """See `Recorder.finished`."""

    def original(self, video_id: str, url: str) -> str:
        """See `Recorder.original`."""
        del video_id, url
        return str(uuid.uuid4())

    def describe(self, row: str, found: Probe) -> None:
        """See `Recorder.describe`."""
