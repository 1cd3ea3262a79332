"""Isolates items: an exception about one file or row sets that one aside and spares all others."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from watcher.errors import HANDLED_ERRORS, FailureKind, failure_of
from watcher.filesystem import UnreadableError
from watcher.supervision.background_thread import SetAside, Supervisor
from watcher.supervision.backoff import Backoff
from watcher.telemetry import printable

log = structlog.get_logger()

BACKOFF = Backoff(base=5.0, factor=4.0, cap=300.0)
"""How long an item is set aside; without jitter."""
FORGOTTEN_SECONDS = 7200.0
"""How long after its backoff an item is tried at the latest: what is done least often is done every hour."""
MAX_ITEMS = 4096
"""More items than this are not remembered: the ones set aside first are tried again early."""


@dataclass(slots=True)
class _Aside:
    error: str = ""
    failures: int = 0
    until: float = 0.0


class Isolation:
    """Remembers the items that raised, each with a backoff of its own. Thread-safe.

    `name` stands for the items in the log, in `status` and in the metrics, in the place of a thread's name:
    it must differ from the names of all threads. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        name: str,
        *,
        supervisor: Supervisor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.supervisor = supervisor
        self._clock = clock
        self._lock = threading.Lock()
        self._aside: OrderedDict[object, _Aside] = OrderedDict()

    def __len__(self) -> int:
        """How many items have failed and have not succeeded since."""
        with self._lock:
            return len(self._aside)

    def seconds_left(self, key: object) -> float:
        """How long an item stays set aside; 0 if it may be tried."""
        with self._lock:
            aside = self._aside.get(key)
            return 0.0 if aside is None else max(0.0, aside.until - self._clock())

    @contextmanager
    def item(self, key: object, **context: object) -> Iterator[None]:
        """Work on one item; an exception that concerns only this item ends here. See `concerns_one`."""
        try:
            yield
        except Exception as exc:  # an item's error must not keep its thread from the other items
            if not concerns_one(exc):
                raise
            self.set_aside(key, exc, **context)
        else:
            self.forget(key)

    def set_aside(self, key: object, exc: Exception, **context: object) -> None:
        """Log an exception about an item and set the item aside."""
        error = printable(f"{type(exc).__name__}: {exc}")
        with self._lock:
            aside = self._aside.setdefault(key, _Aside())
            delay = BACKOFF.ceiling(aside.failures)
            aside.failures += 1
            aside.error = error
            aside.until = self._clock() + delay
            self._aside.move_to_end(key)
            if len(self._aside) > MAX_ITEMS:
                self._aside.popitem(last=False)
            failures = aside.failures
        if self.supervisor is not None:
            self.supervisor.record(self.name, exc)
            self.supervisor.report_set_aside(self.name, self.set_aside_now)
        log.error(
            "internal_error",
            thread=self.name,
            error=error,
            attempts=failures,
            retry_in_seconds=delay,
            exc_info=exc,
            **context,
        )

    def forget(self, key: object) -> None:
        """Note that an item succeeded."""
        with self._lock:
            self._aside.pop(key, None)

    def set_aside_now(self) -> SetAside | None:
        """How many items are set aside, and the latest error; None if no item is.

        An item that was not tried again for long does not exist any more and does not count.
        """
        with self._lock:
            oldest = self._clock() - FORGOTTEN_SECONDS
            errors = [aside.error for aside in self._aside.values() if aside.until > oldest]
        return SetAside(self.name, len(errors), errors[-1]) if errors else None


def concerns_one(exc: Exception) -> bool:
    """Whether an exception can only concern the item that was worked on.

    A database, a directory or a storage that does not answer concerns every item, as does a full disk.
    """
    if not isinstance(exc, HANDLED_ERRORS):
        return True
    kind = failure_of(exc).kind
    is_of_file = isinstance(exc, OSError | UnreadableError)
    return kind is FailureKind.OBJECT or (is_of_file and kind is FailureKind.TRANSIENT)
