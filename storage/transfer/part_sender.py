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
from storage.transfer.crt_client import PACE_POLL_SECONDS, POLL_SECONDS, CrtClient
from storage.transfer.crt_request import CrtRequest, Request
from storage.transfer.part_layout import Part

RETRY_SECONDS = 0.25
"""Delay before the first retry of a part; doubled for each further one."""
STARVED_STALLS = 10
"""After this many times the stall limit a part must have had a share of what moved on the line."""
STARVED_ROUNDS = 4
"""A part has had no share if the line has moved all that may be in flight this many times meanwhile."""
TRICKLE_BYTES_PER_SECOND = 1024
"""Less than this on the whole line is not the movement of bodies but of small requests."""
RECALL_SECONDS = 10.0
"""A part that was started longer ago is not recalled: too much of it may have been sent."""
_CANCEL_SECONDS = 5.0
_NOT_RETRIED = frozenset(
    {"NoSuchUpload", "PreconditionFailed", "ConditionalRequestConflict", "source-changed", "stalled"}
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
    moved_before: int = 0
    """`CrtClient.moved` when it was sent."""
    generation: int = 0
    is_recalled: bool = False
    """Whether it was cancelled to be sent again when the line has room for it."""


class SlowLineError(Exception):
    """The line turned out to be too slow for the parts that were chosen, before any of them was accepted."""


def is_starved(seconds: float, moved: int, *, in_flight: int, stall_seconds: float) -> bool:
    """Whether a part had no share of the bytes that moved on the line in so many seconds since it was sent.

    `in_flight` is the most bytes that share the line. A part that is slow because the line is has had its
    share, however long it takes.
    """
    if seconds <= STARVED_STALLS * stall_seconds:
        return False
    return moved > STARVED_ROUNDS * in_flight or moved < seconds * TRICKLE_BYTES_PER_SECOND


def ensure_not_starved(crt: CrtClient, key: str, length: int, started: float, moved_before: int) -> None:
    """Raise `StorageError` if a body starves, sent at `started` when `moved_before` bytes had moved."""
    seconds = time.monotonic() - started
    if is_starved(
        seconds,
        crt.moved - moved_before,
        in_flight=crt.buffers.max_bytes + length,
        stall_seconds=crt.stall_seconds,
    ):
        hint = f"{seconds:.0f} seconds were not enough for one part. It is tried again."
        raise StorageError(ErrorKind.TRANSIENT, "upload", key, "stalled", hint)


class PartSender:
    """Sends the parts of one file. It belongs to the calling thread, in which all callbacks are called."""

    def __init__(
        self,
        crt: CrtClient,
        source: SourceFile,
        key: str,
        *,
        attempts: int,
        cancelled: Callable[[], bool],
        is_too_slow: Callable[[], bool],
    ) -> None:
        self._crt = crt
        self._source = source
        self._key = key
        self._attempts = attempts
        self._cancelled = cancelled
        self._is_too_slow = is_too_slow
        self._events: queue.SimpleQueue[Slot | CrtRequest] = queue.SimpleQueue()
        self._todo: deque[Part] = deque()
        self._failures: Counter[Part] = Counter()
        self._retry_at = 0.0
        self._last_started = 0.0
        self._last_length = 0
        self._checked_at = 0.0
        self._in_flight: list[_PartInFlight] = []
        self._reservation: Reservation | None = None
        self._reserved_for: Part | None = None

    def send(self, parts: Iterable[Part], prepare: Prepare, accepted: Accepted) -> None:
        """Send `parts`. `prepare` makes a request from a part's bytes, `accepted` is given the answer.

        Raises `SourceChangedError`, `UploadCancelledError`, any other `StorageError`, and what the callbacks
        raise; and `SlowLineError` if `is_too_slow` returns true before anything was sent for long. On
        return, by whatever way, nothing is in flight.
        """
        self._todo.extend(parts)
        try:
            while self._todo or self._in_flight or self._reservation is not None:
                # Measured first: `cancelled` may ask when bytes moved.
                self._crt.last_activity()
                if self._cancelled():
                    raise UploadCancelledError(key=self._key)
                self._yield_to_slow_line()
                # Unread parts may change while others are in flight on a slow line.
                self._source.ensure_unchanged()
                self._request_slot()
                self._handle_event(self._start_due(), prepare, accepted)
                self._check_stalls()
            self._crt.await_bandwidth(self._last_started, self._last_length, self._cancelled)
        finally:
            self._drain()

    def _request_slot(self) -> None:
        if self._reservation is None and self._todo and time.monotonic() >= self._retry_at:
            self._reserved_for = self._todo.popleft()
            self._reservation = self._crt.buffers.reserve(self._reserved_for.length, self._events.put)

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
                current.moved_before = crt.moved
                current.sent = crt.start(current.request, self._events.put, current.slot.release_memory)
                current.request = None
        is_new = any(now - current.started < POLL_SECONDS for current in self._in_flight)
        return PACE_POLL_SECONDS if is_new and crt.bandwidth.rate is not None else POLL_SECONDS

    def _handle_event(self, seconds: float, prepare: Prepare, accepted: Accepted) -> None:
        try:
            event = self._events.get(timeout=seconds)
        except queue.Empty:
            if (rate := self._crt.bandwidth.rate) is not None:
                self._crt.connections.pace(rate)  # connections that are new
            return
        if isinstance(event, Slot):
            self._read(event, prepare)
        else:
            self._finish(event, accepted)

    def _read(self, slot: Slot, prepare: Prepare) -> None:
        if (part := self._reserved_for) is None:
            raise ValueError("a slot was granted that no part waits for")
        self._reservation = self._reserved_for = None
        current = _PartInFlight(part, slot)
        self._in_flight.append(current)
        self._source.read_into(slot.buffer, current.part.offset)
        current.request = prepare(current.part, slot.buffer)

    def _finish(self, request: CrtRequest, accepted: Accepted) -> None:
        current = next(current for current in self._in_flight if current.sent is request)
        part = current.part
        if request.is_stalled:
            raise self._crt.stalled(request.request)
        try:
            answer = self._crt.answer_of(request, current.generation)
        except StorageError as exc:
            if current.is_recalled:
                self._todo.appendleft(part)
                self._release(current)
                return
            self._failures[part] += 1
            if exc.code == "timeout" and time.monotonic() - current.started > self._crt.stall_seconds:
                # The CRT gives up a connection that takes nothing for 30 seconds, twice.
                raise self._crt.stalled(request.request) from exc
            if self._failures[part] == 1 and self._crt.is_readdressed(exc):
                self._todo.appendleft(part)
                self._release(current)
                return
            if exc.kind is not ErrorKind.TRANSIENT or exc.is_refusal or exc.code in _NOT_RETRIED:
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

    def _yield_to_slow_line(self) -> None:
        """Recall the parts for which a line that turned out to be slow has no room, while they are young.

        Raises `SlowLineError` if all parts have to be other ones, and none was accepted.
        """
        oldest = time.monotonic() - RECALL_SECONDS
        young = [current for current in self._in_flight if current.sent is None or current.started > oldest]
        if len(young) == len(self._in_flight) and self._is_too_slow():
            raise SlowLineError
        for current in young:
            if current.sent is not None and not current.is_recalled and current.slot.is_excess:
                current.is_recalled = True
                self._crt.connections.discard_unsent()
                current.sent.cancel()

    def _check_stalls(self) -> None:
        """Raise if a part in flight stalls."""
        now = time.monotonic()
        if now - self._checked_at < POLL_SECONDS:
            return
        self._checked_at = now
        for current in self._in_flight:
            if current.sent is None:
                continue
            if self._crt.is_stalled(current.started):
                raise self._crt.stalled(current.sent.request)
            ensure_not_starved(
                self._crt, self._key, current.part.length, current.started, current.moved_before
            )

    def _drain(self) -> None:
        """Cancel what is in flight, wait for its end, and release every slot."""
        if self._reservation is not None:
            self._crt.buffers.cancel(self._reservation)
        sent = [current.sent for current in self._in_flight if current.sent is not None]
        if sent:
            self._crt.connections.discard_unsent()
        for request in sent:
            request.cancel()
        deadline = time.monotonic() + _CANCEL_SECONDS
        while any(current.sent is not None and not current.sent.is_done for current in self._in_flight):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._discard_event(min(left, POLL_SECONDS))
        while self._discard_event(0):
            pass
        for current in self._in_flight:
            if current.sent is None or current.sent.is_done:
                current.slot.release_memory()
            if current.sent is not None:
                current.sent.forget()
            current.slot.release()
        self._in_flight.clear()

    def _discard_event(self, seconds: float) -> bool:
        """Wait for an event and release a slot that was granted too late; False if there is no event."""
        try:
            event = self._events.get(timeout=seconds) if seconds else self._events.get_nowait()
        except queue.Empty:
            return False
        if isinstance(event, Slot):
            event.release_memory()
            event.release()
        return True
