"""Waits until nothing is left to upload or publish, for `drain`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from db import Left, Pause
from watcher.telemetry.formatting import describe_pause

POLL_SECONDS = 1.0
"""Between two looks at the ledger."""
PATIENCE_SECONDS = 30.0
"""How long no daemon may run, without a timeout: one that is restarted is back by then."""


class View(NamedTuple):
    """One look: what is left, and whether anything will become of it."""

    left: Left
    has_daemon: bool
    pause: Pause | None

    @property
    def reason(self) -> str:
        """Why nothing will be uploaded by itself, as the end of a sentence; empty if something will."""
        if not self.has_daemon:
            return "no daemon runs that could upload them."
        if self.pause and self.left.pending:
            return f"uploads are paused {describe_pause(self.pause)}."
        return ""


def wait_until_drained(
    look: Callable[[], View],
    *,
    timeout: float | None,
    show: Callable[[View], None] = lambda _: None,
    wait: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> View:
    """Look every second until nothing moves any more or waiting is in vain; returns the last view.

    A `timeout` in seconds is the only limit if there is one: a pause may be lifted, and a daemon be started,
    before it is over. Without one, a pause ends the wait at once, because only a person lifts it, and the
    absence of every daemon after `PATIENCE_SECONDS`. `show` is given what is waited for.
    """
    began = clock()
    seen_at = began
    while True:
        view, now = look(), clock()
        if view.has_daemon:
            seen_at = now
        if timeout is not None:
            rest = began + timeout - now
        elif view.has_daemon:
            rest = 0.0 if view.reason else POLL_SECONDS
        else:
            rest = seen_at + PATIENCE_SECONDS - now
        if not view.left.moving or rest <= 0:
            return view
        show(view)
        wait(min(POLL_SECONDS, rest))
