"""Faults of connections, with the names that the table shows, and their injection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

from tests.support.fault_proxy import Answer
from tests.support.s3_requests import BODIES, WRITES

Strike = Callable[[], int]
"""Called by a fault each time that it strikes; returns how often it has struck."""

WAIT_SECONDS = 20.0


class CutError(Exception):
    """Raised by a fault that breaks the connection; `parting` is what still arrives before."""

    def __init__(self, parting: bytes = b"") -> None:
        super().__init__()
        self.parting = parting


@dataclass(frozen=True)
class Requests:
    """Which requests a fault strikes: those of some actions (None: any), every k-th of them, only so many."""

    actions: frozenset[str] | None = None
    every: int = 1
    first: int | None = None

    def include(self, nth: int) -> bool:
        """Whether the n-th request of these actions, counted from 1, is one."""
        return nth % self.every == 0 and (self.first is None or nth <= self.first * self.every)

    @property
    def name(self) -> str:
        """The choice in words."""
        noun = _NOUNS.get(self.actions) or " or ".join(sorted(self.actions or ()))
        if self.first is None:
            return f"every {_ordinal(self.every)}{noun}"
        if self.every == 1:
            return f"the first {self.first} {noun}s" if self.first > 1 else f"the first {noun}"
        return f"every {_ordinal(self.every)}{noun}, {self.first} times"


_NOUNS: Final = {None: "request", BODIES: "upload", WRITES: "write"}


def _ordinal(number: int) -> str:
    return "" if number == 1 else f"{number}{ {2: 'nd', 3: 'rd'}.get(number, 'th') } "


@dataclass(frozen=True)
class Fault:
    """What can go wrong with a connection, or with a request on it; this one does nothing.

    `on_bytes` is for connections that carry anything, the other three for HTTP. Each may raise `CutError`.
    """

    cuts_open_connections: ClassVar[bool] = False
    refuses_connections: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """What it does, in the words of a table."""
        return "none"

    async def on_bytes(self, data: bytes, strike: Strike) -> bytes:
        """What becomes of bytes on their way, in either direction."""
        return data

    async def on_request(self, strike: Strike) -> Answer | None:
        """What is answered instead of passing the request on."""
        return None

    async def on_body(self, data: bytes, *, is_middle: bool, strike: Strike) -> bytes:
        """What becomes of a piece of a request's body; one piece begins in the middle of the body."""
        return data

    async def on_answer(self, raw: bytes, strike: Strike) -> bytes:
        """What becomes of a whole answer, as its bytes are on the wire."""
        return raw


@dataclass(frozen=True)
class Refused(Fault):
    """Refuses connections and cuts open ones; counted once, and once for each of those."""

    cuts_open_connections = True
    refuses_connections = True

    @property
    def name(self) -> str:
        return "connections refused"


@dataclass(frozen=True)
class Cut(Fault):
    """Every connection is cut: those that are open at once, new ones with the first that comes."""

    cuts_open_connections = True

    @property
    def name(self) -> str:
        return "every connection cut"

    async def on_bytes(self, data: bytes, strike: Strike) -> bytes:
        strike()
        raise CutError

    async def on_request(self, strike: Strike) -> Answer | None:
        strike()
        raise CutError


@dataclass(frozen=True)
class BlackHole(Fault):
    """Forwards nothing any more: no end, no reset, no answer."""

    @property
    def name(self) -> str:
        return "connections swallowed by a black hole"

    async def on_bytes(self, data: bytes, strike: Strike) -> bytes:
        strike()
        return await never()

    async def on_request(self, strike: Strike) -> Answer | None:
        strike()
        await never()
        return None


@dataclass(frozen=True)
class Delayed(Fault):
    """Delays every request, or every piece of other protocols."""

    seconds: float

    @property
    def name(self) -> str:
        return f"delayed by {self.seconds * 1000:.0f} ms"

    async def on_bytes(self, data: bytes, strike: Strike) -> bytes:
        strike()
        await asyncio.sleep(self.seconds)
        return data

    async def on_request(self, strike: Strike) -> Answer | None:
        strike()
        await asyncio.sleep(self.seconds)
        return None


async def never() -> bytes:
    """Wait until the proxy ends."""
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


class Injection:
    """A fault at work: which requests it strikes, and how often it has. Safe for threads."""

    def __init__(self, fault: Fault, requests: Requests) -> None:
        self.fault = fault
        self._requests = requests
        self._changed = threading.Condition()
        self._seen = 0
        self._injected = 0

    @property
    def name(self) -> str:
        """The fault and what it strikes."""
        return f"{self.fault.name}, {self._requests.name}"

    @property
    def injected(self) -> int:
        """How often it has struck."""
        return self._injected

    def takes(self, action: str) -> bool:
        """Whether it strikes this request, which is counted."""
        if self._requests.actions is not None and action not in self._requests.actions:
            return False
        self._seen += 1
        return self._requests.include(self._seen)

    def strike(self) -> int:
        """Count that it struck."""
        with self._changed:
            self._injected += 1
            self._changed.notify_all()
            return self._injected

    def wait_for(self, times: int, seconds: float = WAIT_SECONDS) -> None:
        """Wait until it has struck so often."""
        with self._changed:
            in_time = self._changed.wait_for(lambda: self._injected >= times, seconds)
        assert in_time, f"{self.name}: injected {self._injected} times, not {times}"
