"""The HTTP server over an application whose threads do not run: a test makes the state that it shows."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

from prometheus_client import CollectorRegistry

from tests.support.harness import Harness
from tests.support.ports import free_address
from watcher import http
from watcher.app import Daemon, SoleInstance
from watcher.app.status_report import DaemonStatus
from watcher.supervision.sd_notify import SystemdNotifier


@dataclass(frozen=True)
class ServedSite:
    """A running server: where it is, and what it tells of."""

    address: str
    harness: Harness
    status: DaemonStatus

    def get(self, path: str) -> str:
        """The body of an answer that is no error."""
        with urlopen(f"http://{self.address}{path}", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def report(self, phase: str = "running") -> None:
        """Do what the daemon does every five seconds."""
        self.harness.app.ledger.heartbeat(self.status.report(phase))


@contextmanager
def serving(registry: CollectorRegistry, address: str | None = None) -> Iterator[str]:
    """Serve nothing but metrics; yields the address."""
    address = address or free_address()
    source: Any = SimpleNamespace(registry=registry)
    site = http.Site(source)
    with http.HttpServer(http.make_application(site, address), address, close=site.live.close):
        yield address


@contextmanager
def served_site(
    harness: Harness, *, hosts: tuple[str, ...] = (), address: str | None = None
) -> Iterator[ServedSite]:
    """Serve the application of a harness on a free port."""
    app = harness.app
    daemon = Daemon(
        app,
        sole_instance=SoleInstance(app.ledger, app.context.metrics),
        notifier=SystemdNotifier(None),
        signals=queue.SimpleQueue(),
        reload_settings=lambda: app.settings,
    )
    daemon.status.register_gauges()
    daemon.status.phase = "running"
    address = address or free_address()
    site = http.Site(http.Source(app, daemon.status))
    with http.HttpServer(http.make_application(site, address, hosts), address, close=site.live.close):
        yield ServedSite(address, harness, daemon.status)
