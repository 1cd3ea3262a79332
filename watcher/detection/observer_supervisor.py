"""Keeps the directory watched: whatever becomes of it, somebody notices within seconds and says so.

The kernel tells nobody that a directory was replaced or that events ran out; so this looks, every few
seconds, in a thread of its own, because a look at a dead file system may take for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from watcher.detection.inotify import HINT
from watcher.detection.observer import TreeObserver
from watcher.filesystem.openat import RootUnavailableError
from watcher.filesystem.tree import Tree
from watcher.supervision.liveness import Liveness
from watcher.supervision.workers import join_all
from watcher.telemetry.metrics import Metrics

log = structlog.get_logger()

LOOK_SECONDS = 2.0
PATIENCE_SECONDS = 120.0
"""A look that takes longer hangs in a file system that does not answer."""


class ObserverSupervisor:
    """Starts the observer, also again after it lost its directory; without it the scans have to do.

    `scan_everything` asks for a full scan; `root_returned` is called when the directory can be used again,
    or another one was taken up in its place.
    """

    def __init__(
        self,
        tree: Tree,
        observer: TreeObserver,
        *,
        scan_everything: Callable[[], None],
        root_returned: Callable[[], None],
        liveness: Liveness,
        metrics: Metrics,
    ) -> None:
        self._tree = tree
        self._observer = observer
        self._scan_everything = scan_everything
        self._root_returned = root_returned
        self._liveness = liveness
        self._metrics = metrics
        self._stopping = threading.Event()
        self._trouble = ""
        self._is_root_away = False
        self._has_looked = False
        self._thread = threading.Thread(target=self._look_until_stopped, name="watchman", daemon=True)

    @property
    def trouble(self) -> str:
        """What keeps events from arriving at present, in a sentence; empty if all of them do."""
        if self._trouble:
            return self._trouble
        if unwatched := self._observer.unwatched:
            return f"{unwatched} directories are not watched, for inotify watches ran out. {HINT}"
        return ""

    def start(self) -> None:
        """Look once, here and now, and then every few seconds."""
        self.look()
        self._thread.start()
        self._liveness.add_check("watchman", lambda: self._stopping.is_set() or self._thread.is_alive())

    def request_stop(self) -> None:
        """Stop looking."""
        self._stopping.set()

    def join(self, timeout: float) -> bool:
        """Wait so many seconds for the thread to end and stop the observer; False if it goes on."""
        has_ended = join_all([self._thread], timeout)
        self._observer.stop(timeout)
        return has_ended

    def look(self) -> None:
        """Make sure of the root and of the observer, and mend what can be mended."""
        try:
            self._make_sure_of_root()
            is_new_life = self._start_observer()
        except RootUnavailableError as exc:
            self._metrics.root_available.set(0)
            self._is_root_away = True
            self._fail(str(exc), "Nothing that is missing is believed gone; it goes on by itself.")
        except OSError as exc:
            self._fail(
                str(exc),
                "New files are found by the scans alone; if watches ran out, raise "
                "fs.inotify.max_user_watches, if instances did, fs.inotify.max_user_instances.",
            )
        else:
            self._succeed(is_new_life=is_new_life)

    def _make_sure_of_root(self) -> None:
        is_another = self._tree.adopt_root()
        self._metrics.root_available.set(1)
        if is_another:
            log.warning("root_taken_up", directory=self._tree.root)
            self._observer.stop()
        if is_another or self._is_root_away:
            self._is_root_away = False
            self._root_returned()

    def _start_observer(self) -> bool:
        """Start the observer if it does not live. Returns whether it had to be."""
        if self._observer.is_alive():
            return False
        self._observer.stop()
        self._observer.start()
        return True

    def _fail(self, reason: str, hint: str) -> None:
        trouble = f"The directory cannot be watched: {reason}"
        if trouble != self._trouble:
            log.error("observer_unavailable", reason=reason, hint=hint)
        self._trouble = trouble
        self._has_looked = True

    def _succeed(self, *, is_new_life: bool) -> None:
        if self._trouble or (is_new_life and self._has_looked):
            self._metrics.observer_restarts.inc()
            log.warning("observer_restarted")
            self._scan_everything()
        elif self._observer.retry_unwatched():
            self._scan_everything()
        self._trouble = ""
        self._has_looked = True

    def _look_until_stopped(self) -> None:
        pulse = self._liveness.pulse("watchman", PATIENCE_SECONDS)
        while True:
            pulse.idle()
            if self._stopping.wait(LOOK_SECONDS):
                break
            pulse.beat()
            self.look()
        pulse.stop()
