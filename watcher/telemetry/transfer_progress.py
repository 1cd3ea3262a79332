"""The uploads under way in this process, for whoever shows them: bytes, rate, and time left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from db import JSON, Upload


@dataclass(frozen=True, slots=True)
class Line:
    """How far one upload is, in bytes; `rate` is in bytes per second, without parts kept from before."""

    upload_id: int
    path: str
    size: int
    bytes_sent: int
    rate: float

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at this rate; None while nothing has moved."""
        return (self.size - self.bytes_sent) / self.rate if self.rate > 0 else None

    def as_dict(self) -> dict[str, JSON]:
        """The line for JSON, whole bytes per second and whole seconds."""
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
class _Journey:
    upload: Upload
    is_resumed: bool
    began_at: float
    began_with: int = 0
    bytes_sent: int | None = None


class TransferProgress:
    """Knows how far every upload of this process is; for any number of threads.

    `clock` gives monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._journeys: dict[int, _Journey] = {}

    def begin(self, upload: Upload, *, is_resumed: bool) -> None:
        """An upload begins; what the first report of a resumed one says was there before."""
        with self._lock:
            self._journeys[upload.id] = _Journey(upload, is_resumed, self._clock())

    def move(self, upload: Upload, bytes_sent: int) -> None:
        """S3 has accepted so many bytes. It never goes back, and never past the end of the file."""
        with self._lock:
            journey = self._journeys.get(upload.id)
            if journey is None:
                return
            if journey.bytes_sent is None and journey.is_resumed:
                journey.began_with = bytes_sent
            journey.bytes_sent = min(upload.size, max(journey.bytes_sent or 0, bytes_sent))

    def end(self, upload: Upload) -> None:
        """The upload is over, for better or worse."""
        with self._lock:
            self._journeys.pop(upload.id, None)

    def lines(self) -> list[Line]:
        """Every upload under way, the oldest first."""
        with self._lock:
            now = self._clock()
            return [
                Line(
                    journey.upload.id,
                    journey.upload.path,
                    journey.upload.size,
                    sent := journey.bytes_sent or 0,
                    (sent - journey.began_with) / max(now - journey.began_at, 0.001) if sent else 0.0,
                )
                for journey in self._journeys.values()
            ]
