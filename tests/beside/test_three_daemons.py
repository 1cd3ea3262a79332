"""Three daemons on one directory, one killed every few seconds: everything arrives, hardly anything twice."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest

from tests.beside.platform import AWKWARD_NAMES, QUALITIES, Platform, wait_until
from tests.beside.verdict import problems, rows_of, unfinished
from tests.support.daemon_process import DaemonProcess, running_daemon
from watcher.settings.model import Settings

pytestmark = pytest.mark.timeout(400)

DAEMONS = 3
CLAIM_SECONDS = 5
KILL_EVERY_SECONDS = 4.0
FEWEST_KILLS = 5
PATIENCE_SECONDS = 240.0


@dataclass
class Crew:
    """The daemons, and when one of them was killed."""

    platform: Platform
    stack: ExitStack
    running: list[DaemonProcess] = field(default_factory=list)
    killed_at: list[float] = field(default_factory=list)

    def settings(self, number: int) -> Settings:
        return self.platform.settings(
            SHARED_DIRECTORY=True, INSTANCE_ID=f"daemon-{number}", CLAIM_SECONDS=CLAIM_SECONDS
        )

    def start(self, number: int) -> DaemonProcess:
        log = str(self.platform.directory / f"daemon-{number}.log")
        return self.stack.enter_context(running_daemon(self.settings(number), log=log))

    def kill_if_time(self) -> None:
        """Kill the next one in turn, and start it again."""
        if self.killed_at and time.monotonic() - self.killed_at[-1] < KILL_EVERY_SECONDS:
            return
        number = len(self.killed_at) % DAEMONS
        self.running[number].signal(signal.SIGKILL)
        self.running[number].process.wait(10)
        self.killed_at.append(time.monotonic())
        self.running[number] = self.start(number)

    def kills_during(self, key: str) -> int:
        """How many kills an object went through, from the first byte of it to its last completion."""
        first, last = self.platform.asked_at[key], self.platform.appeared_at[key][-1]
        return sum(first <= killed <= last for killed in self.killed_at)


@contextmanager
def crew_of(platform: Platform) -> Iterator[Crew]:
    with ExitStack() as stack:
        crew = Crew(platform, stack)
        crew.running = [crew.start(number) for number in range(DAEMONS)]
        yield crew
        for daemon in crew.running:
            daemon.signal(signal.SIGTERM)
        assert [daemon.wait() for daemon in crew.running] == [0] * DAEMONS


def test_kills_lose_nothing_and_double_hardly_anything(platform: Platform) -> None:
    """An object is completed once, and once more for each kill that it went through, at most."""
    videos = [*platform.videos(AWKWARD_NAMES[1:]), platform.large_video("large.mov", seconds=2)]
    with crew_of(platform) as crew, platform.compressing(videos, "--delay", "ready=0.3") as compression:

        def is_over() -> bool:
            if compression.process.poll() is None or len(crew.killed_at) < FEWEST_KILLS:
                crew.kill_if_time()
                return False
            return not unfinished(platform, crew.settings(0).ledger_instance)

        try:
            wait_until(
                is_over, PATIENCE_SECONDS, lambda: unfinished(platform, crew.settings(0).ledger_instance)
            )
        except subprocess.TimeoutExpired:
            pytest.fail("a daemon survived SIGKILL")
        assert len(compression.outcomes()) == len(videos) * (len(QUALITIES) + 1)
        assert problems(platform) == []
    assert {row.status for row in rows_of(platform)} == {"ready"}
    doubled = {
        key: (count, crew.kills_during(key))
        for key, count in platform.completions.items()
        if count > 1 + crew.kills_during(key)
    }
    completions = platform.completions
    print(f"{len(crew.killed_at)} kills, {sum(completions.values()) - len(completions)} doubled")
    assert doubled == {}
