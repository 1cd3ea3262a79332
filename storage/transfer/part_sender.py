"""Sends parts of a file concurrently: reads each, checks it, sends it and retries it.

Each part is read once, into a buffer that is kept until the server has accepted it. Its CRC64NVME is computed
there and it is sent from there, so that no change of the file in between goes unnoticed.
"""

import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from storage.errors import ErrorKind, StorageError, UploadCancelledError
from storage.source_file import SourceFile
from storage.transfer.buffer_pool import Reservation, Slot
from storage.transfer.crt_client import POLL_SECONDS, CrtClient
from storage.transfer.crt_request import CrtRequest, Request
from storage.transfer.part_layout import Part

RETRY_SECONDS = 0.25
"""Delay before the first retry of a part; doubled for each further one."""
PACE_POLL_SECONDS = 0.005
"""How often, under a bandwidth limit, new connections are looked for, which are not paced yet."""
MIN_BYTES_PER_SECOND = 16 * 1024
"""A part that takes longer than at this rate is given up even while other bytes still move."""
_CANCEL_SECONDS = 5.0
_NOT_RETRIED = frozenset(
    {"NoSuchUpload", "PreconditionFailed", "ConditionalRequestConflict", "NotImplemented", "source-changed"}
)
"""Transient errors that sending the same part again cannot cure."""

Prepare = Callable[[Part, memoryview], Request]
Accepted = Callable[[Part, Mapping[str, Any]], None]


@dataclass(eq=False, slots=True)
class _PartInFlight:
    part: Part
    slot: Slot
    request: Request | None = None
    """The request that waits for bandwidth; None before it is prepared and once it is sent."""
    sent: CrtRequest | None = None
    started: float = 0.0
    generation: int = 0


class PartSender:
    """Sends the parts of one file. It belongs to the calling thread, in which all callbacks are called."""

    def __init__(
        self, crt: CrtClient, source: SourceFile, key: str, *, attempts: int, cancelled: Callable[[], bool]
    ) -> None:
        self._crt = crt
        self._source = source
        self._key = key
        self._attempts = attempts
        self._cancelled = cancelled
        self._events: queue.SimpleQueue[Slot | CrtRequest] = queue.SimpleQueue()
        self._todo: deque[Part] = deque()
        self._failures: Counter[Part] = Counter()
        self._retry_at = 0.0
        self._last_started = 0.0
        self._last_length = 0
        self._in_flight: list[_PartInFlight] = []
        self._reservation: Reservation | None = None

    def send(self, parts: Iterable[Part], prepare: Prepare, accepted: Accepted) -> None:
        """Send `parts`. `prepare` makes a request from a part's bytes, `accepted` is given the answer.

        Raises `SourceChangedError`, `UploadCancelledError`, any other `StorageError`, and what the callbacks
        raise. On return, by whatever way, nothing is in flight.
        """
        self._todo.extend(parts)
        try:
            while self._todo or self._in_flight:
                if self._cancelled():
                    raise UploadCancelledError(key=self._key)
                # Unread parts may change while others are in flight on a slow line.
                self._source.ensure_unchanged()
                self._request_slot()
                self._handle_event(self._start_due(), prepare, accepted)
            self._pace_last()
        finally:
            self._drain()

    def _request_slot(self) -> None:
        if self._reservation is None and self._todo and time.monotonic() >= self._retry_at:
            self._reservation = self._crt.buffers.reserve(self._todo[0].length, self._events.put)

    def _start_due(self) -> float:
        """Send the requests that the bandwidth allows; returns how many seconds to wait for an event."""
        crt = self._crt
        now = time.monotonic()
        for current in self._in_flight:
            if current.sent is None and current.request is not None:
                if (wait := crt.bandwidth.take(current.part.length)) > 0:
                    return min(wait, POLL_SECONDS)
                current.started = self._last_started = now
                self._last_length = current.part.length
                current.generation = crt.buffers.generation
                current.sent = crt.start(current.request, self._events.put, current.slot.release_memory)
                current.request = None
        is_new = any(now - current.started < POLL_SECONDS for current in self._in_flight)
        return PACE_POLL_SECONDS if is_new and crt.bandwidth.rate is not None else POLL_SECONDS

    def _handle_event(self, seconds: float, prepare: Prepare, accepted: Accepted) -> None:
        try:
            event = self._events.get(timeout=seconds)
        except queue.Empty:
            self._check_stalls()
            return
        if isinstance(event, Slot):
            self._read(event, prepare)
        else:
            self._finish(event, accepted)

    def _pace_last(self) -> None:
        """Wait until the bandwidth limit has paid for the last part, even if the line was faster."""
        while (rate := self._crt.bandwidth.rate) is not None and not self._cancelled():
            left = self._last_started + self._last_length / rate - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, POLL_SECONDS))

    def _read(self, slot: Slot, prepare: Prepare) -> None:
        self._reservation = None
        current = _PartInFlight(self._todo.popleft(), slot)
        self._in_flight.append(current)
        self._source.read_into(slot.buffer, current.part.offset)
        current.request = prepare(current.part, slot.buffer)

    def _finish(self, request: CrtRequest, accepted: Accepted) -> None:
        current = next(current for current in self._in_flight if current.sent is request)
        part = current.part
        try:
            answer = self._crt.answer_of(request, current.generation)
        except StorageError as exc:
            self._failures[part] += 1
            if exc.kind is not ErrorKind.TRANSIENT or exc.code in _NOT_RETRIED:
                raise
            if self._failures[part] >= self._attempts:
                raise
            self._retry_at = time.monotonic() + RETRY_SECONDS * 2 ** (self._failures[part] - 1)
            self._todo.appendleft(part)
            self._release(current)
            return
        self._release(current)
        self._crt.buffers.note_success()
        accepted(part, answer)

    def _release(self, current: _PartInFlight) -> None:
        self._in_flight.remove(current)
        current.slot.release_memory()
        current.slot.release()

    def _check_stalls(self) -> None:
        """Pace connections that are new, and raise if a part in flight stalls."""
        if (rate := self._crt.bandwidth.rate) is not None:
            self._crt.connections.pace(rate)
        now = time.monotonic()
        for current in self._in_flight:
            if current.sent is None:
                continue
            longest = 10 * self._crt.stall_seconds + current.part.length / MIN_BYTES_PER_SECOND
            if now - current.started > longest or self._crt.is_stalled(current.started):
                hint = f"No byte was accepted for {self._crt.stall_seconds:g} seconds. It is tried again."
                raise StorageError(ErrorKind.TRANSIENT, "upload", self._key, "stalled", hint)

    def _drain(self) -> None:
        """Cancel what is in flight, wait for its end, and release every slot."""
        if self._reservation is not None:
            self._crt.buffers.cancel(self._reservation)
        for current in self._in_flight:
            if current.sent is not None:
                current.sent.cancel()
        deadline = time.monotonic() + _CANCEL_SECONDS
        while any(current.sent is not None and not current.sent.is_done for current in self._in_flight):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._discard_event(min(left, POLL_SECONDS))
        self._discard_event(0)
        for current in self._in_flight:
            if current.sent is None or current.sent.is_done:
                current.slot.release_memory()
            current.slot.release()
        self._in_flight.clear()

    def _discard_event(self, seconds: float) -> None:
        """Wait for an event and release a slot that was granted too late."""
        try:
            event = self._events.get(timeout=seconds) if seconds else self._events.get_nowait()
        except queue.Empty:
            return
        if isinstance(event, Slot):
            event.release_memory()
            event.release()
