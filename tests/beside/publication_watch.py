"""How long ready rows wait for their public URL, measured while everything goes on."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field

import psycopg
import pytest

from tests.beside.platform import Platform
from tests.beside.verdict import Row, is_public, path_of, rows_of

PROMISED_SECONDS = 10.0
"""Every ready row is public so long after it became ready, or after the disturbance, on a machine at rest."""
SLOWNESS = float(os.environ.get("BESIDE_SLOWNESS", "4"))
"""By how much this machine may be slower than that, because of what else it does."""
LOOK_SECONDS = 0.2
PROPERTY = "waits"
HEADER = (
    "| disturbance | ready rows | seconds to public: median | longest |",
    "| --- | ---: | ---: | ---: |",
)


@dataclass(frozen=True)
class Waits:
    """How long the rows of one test waited, in seconds."""

    disturbance: str
    rows: int
    median: float
    longest: float

    def as_line(self) -> str:
        """A row of the table."""
        return f"| {self.disturbance} | {self.rows} | {self.median:.1f} | {self.longest:.1f} |"


@dataclass
class PublicationWatch:
    """When each row was first seen ready, and when it was first seen public, in monotonic seconds."""

    platform: Platform
    ready_at: dict[str, float] = field(default_factory=dict)
    public_at: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def now() -> float:
        """The time by the watch."""
        return time.monotonic()

    def waits(self, since: float = 0.0) -> list[float]:
        """How long each row waited that became public after `since`: from then, or from when it was ready."""
        return [
            public - max(self.ready_at[row], since)
            for row, public in self.public_at.items()
            if public > since
        ]

    def follow(self, stopped: threading.Event) -> None:
        """Look at the rows again and again; while the database is away nothing is seen."""
        while not stopped.wait(LOOK_SECONDS):
            with suppress(psycopg.OperationalError):
                self._look(rows_of(self.platform))

    def _look(self, rows: list[Row]) -> None:
        now = time.monotonic()
        for row in rows:
            if row.status == "ready" and path_of(self.platform, row) not in self.platform.ignored:
                self.ready_at.setdefault(row.id, now)
                if is_public(self.platform, row):
                    self.public_at.setdefault(row.id, now)


@contextmanager
def publication_watch(platform: Platform) -> Iterator[PublicationWatch]:
    """Watch the rows until the end of the block."""
    watch, stopped = PublicationWatch(platform), threading.Event()
    thread = threading.Thread(target=watch.follow, args=(stopped,), name="publication watch")
    thread.start()
    try:
        yield watch
    finally:
        stopped.set()
        thread.join()


def ensure_prompt(
    request: pytest.FixtureRequest, disturbance: str, watch: PublicationWatch, since: float = 0.0
) -> None:
    """Put what was measured into the table at the end of the run; fail if a row waited for too long."""
    waits = watch.waits(since)
    measured = Waits(disturbance, len(waits), statistics.median(waits), max(waits))
    request.node.user_properties.append((PROPERTY, asdict(measured)))
    assert measured.longest <= PROMISED_SECONDS * SLOWNESS, measured.as_line()
