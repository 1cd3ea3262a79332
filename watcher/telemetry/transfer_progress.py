"""Progress of the uploads that this process is sending: bytes, rate, and time left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from db import JSON, Upload


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Progress of one upload, in bytes; `rate` is in bytes per second and ignores parts kept from before."""

    upload_id: int
    path: str
    size: int
    bytes_sent: int
    rate: float

    @property
    def seconds_left(self) -> float | None:
        """Time until the rest is sent at this rate; None while nothing has been sent."""
        return (self.size - self.bytes_sent) / self.rate if self.rate > 0 else None

    def as_dict(self) -> dict[str, JSON]:
        """Return the snapshot for JSON, in whole bytes per second and whole seconds."""
        left = self.seconds_left
        return {
            "id": self.upload_id,
            "path": self.path,
            "size": self.size,
            "bytes_sent": self.bytes_sent,
            "bytes_per_second": round(self.rate),
            "seconds_left": None if left is None else round(left),
        }


@dataclass(slots=True)
class _Transfer:
    upload: Upload
    started_at: float
    kept_bytes: int | None
    """Bytes of parts kept from before; None until the first update of a resumed upload."""
    bytes_sent: int = 0

    def snapshot(self, now: float) -> Snapshot:
        rate = (self.bytes_sent - (self.kept_bytes or 0)) / max(now - self.started_at, 0.001)
        return Snapshot(self.upload.id, self.upload.path, self.upload.size, self.bytes_sent, rate)


class TransferProgress:
    """Progress of every upload of this process; thread-safe. `clock` returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._transfers: dict[int, _Transfer] = {}

    def begin(self, upload: Upload, *, is_resumed: bool) -> None:
        """Add an upload. If it is resumed, its first update counts the parts kept from before."""
        with self._lock:
            self._transfers[upload.id] = _Transfer(upload, self._clock(), None if is_resumed else 0)

    def update(self, upload: Upload, bytes_sent: int) -> None:
        """Set how many bytes S3 has accepted; the number never decreases or exceeds the file's size."""
        with self._lock:
            transfer = self._transfers.get(upload.id)
            if transfer is None:
                return
            if transfer.kept_bytes is None:
                transfer.kept_bytes = bytes_sent
            transfer.bytes_sent = min(upload.size, max(transfer.bytes_sent, bytes_sent))

    def end(self, upload: Upload) -> None:
        """Remove an upload that has succeeded or failed."""
        with self._lock:
            self._transfers.pop(upload.id, None)

    def snapshots(self) -> list[Snapshot]:
        """Return the progress of every upload, the oldest first."""
        with self._lock:
            now = self._clock()
            return [transfer.snapshot(now) for transfer in self._transfers.values()]
