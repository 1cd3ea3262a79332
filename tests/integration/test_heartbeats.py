"""How often the daemon writes its status into the ledger."""

from __future__ import annotations

import queue
import signal
from collections.abc import Callable, Mapping
from typing import Any

from db import JSON, Steering
from tests.support.harness import MakeHarness
from watcher.app.daemon import HEARTBEAT_SECONDS, IDLE_HEARTBEAT_SECONDS, Daemon
from watcher.app.sole_instance import SoleInstance
from watcher.supervision.sd_notify import SystemdNotifier


class Rounds(queue.SimpleQueue[int]):
    """No signal in so many rounds of the main loop, whose times pass at once; then SIGTERM."""

    def __init__(self, now: list[float], then: list[Callable[[], object]]) -> None:
        self._now = now
        self._then = then

    def get(self, block: bool = True, timeout: float | None = None) -> int:
        self._now[0] += timeout or 0.0
        if not self._then:
            return signal.SIGTERM
        self._then.pop(0)()
        raise queue.Empty


class Recorded(SoleInstance):
    """Writes heartbeats, and keeps when."""

    def heartbeat(self, report: Mapping[str, JSON]) -> None:
        super().heartbeat(report)
        self.beats.append(self.clock())

    beats: list[float]


def beats_of(make_harness: MakeHarness, then: Callable[[Any], list[Callable[[], object]]]) -> list[float]:
    """When heartbeats were written while the main loop ran, one round after the other."""
    app, now = make_harness().app, [0.0]
    sole_instance = Recorded(app.ledger, app.context.metrics, clock=lambda: now[0])
    sole_instance.beats = []
    daemon = Daemon(
        app,
        sole_instance=sole_instance,
        notifier=SystemdNotifier(None),
        signals=Rounds(now, then(app)),
        reload_settings=lambda: app.settings,
        clock=lambda: now[0],
    )
    with app.context.database.session():
        daemon._main_loop()
    return sole_instance.beats


def test_an_idle_daemon_says_half_as_often_that_nothing_has_changed(make_harness: MakeHarness) -> None:
    beats = beats_of(make_harness, lambda _: [lambda: None] * 6)
    assert beats == [0.0, 10.0, 20.0, 30.0]
    assert IDLE_HEARTBEAT_SECONDS == 2 * HEARTBEAT_SECONDS


def test_what_has_changed_is_in_the_ledger_after_five_seconds(make_harness: MakeHarness) -> None:
    def then(app: Any) -> list[Callable[[], object]]:
        return [lambda: app.context.metrics.bytes_sent.inc(10**6)] + [lambda: None] * 2

    beats = beats_of(make_harness, then)
    assert beats[:2] == [0.0, 5.0]


def test_what_a_command_has_written_is_told_from_a_copy_after_five_seconds(
    make_harness: MakeHarness,
) -> None:
    def then(app: Any) -> list[Callable[[], object]]:
        return [lambda: Steering(app.ledger).hold("a.mp4"), *[lambda: None] * 4]

    beats = beats_of(make_harness, then)
    assert beats == [0.0, 5.0, 15.0, 25.0]
