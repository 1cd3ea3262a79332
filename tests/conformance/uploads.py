"""Uploads for the tests: complete, observed, or stopped in the middle."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from storage import Multipart, ObjectStore, Sent, SourceFile, Target, WriteCondition
from tests.conformance.files import source_of
from tests.support.fault_proxy import Answer, Forward, Request

VIDEO = "video/mp4"
PATIENCE_SECONDS = 30.0


@dataclass
class Watched:
    """What a caller hears while it uploads."""

    progress: list[int] = field(default_factory=list)
    multiparts: list[Multipart] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def send(
        self,
        store: ObjectStore,
        source: SourceFile,
        key: str,
        *,
        resume: Multipart | None = None,
        condition: WriteCondition | None = None,
    ) -> Sent:
        """Upload, resumable and cancellable."""
        return store.upload(
            source,
            Target(key, VIDEO, condition=condition or WriteCondition.unconditional()),
            checksum=source.checksum(),
            progress=self.progress.append,
            cancelled=self.stop.is_set,
            resume=resume,
            on_multipart=self.multiparts.append,
        )


def send(store: ObjectStore, path: str, key: str, condition: WriteCondition | None = None) -> Sent:
    """Upload a file, come what may."""
    with source_of(path) as source:
        return Watched().send(store, source, key, condition=condition)


class StopAfterParts:
    """A fault: the first `parts` parts reach the server, and once they are there the sender is stopped.

    No other part reaches it, nor does the request that would make the object of them: they get no answer
    before `give_up` is called. `arrived` are parts that are there already.
    """

    def __init__(self, parts: int, stop: Callable[[], object], *, arrived: Iterable[int] = ()) -> None:
        self._parts = parts
        self._stop = stop
        self._arrived = set(arrived)
        self._change = threading.Condition()
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """Break off the requests that wait for an answer."""
        self._given_up.set()

    def __call__(self, request: Request, forward: Forward) -> Answer | None:
        """As `tests.support.fault_proxy.Fault`."""
        match request.action:
            case "UploadPart" if request.part_number <= self._parts:
                answer = forward()
                with self._change:
                    self._arrived.add(request.part_number)
                    self._change.notify_all()
                return answer
            case "UploadPart" | "CompleteMultipartUpload":
                with self._change:
                    self._change.wait_for(lambda: len(self._arrived) == self._parts, PATIENCE_SECONDS)
                self._stop()
                self._given_up.wait(PATIENCE_SECONDS)
                return None
        return forward()


def parts_sent(requests: list[Request]) -> list[int]:
    """The numbers of the parts that were sent, in order."""
    return sorted(request.part_number for request in requests if request.action == "UploadPart")
