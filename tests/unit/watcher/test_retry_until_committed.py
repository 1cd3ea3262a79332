"""A confirmation is committed when the database answers again, unless the claim was lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from db import ClaimLostError, DatabaseError, ErrorKind
from tests.support.harness import Harness
from watcher.stages.error_policy import ErrorPolicy
from watcher.stages.runner import Work
from watcher.stages.upload import retry_until_committed


def trouble(kind: ErrorKind) -> DatabaseError:
    return DatabaseError(kind, "record a confirmation", "it is away", "Wait.")


@dataclass
class Attempts:
    """Raises the given exceptions one after the other, then succeeds."""

    failures: list[Exception]
    waited: list[float] = field(default_factory=list)
    beats: int = 0
    stops_after: int = 1000

    def record(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    def wait(self, seconds: float) -> bool:
        self.waited.append(seconds)
        return len(self.waited) >= self.stops_after

    def beat(self) -> None:
        self.beats += 1

    def work(self, error_policy: ErrorPolicy) -> Work:
        return Work(error_policy=error_policy, stopped=lambda: False, beat=self.beat, wait=self.wait)


@pytest.fixture
def run(harness: Harness) -> Callable[[Attempts], None]:
    error_policy = next(iter(harness.app.runners.values())).error_policy
    return lambda attempts: retry_until_committed(attempts.record, attempts.work(error_policy))


def test_it_is_retried_until_the_database_answers(run: Callable[[Attempts], None]) -> None:
    attempts = Attempts([trouble(ErrorKind.TRANSIENT)] * 3)
    run(attempts)
    assert (len(attempts.waited), attempts.beats) == (3, 3)


@pytest.mark.parametrize(
    "error", [trouble(ErrorKind.ENVIRONMENT), trouble(ErrorKind.OBJECT), ClaimLostError(1, 2)]
)
def test_a_permanent_error_is_not_retried(run: Callable[[Attempts], None], error: Exception) -> None:
    attempts = Attempts([error])
    with pytest.raises(type(error)):
        run(attempts)
    assert attempts.waited == []


def test_a_stop_ends_it(run: Callable[[Attempts], None]) -> None:
    attempts = Attempts([trouble(ErrorKind.TRANSIENT)] * 9, stops_after=2)
    with pytest.raises(DatabaseError):
        run(attempts)
    assert len(attempts.waited) == 2
