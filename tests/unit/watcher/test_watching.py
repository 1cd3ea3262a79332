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
class ObserverSupervisorFixture:
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


def test_nothing_is_said_while_all_is_well(fixture: ObserverSupervisorFixture) -> None:
    assert [fixture.look(), fixture.look()] == [[], []]
    assert fixture.observer_supervisor.trouble == ""
    assert (fixture.scans, fixture.returns) == (0, 0)
    assert fixture.sample("root_available") == 1
    assert fixture.sample("observer_restarts_total") == 0


def test_a_root_that_is_deleted_and_made_again_is_watched_again_once_it_is_not_empty(
    fixture: ObserverSupervisorFixture,
) -> None:
    fixture.look()
    os.rename(fixture.root, f"{fixture.root}.deleted")
    assert fixture.look() == ["observer_unavailable"]
    assert fixture.look() == []
    assert "No such file" in fixture.observer_supervisor.trouble
    assert fixture.sample("root_available") == 0
    os.mkdir(fixture.root)
    assert fixture.look() == ["observer_unavailable"]
    assert fixture.look() == []
    assert "empty" in fixture.observer_supervisor.trouble
    write(f"{fixture.root}/a.mp4")
    assert (fixture.scans, fixture.returns) == (0, 0)
    assert fixture.look() == ["root_taken_up", "observer_restarted"]
    assert (fixture.scans, fixture.returns) == (1, 1)
    assert fixture.observer_supervisor.trouble == ""
    assert fixture.sample("root_available") == 1
    assert fixture.sample("observer_restarts_total") == 1
    assert fixture.observer.is_alive()
    assert fixture.look() == []


def test_the_same_root_that_comes_back_is_scanned(fixture: ObserverSupervisorFixture) -> None:
    fixture.look()
    os.rename(fixture.root, f"{fixture.root}.away")
    fixture.look()
    os.rename(f"{fixture.root}.away", fixture.root)
    assert fixture.look() == ["observer_restarted"]
    assert (fixture.scans, fixture.returns) == (1, 1)


def test_a_root_that_is_exchanged_between_two_looks_is_noticed(fixture: ObserverSupervisorFixture) -> None:
    fixture.look()
    os.rename(fixture.root, f"{fixture.root}.before")
    os.mkdir(fixture.root)
    write(f"{fixture.root}/a.mp4")
    assert fixture.look() == ["observer_unavailable"]
    assert fixture.look() == ["root_taken_up", "observer_restarted"]


def test_an_observer_that_died_is_started_again_and_everything_scanned(
    fixture: ObserverSupervisorFixture,
) -> None:
    fixture.look()
    watches = fixture.observer._watches
    assert watches is not None
    watches.stop()
    watches.join(5)
    assert fixture.look() == ["observer_restarted"]
    assert (fixture.scans, fixture.returns) == (1, 0)
    assert fixture.observer.is_alive()


def test_without_a_watch_for_the_root_scans_have_to_do_until_there_is_one(
    fixture: ObserverSupervisorFixture,
) -> None:
    fixture.refuses = True
    assert fixture.look() == ["observer_unavailable"]
    assert fixture.look() == []
    assert "cannot be watched" in fixture.observer_supervisor.trouble
    assert fixture.sample("root_available") == 1
    fixture.refuses = False
    assert fixture.look() == ["observer_restarted"]
    assert (fixture.scans, fixture.observer_supervisor.trouble) == (1, "")


def test_watches_that_ran_out_are_a_trouble_until_there_is_room_and_then_a_scan(
    fixture: ObserverSupervisorFixture,
) -> None:
    os.mkdir(f"{fixture.root}/x")
    fixture.look()
    fixture.refuses = True
    fixture.observer.watch("x")
    fixture.refuses = False
    assert "1 directories are not watched" in fixture.observer_supervisor.trouble
    assert "max_user_watches" in fixture.observer_supervisor.trouble
    fixture.look()
    assert (fixture.scans, fixture.observer_supervisor.trouble) == (1, "")


def test_it_looks_at_once_when_it_starts_and_ends_when_it_is_told_to(
    fixture: ObserverSupervisorFixture,
) -> None:
    fixture.observer_supervisor.start()
    assert fixture.observer.is_alive()
