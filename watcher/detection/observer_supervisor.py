"""Keeps the directory watched: checks the root and the observer every few seconds and restarts the observer.

The kernel reports neither that a directory was replaced nor that inotify watches are available again. The
checks run in a thread of their own, because a call to an unresponsive file system may block for ever.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from watcher.detection.inotify import WATCHES_HINT
from watcher.detection.observer import TreeObserver
from watcher.filesystem import RootUnavailableError, Tree
from watcher.supervision.background_thread import Supervisor, Worker
from watcher.telemetry import Metrics

log = structlog.get_logger()

CHECK_SECONDS = 2.0
PATIENCE_SECONDS = 120.0
"""A check that takes longer is blocked by a file system that does not answer."""


class ObserverSupervisor(Worker):
    """Starts the observer and restarts it after it lost its directory; until then only scans find new files.

    `request_full_scan` is called after a restart; `root_returned` when the directory is available again, or
    was replaced by another one.
    """

    def __init__(
        self,
        tree: Tree,
        observer: TreeObserver,
        *,
        request_full_scan: Callable[[], None],
        root_returned: Callable[[], None],
        supervisor: Supervisor,
        metrics: Metrics,
    ) -> None:
        super().__init__(supervisor, "observer supervisor")
        self._tree = tree
        self._observer = observer
        self._request_full_scan = request_full_scan
        self._root_returned = root_returned
        self._metrics = metrics
        self._failure_reason = ""
        self._is_root_away = False
        self._was_checked = False
        self.add_thread("observer supervisor", self._step, patience=PATIENCE_SECONDS)

    @property
    def failure_reason(self) -> str:
        """Why events do not arrive at present, as a sentence; empty if all of them do."""
        if self._failure_reason:
            return self._failure_reason
        if unwatched := self._observer.unwatched:
            return f"{unwatched} directories are not watched, for inotify watches ran out. {WATCHES_HINT}"
        return ""

    def start(self) -> None:
        """Check once in the calling thread, and then every few seconds in a thread of its own."""
        self.check()
        super().start()

    def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the thread to end, then stop the observer within as many."""
        has_ended = super().join(timeout)
        self._observer.stop(timeout)
        return has_ended

    def check(self) -> None:
        """Check the root and the observer, and restart the observer if it is not alive."""
        try:
            self._check_root()
            was_started = self._start_observer()
        except RootUnavailableError as exc:
            self._metrics.root_available.set(0)
            self._is_root_away = True
            self._fail(
                str(exc), "Its files count as unknown, not as gone. Work resumes when the directory is back."
            )
        except OSError as exc:
            self._fail(
                str(exc),
                "Only scans find new files. If inotify watches ran out, raise fs.inotify.max_user_watches; "
                "if instances did, fs.inotify.max_user_instances.",
            )
        else:
            self._succeed(was_started=was_started)

    def _check_root(self) -> None:
        was_replaced = self._tree.adopt_root()
        self._metrics.root_available.set(1)
        if was_replaced:
            log.warning("root_taken_up", directory=self._tree.root)
            self._observer.stop()
        if was_replaced or self._is_root_away:
            self._is_root_away = False
            self._root_returned()

    def _start_observer(self) -> bool:
        """Start the observer if it is not alive; returns whether it was started."""
        if self._observer.is_alive():
            return False
        self._observer.stop()
        self._observer.start()
        return True

    def _fail(self, reason: str, hint: str) -> None:
        failure_reason = f"The directory cannot be watched: {reason}"
        if failure_reason != self._failure_reason:
            log.error("observer_unavailable", reason=reason, hint=hint)
        self._failure_reason = failure_reason
        self._was_checked = True

    def _succeed(self, *, was_started: bool) -> None:
        if self._failure_reason or (was_started and self._was_checked):
            self._metrics.observer_restarts.inc()
            log.warning("observer_restarted")
            self._request_full_scan()
        elif self._observer.retry_unwatched():
            self._request_full_scan()
        self._failure_reason = ""
        self._was_checked = True

    def _step(self) -> float:
        self.check()
        return CHECK_SECONDS
