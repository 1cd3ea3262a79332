"""What a part sender leaves behind when it ends, whatever was answered at the same moment."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import pytest

from storage import SourceFile, StorageError
from storage.errors import ErrorKind
from storage.transfer.bandwidth import Bandwidth
from storage.transfer.buffer_pool import BufferPool
from storage.transfer.crt_client import CrtClient
from storage.transfer.crt_request import Request
from storage.transfer.part_layout import Part
from storage.transfer.part_sender import PartSender

LENGTH = 64 * 1024
BODIES = 5


class RequestStub:
    is_done = False
    is_stalled = False
    request = Request("UploadPart", "PUT", "k")

    def cancel(self) -> None:
        self.is_done = True

    def forget(self) -> None:
        """As CrtRequest's: it has nothing to free."""


class CrtStub:
    """A client whose requests are all answered at the moment when `BODIES` of them are in flight."""

    stall_seconds = 60.0
    moved = 0
    rate = None

    def __init__(self) -> None:
        self.buffers = BufferPool(BODIES, BODIES * LENGTH)
        self.bandwidth = Bandwidth(None)
        self.connections = self
        self._sent: list[tuple[RequestStub, Callable[[RequestStub], None]]] = []

    def start(
        self,
        _request: Request,
        on_done: Callable[[RequestStub], None],
        on_read: Callable[[], None],
    ) -> RequestStub:
        request = RequestStub()
        self._sent.append((request, on_done))
        on_read()
        if len(self._sent) == BODIES:
            for sent, then in self._sent:
                sent.is_done = True
                then(sent)
        return request

    def answer_of(self, _request: RequestStub, _generation: int) -> Mapping[str, Any]:
        return {"ETag": "x"}

    def last_activity(self) -> float:
        return 0.0

    def is_stalled(self, _since: float) -> bool:
        return False

    def stalled(self, request: Request) -> StorageError:
        return StorageError(
            ErrorKind.TRANSIENT, request.purpose, request.key, "stalled", "It is tried again."
        )

    def discard_unsent(self) -> None:
        pass


@pytest.fixture
def source() -> Iterator[SourceFile]:
    with tempfile.TemporaryFile() as file:
        os.truncate(file.fileno(), 2 * BODIES * LENGTH)
        yield SourceFile(file.fileno())


def test_a_failure_beside_several_answers_leaks_no_slot_of_the_shared_pool(source: SourceFile) -> None:
    """The first answer's slot is granted to the next part, behind the other answers in the queue."""
    crt = CrtStub()
    sender = PartSender(
        cast("CrtClient", crt), source, "k", attempts=1, cancelled=lambda: False, is_too_slow=lambda: False
    )

    def fail(_part: Part, _answer: Mapping[str, Any]) -> None:
        raise StorageError(ErrorKind.ENVIRONMENT, "upload", "k", "AccessDenied", "Allow it.")

    parts = [Part(number + 1, number * LENGTH, LENGTH) for number in range(2 * BODIES)]
    with pytest.raises(StorageError):
        sender.send(parts, lambda _part, content: Request("UploadPart", "PUT", "k", body=content), fail)
    granted: list[object] = []
    for _ in range(BODIES):
        crt.buffers.reserve(LENGTH, granted.append)
    assert len(granted) == BODIES


def test_a_connection_that_the_crt_gave_up_twice_is_a_stall_and_is_not_tried_again(
    source: SourceFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CRT waits for 30 seconds each time, whatever the limit is."""
    crt = CrtStub()
    crt.stall_seconds = 0.0
    answered: list[int] = []

    def give_up(_request: RequestStub, _generation: int) -> Mapping[str, Any]:
        answered.append(1)
        raise StorageError(ErrorKind.TRANSIENT, "upload", "k", "timeout", "It is tried again.")

    monkeypatch.setattr(crt, "answer_of", give_up)
    sender = PartSender(
        cast("CrtClient", crt), source, "k", attempts=3, cancelled=lambda: False, is_too_slow=lambda: False
    )
    parts = [Part(number + 1, number * LENGTH, LENGTH) for number in range(BODIES)]
    with pytest.raises(StorageError) as caught:
        sender.send(
            parts, lambda _part, content: Request("UploadPart", "PUT", "k", body=content), lambda *_: None
        )
    assert caught.value.code == "stalled"
    assert len(answered) == 1
