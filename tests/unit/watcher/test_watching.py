"""What becomes of the watched directory is noticed, said, and mended; no test waits for the thread."""

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
from watcher.supervision.liveness import Liveness
from watcher.telemetry.metrics import Metrics


@dataclass
class Stand:
    """A watchman over a real directory and a real observer; the kernel refuses watches while `refuses`."""

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
            scan_everything=self._scan,
            root_returned=self._return,
            liveness=Liveness(),
            metrics=self.metrics,
        )

    def look(self) -> list[str]:
        """Have the watchman look; returns what was logged."""
        with capture_logs() as logs:
            self.observer_supervisor.look()
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


def test_nothing_is_said_while_all_is_well(stand: Stand) -> None:
    assert [stand.look(), stand.look()] == [[], []]
    assert stand.observer_supervisor.trouble == ""
    assert (stand.scans, stand.returns) == (0, 0)
    assert stand.sample("root_available") == 1
    assert stand.sample("observer_restarts_total") == 0


def test_a_root_that_is_deleted_and_made_again_is_watched_again_once_it_is_not_empty(stand: Stand) -> None:
    stand.look()
    os.rename(stand.root, f"{stand.root}.deleted")
    assert stand.look() == ["observer_unavailable"]
    assert stand.look() == []
    assert "No such file" in stand.observer_supervisor.trouble
    assert stand.sample("root_available") == 0
    os.mkdir(stand.root)
    assert stand.look() == ["observer_unavailable"]
    assert stand.look() == []
    assert "empty" in stand.observer_supervisor.trouble
    write(f"{stand.root}/a.mp4")
    assert (stand.scans, stand.returns) == (0, 0)
    assert stand.look() == ["root_taken_up", "observer_restarted"]
    assert (stand.scans, stand.returns) == (1, 1)
    assert stand.observer_supervisor.trouble == ""
    assert stand.sample("root_available") == 1
    assert stand.sample("observer_restarts_total") == 1
    assert stand.observer.is_alive()
    assert stand.look() == []


def test_the_same_root_that_comes_back_is_scanned(stand: Stand) -> None:
    stand.look()
    os.rename(stand.root, f"{stand.root}.away")
    stand.look()
    os.rename(f"{stand.root}.away", stand.root)
    assert stand.look() == ["observer_restarted"]
    assert (stand.scans, stand.returns) == (1, 1)


def test_a_root_that_is_exchanged_between_two_looks_is_noticed(stand: Stand) -> None:
    stand.look()
    os.rename(stand.root, f"{stand.root}.before")
    os.mkdir(stand.root)
    write(f"{stand.root}/a.mp4")
    assert stand.look() == ["observer_unavailable"]
    assert stand.look() == ["root_taken_up", "observer_restarted"]


def test_an_observer_that_died_is_started_again_and_everything_scanned(stand: Stand) -> None:
    stand.look()
    watches = stand.observer._watches
    assert watches is not None
    watches.stop()
    watches.join(5)
    assert stand.look() == ["observer_restarted"]
    assert (stand.scans, stand.returns) == (1, 0)
    assert stand.observer.is_alive()


def test_without_a_watch_for_the_root_scans_have_to_do_until_there_is_one(stand: Stand) -> None:
    stand.refuses = True
    assert stand.look() == ["observer_unavailable"]
    assert stand.look() == []
    assert "cannot be watched" in stand.observer_supervisor.trouble
    assert stand.sample("root_available") == 1
    stand.refuses = False
    assert stand.look() == ["observer_restarted"]
    assert (stand.scans, stand.observer_supervisor.trouble) == (1, "")


def test_watches_that_ran_out_are_a_trouble_until_there_is_room_and_then_a_scan(stand: Stand) -> None:
    os.mkdir(f"{stand.root}/x")
    stand.look()
    stand.refuses = True
    stand.observer.watch("x")
    stand.refuses = False
    assert "1 directories are not watched" in stand.observer_supervisor.trouble
    assert "max_user_watches" in stand.observer_supervisor.trouble
    stand.look()
    assert (stand.scans, stand.observer_supervisor.trouble) == (1, "")


def test_it_looks_at_once_when_it_starts_and_ends_when_it_is_told_to(stand: Stand) -> None:
    stand.observer_supervisor.start()
    assert stand.observer.is_alive()
