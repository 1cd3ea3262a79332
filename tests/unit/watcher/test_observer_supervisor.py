"""Changes of the watched directory and of the observer are found, logged and repaired, without the thread."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from watcher.detection.inotify import add_watch
from watcher.detection.observer import TreeObserver
from watcher.detection.observer_supervisor import ObserverSupervisor
from watcher.filesystem.tree import Tree
from watcher.supervision.background_thread import Supervisor
from watcher.telemetry.metrics import Metrics


@dataclass
class Stand:
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
            notice_file=lambda _: None,
            notice_directory=lambda _: None,
            lost_events=lambda: None,
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
def stand(place: str) -> Iterator[Stand]:
    os.mkdir(f"{place}/root")
    stand = Stand(f"{place}/root")
    yield stand
    stand.observer_supervisor.request_stop()
    assert stand.observer_supervisor.join(5)
    assert not stand.observer.is_alive()


def write(path: str) -> None:
    with open(path, "wb") as file:
        file.write(b"x")


def test_nothing_is_logged_in_normal_operation(stand: Stand) -> None:
    assert [stand.check(), stand.check()] == [[], []]
    assert stand.observer_supervisor.failure_reason == ""
    assert (stand.scans, stand.returns) == (0, 0)
    assert stand.sample("root_available") == 1
    assert stand.sample("observer_restarts_total") == 0


def test_a_root_that_is_deleted_and_made_again_is_watched_again_once_it_is_not_empty(stand: Stand) -> None:
    stand.check()
    os.rename(stand.root, f"{stand.root}.deleted")
    assert stand.check() == ["observer_unavailable"]
    assert stand.check() == []
    assert "No such file" in stand.observer_supervisor.failure_reason
    assert stand.sample("root_available") == 0
    os.mkdir(stand.root)
    assert stand.check() == ["observer_unavailable"]
    assert stand.check() == []
    assert "empty" in stand.observer_supervisor.failure_reason
    write(f"{stand.root}/a.mp4")
    assert (stand.scans, stand.returns) == (0, 0)
    assert stand.check() == ["root_taken_up", "observer_restarted"]
    assert (stand.scans, stand.returns) == (1, 1)
    assert stand.observer_supervisor.failure_reason == ""
    assert stand.sample("root_available") == 1
    assert stand.sample("observer_restarts_total") == 1
    assert stand.observer.is_alive()
    assert stand.check() == []


def test_the_same_root_that_comes_back_is_scanned(stand: Stand) -> None:
    stand.check()
    os.rename(stand.root, f"{stand.root}.away")
    stand.check()
    os.rename(f"{stand.root}.away", stand.root)
    assert stand.check() == ["observer_restarted"]
    assert (stand.scans, stand.returns) == (1, 1)


def test_a_root_that_is_replaced_between_two_checks_is_found(stand: Stand) -> None:
    stand.check()
    os.rename(stand.root, f"{stand.root}.before")
    os.mkdir(stand.root)
    write(f"{stand.root}/a.mp4")
    assert stand.check() == ["observer_unavailable"]
    assert stand.check() == ["root_taken_up", "observer_restarted"]


def test_an_observer_that_died_is_started_again_and_everything_scanned(stand: Stand) -> None:
    stand.check()
    watches = stand.observer._watches
    assert watches is not None
    watches.stop()
    watches.join(5)
    assert stand.check() == ["observer_restarted"]
    assert (stand.scans, stand.returns) == (1, 0)
    assert stand.observer.is_alive()


def test_a_root_that_cannot_be_watched_is_watched_as_soon_as_it_can_be(stand: Stand) -> None:
    stand.refuses = True
    assert stand.check() == ["observer_unavailable"]
    assert stand.check() == []
    assert "cannot be watched" in stand.observer_supervisor.failure_reason
    assert stand.sample("root_available") == 1
    stand.refuses = False
    assert stand.check() == ["observer_restarted"]
    assert (stand.scans, stand.observer_supervisor.failure_reason) == (1, "")


def test_exhausted_watches_are_reported_until_there_are_some_and_then_a_scan_follows(stand: Stand) -> None:
    os.mkdir(f"{stand.root}/x")
    stand.check()
    stand.refuses = True
    stand.observer.watch("x")
    stand.refuses = False
    assert "1 directories are not watched" in stand.observer_supervisor.failure_reason
    assert "max_user_watches" in stand.observer_supervisor.failure_reason
    stand.check()
    assert (stand.scans, stand.observer_supervisor.failure_reason) == (1, "")


def test_it_checks_at_once_when_it_starts_and_ends_when_it_is_stopped(stand: Stand) -> None:
    stand.observer_supervisor.start()
    assert stand.observer.is_alive()
