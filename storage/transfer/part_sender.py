"""Pieces of a file on their way to the server, several at once: read, checked, sent, if need be again.

Each piece is read once, into memory that it keeps until the server has accepted it; its CRC64NVME is taken
there and it is sent from there. A file that changes meanwhile cannot slip through between the two.
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
"""Before a piece is sent a second time; doubled each time after that."""
NEW_POLL_SECONDS = 0.005
"""How often, under a limit, new connections are looked for that still send as fast as they can."""
SLOWEST_BYTES_PER_SECOND = 16 * 1024
"""What takes longer than on a line like this is given up even while other bytes still move."""
_CANCEL_SECONDS = 5.0
_FINAL = frozenset(
    {"NoSuchUpload", "PreconditionFailed", "ConditionalRequestConflict", "NotImplemented", "source-changed"}
)
"""Transient errors that sending the same piece again cannot mend."""

Prepare = Callable[[Part, memoryview], Request]
Accepted = Callable[[Part, Mapping[str, Any]], None]


@dataclass(eq=False, slots=True)
class _Piece:
    part: Part
    slot: Slot
    request: Request | None = None
    exchange: CrtRequest | None = None
    started: float = 0.0
    generation: int = 0


class PartSender:
    """Sends the pieces of one file; for the thread that calls it, which alone calls back."""

    def __init__(
        self, engine: CrtClient, source: SourceFile, key: str, *, attempts: int, cancelled: Callable[[], bool]
    ) -> None:
        self._engine = engine
        self._source = source
        self._key = key
        self._attempts = attempts
        self._cancelled = cancelled
        self._mailbox: queue.SimpleQueue[Slot | CrtRequest] = queue.SimpleQueue()
        self._todo: deque[Part] = deque()
        self._failures: Counter[Part] = Counter()
        self._rest_until = 0.0
        self._last_started = 0.0
        self._last_length = 0
        self._pieces: list[_Piece] = []
        self._reservation: Reservation | None = None

    def send(self, parts: Iterable[Part], prepare: Prepare, accepted: Accepted) -> None:
        """Send `parts`; `prepare` makes a request from a piece's bytes, `accepted` is told the answer.

        Raises `SourceChangedError`, `UploadCancelledError`, any other `StorageError`, and what the two
        raise. In any case nothing is under way any more when this is over.
        """
        self._todo.extend(parts)
        try:
            while self._todo or self._pieces:
                if self._cancelled():
                    raise UploadCancelledError(key=self._key)
                # What is not read yet may have changed while the rest was under way on a slow line.
                self._source.ensure_unchanged()
                self._ask()
                self._wait(self._start_due(), prepare, accepted)
            self._settle()
        finally:
            self._leave()

    def _ask(self) -> None:
        if self._reservation is None and self._todo and time.monotonic() >= self._rest_until:
            self._reservation = self._engine.slots.ask(self._todo[0].length, self._mailbox.put)

    def _start_due(self) -> float:
        """Send off what may be sent now; returns how many seconds to wait for something to happen."""
        engine = self._engine
        now = time.monotonic()
        for piece in self._pieces:
            if piece.exchange is None and piece.request is not None:
                if (wait := engine.bandwidth.take(piece.part.length)) > 0:
                    return min(wait, POLL_SECONDS)
                piece.started = self._last_started = now
                self._last_length = piece.part.length
                piece.generation = engine.slots.generation
                piece.exchange = engine.start(piece.request, self._mailbox.put, piece.slot.give_back_memory)
                piece.request = None
        is_new = any(now - piece.started < POLL_SECONDS for piece in self._pieces)
        return NEW_POLL_SECONDS if is_new and engine.bandwidth.rate is not None else POLL_SECONDS

    def _wait(self, seconds: float, prepare: Prepare, accepted: Accepted) -> None:
        try:
            event = self._mailbox.get(timeout=seconds)
        except queue.Empty:
            self._look_after()
            return
        if isinstance(event, Slot):
            self._read(event, prepare)
        else:
            self._finish(event, accepted)

    def _settle(self) -> None:
        """Take as long as the bandwidth allows for the last piece, even if the line was faster than it."""
        while (rate := self._engine.bandwidth.rate) is not None and not self._cancelled():
            left = self._last_started + self._last_length / rate - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, POLL_SECONDS))

    def _read(self, slot: Slot, prepare: Prepare) -> None:
        self._reservation = None
        piece = _Piece(self._todo.popleft(), slot)
        self._pieces.append(piece)
        self._source.read_into(slot.buffer, piece.part.offset)
        piece.request = prepare(piece.part, slot.buffer)

    def _finish(self, exchange: CrtRequest, accepted: Accepted) -> None:
        piece = next(piece for piece in self._pieces if piece.exchange is exchange)
        try:
            answer = self._engine.answer_of(exchange, piece.generation)
        except StorageError as exc:
            self._failures[piece.part] += 1
            if exc.kind is not ErrorKind.TRANSIENT or exc.code in _FINAL:
                raise
            if self._failures[piece.part] >= self._attempts:
                raise
            self._rest_until = time.monotonic() + RETRY_SECONDS * 2 ** (self._failures[piece.part] - 1)
            self._todo.appendleft(piece.part)
            self._end(piece)
            return
        self._end(piece)
        self._engine.slots.succeeded()
        accepted(piece.part, answer)

    def _end(self, piece: _Piece) -> None:
        self._pieces.remove(piece)
        piece.slot.give_back_memory()
        piece.slot.give_back()

    def _look_after(self) -> None:
        """Use a quiet moment to see that no new connection is too fast, and that the line is not dead."""
        if (rate := self._engine.bandwidth.rate) is not None:
            self._engine.connections.pace(rate)
        now = time.monotonic()
        for piece in self._pieces:
            if piece.exchange is None:
                continue
            longest = 10 * self._engine.stall_seconds + piece.part.length / SLOWEST_BYTES_PER_SECOND
            if now - piece.started > longest or self._engine.is_stalled(piece.started):
                raise StorageError(
                    ErrorKind.TRANSIENT,
                    "upload",
                    self._key,
                    "stalled",
                    f"Nothing was accepted for {self._engine.stall_seconds:g} seconds. It is tried again.",
                )

    def _leave(self) -> None:
        if self._reservation is not None:
            self._engine.slots.withdraw(self._reservation)
        for piece in self._pieces:
            if piece.exchange is not None:
                piece.exchange.cancel()
        deadline = time.monotonic() + _CANCEL_SECONDS
        while any(piece.exchange is not None and not piece.exchange.is_done for piece in self._pieces):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._drain(min(left, POLL_SECONDS))
        self._drain(0)
        for piece in self._pieces:
            if piece.exchange is None or piece.exchange.is_done:
                piece.slot.give_back_memory()
            piece.slot.give_back()
        self._pieces.clear()

    def _drain(self, seconds: float) -> None:
        """Give back a slot that was granted too late, and take note of what is done."""
        try:
            event = self._mailbox.get(timeout=seconds) if seconds else self._mailbox.get_nowait()
        except queue.Empty:
            return
        if isinstance(event, Slot):
            event.give_back_memory()
            event.give_back()
