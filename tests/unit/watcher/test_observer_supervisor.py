"""Changes of the watched directory and of the observer are found, logged and repaired, without the thread."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from tests.support.observed_paths import NO_CALLBACKS
from watcher.detection.inotify import add_watch
from watcher.detection.observer import TreeObserver
from watcher.detection.observer_supervisor import ObserverSupervisor
from watcher.filesystem.tree import Tree
from watcher.supervision.background_thread import Supervisor
from watcher.telemetry.metrics import Metrics


@dataclass
class ObserverSupervisorFixture:
    """A supervisor of a real directory and a real observer; adding watches fails while `refuses` is set."""

    root: str
    scans: int = 0
    returns: int = 0
    refuses: bool = False
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.tree = Tree(self.root)
        self.observer = TreeObserver(
            self.root,
            NO_CALLBACKS,
            add=self._add,
        )
        self.observer_supervisor = ObserverSupervisor(
            self.tree,
            self.observer,
            request_full_scan=self._scan,
            root_returned=self._return,
            supervisor=Supervisor(self.metrics),
            metrics=self.metrics,
        )

    def check(self) -> list[str]:
        """Have the supervisor check once; returns the names of the logged events."""
        with capture_logs() as logs:
            self.observer_supervisor.check()
        return [entry["event"] for entry in logs]

    def sample(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"video_uploader_{name}")

    def _add(self, inotify: int, path: bytes) -> int:
        if self.refuses:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return add_watch(inotify, path)

    def _scan(self) -> None:
        self.scans += 1

    def _return(self) -> None:
        self.returns += 1


@pytest.fixture
def fixture(place: str) -> Iterator[ObserverSupervisorFixture]:
    os.mkdir(f"{place}/root")
    fixture = ObserverSupervisorFixture(f"{place}/root")
    yield fixture
    fixture.observer_supervisor.request_stop()
    assert fixture.observer_supervisor.join(5)
    assert not fixture.observer.is_alive()


def write(path: str) -> None:
    with open(path, "wb") as file:
        file.write(b"x")


def test_nothing_is_logged_in_normal_operation(fixture: ObserverSupervisorFixture) -> None:
    assert [fixture.check(), fixture.check()] == [[], []]
    assert fixture.observer_supervisor.failure_reason == ""
    assert (fixture.scans, fixture.returns) == (0, 0)
    assert fixture.sample("root_available") == 1
    assert fixture.sample("observer_restarts_total") == 0


def test_a_root_that_is_deleted_and_made_again_is_watched_again_once_it_is_not_empty(
    fixture: ObserverSupervisorFixture,
) -> None:
    fixture.check()
    os.rename(fixture.root, f"{fixture.root}.deleted")
    assert fixture.check() == ["observer_unavailable"]
    assert fixture.check() == []
    assert "No such file" in fixture.observer_supervisor.failure_reason
    assert fixture.sample("root_available") == 0
    os.mkdir(fixture.root)
    assert fixture.check() == ["observer_unavailable"]
    assert fixture.check() == []
    assert "empty" in fixture.observer_supervisor.failure_reason
    write(f"{fixture.root}/a.mp4")
    assert (fixture.scans, fixture.returns) == (0, 0)
    assert fixture.check() == ["root_taken_up", "observer_restarted"]
    assert (fixture.scans, fixture.returns) == (1, 1)
    assert fixture.observer_supervisor.failure_reason == ""
    assert fixture.sample("root_available") == 1
    assert fixture.sample("observer_restarts_total") == 1
    assert fixture.observer.is_alive()
    assert fixture.check() == []


def test_the_same_root_that_comes_back_is_scanned(fixture: ObserverSupervisorFixture) -> None:
    fixture.check()
    os.rename(fixture.root, f"{fixture.root}.away")
    fixture.check()
    os.rename(f"{fixture.root}.away", fixture.root)
    assert fixture.check() == ["observer_restarted"]
    assert (fixture.scans, fixture.returns) == (1, 1)


def test_a_root_that_is_replaced_between_two_checks_is_found(fixture: ObserverSupervisorFixture) -> None:
    fixture.check()
    os.rename(fixture.root, f"{fixture.root}.before")
    os.mkdir(fixture.root)
    write(f"{fixture.root}/a.mp4")
    assert fixture.check() == ["observer_unavailable"]
    assert fixture.check() == ["root_taken_up", "observer_restarted"]


def test_an_observer_that_died_is_started_again_and_everything_scanned(
    fixture: ObserverSupervisorFixture,
) -> None:
    fixture.check()
    watches = fixture.observer._watches
    assert watches is not None
    watches.stop()
    watches.join(5)
    assert fixture.check() == ["observer_restarted"]
    assert (fixture.scans, fixture.returns) == (1, 0)
    assert fixture.observer.is_alive()


def test_a_root_that_cannot_be_watched_is_watched_as_soon_as_it_can_be(
    fixture: ObserverSupervisorFixture,
) -> None:
    fixture.refuses = True
    assert fixture.check() == ["observer_unavailable"]
    assert fixture.check() == []
    assert "cannot be watched" in fixture.observer_supervisor.failure_reason
    assert fixture.sample("root_available") == 1
    fixture.refuses = False
    assert fixture.check() == ["observer_restarted"]
    assert (fixture.scans, fixture.observer_supervisor.failure_reason) == (1, "")


def test_exhausted_watches_are_reported_until_there_are_some_and_then_a_scan_follows(
    fixture: ObserverSupervisorFixture,
) -> None:
    os.mkdir(f"{fixture.root}/x")
    fixture.check()
    fixture.refuses = True
    fixture.observer.watch("x")
    fixture.refuses = False
    assert "1 directories are not watched" in fixture.observer_supervisor.failure_reason
    assert "max_user_watches" in fixture.observer_supervisor.failure_reason
    fixture.check()
    assert (fixture.scans, fixture.observer_supervisor.failure_reason) == (1, "")


def test_it_checks_at_once_when_it_starts_and_ends_when_it_is_stopped(
    fixture: ObserverSupervisorFixture,
) -> None:
    fixture.observer_supervisor.start()
    assert fixture.observer.is_alive()
