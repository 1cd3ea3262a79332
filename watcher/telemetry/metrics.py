"""Metrics for Prometheus: counters of this process, and gauges that read the ledger when scraped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from wsgiref.simple_server import WSGIServer

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

log = structlog.get_logger()

CATALOG_GAUGES = {
    "awaiting_row_uploads": "Finished files that wait for their catalog row.",
    "overdue_row_uploads": "Those that have waited for longer than CATALOG_ROW_TIMEOUT.",
    "orphan_objects": "Objects whose catalog rows were deleted, as of the last check.",
    "orphans_doubted": "1 while the catalog has lost so many rows that no object is deleted.",
}

DIRECTORY_GAUGES = {
    "watched_directories": "Directories watched for events.",
    "unwatched_directories": "Directories that cannot be watched; only scans find their new files.",
    "unreadable_directories": "Directories that the last scan could not read.",
}

NAMESPACE = "video_uploader"
SECONDS_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 43200)


class Metrics:
    """The metrics of one daemon, in a registry of their own; names are documented in the README."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, namespace=NAMESPACE, registry=self.registry)
        gauge = partial(Gauge, namespace=NAMESPACE, registry=self.registry)
        self.bytes_sent = counter("sent_bytes", "Bytes that S3 has accepted, repeated ones included.")
        self.confirmed = counter("confirmed_uploads", "Uploads confirmed, by what proved them.", ["by"])
        self.adopted = counter("adopted_uploads", "Uploads whose object was there already.")
        self.published = counter("published_uploads", "Uploads published.")
        self.republished = counter(
            "republished_rows",
            "Catalog rows whose public URL was restored after another URL had replaced it.",
        )
        self.released = counter("released_bytes", "Bytes of deleted local copies.")
        self.released_early = counter(
            "released_early_bytes", "Bytes of local copies deleted before the end of their retention."
        )
        self.disk_used = gauge(
            "disk_used_ratio", "How full the watched directory's file system is, from 0 to 1."
        )
        self.disk_pressure = gauge(
            "disk_pressure", "1 while the file system is fuller than DISK_PRESSURE_PERCENT."
        )
        self.upload_seconds = Histogram(
            "upload_seconds",
            "From the first byte sent to the confirmation.",
            namespace=NAMESPACE,
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.setbacks = counter("setbacks", "Failed attempts, by stage and kind of error.", ["stage", "kind"])
        self.invalidated = counter("invalidated_paths", "Paths whose invalidation the CDN has accepted.")
        self.scans = counter("scans", "Scans completed.", ["scope"])
        self.scan_seconds = gauge("scan_seconds", "Duration of the last full scan.")
        self.found_by_scan = counter("found_by_scan_files", "New files found by a scan before any event.")
        self.root_available = gauge("root_available", "1 while the watched directory is available.")
        self.observer_restarts = counter(
            "observer_restarts", "Times the observer of the directory was restarted."
        )
        self.events_lost = counter("event_queue_overflows", "Times the kernel's event queue overflowed.")
        self.instance_conflict = gauge(
            "instance_conflict", "1 while another daemon writes heartbeats under the same INSTANCE_ID."
        )
        self.internal_errors = counter(
            "internal_errors",
            "Unforeseen exceptions that restarted a thread or set one file or row aside.",
            ["thread"],
        )


@dataclass(frozen=True, eq=False)
class LedgerGauges(Collector):
    """Gauges that are read at each scrape; a source that returns nothing gives no samples.

    The keys of `catalog` are those of `CATALOG_GAUGES`, of `directories` those of `DIRECTORY_GAUGES`.
    """

    counts: Callable[[], Mapping[str, int]]
    settling: Callable[[], int]
    paused: Callable[[], Mapping[str, bool]]
    catalog: Callable[[], Mapping[str, int]]
    directories: Callable[[], Mapping[str, int]] = dict

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the families of one scrape."""
        yield _labelled("uploads", "Ledger rows by state.", "state", self.counts())
        yield _gauge("settling_files", "Files not known to be complete yet.", self.settling())
        yield _labelled(
            "stage_paused", "1 while an environment error pauses a stage.", "stage", self.paused()
        )
        for name, number in self.catalog().items():
            yield _gauge(name, CATALOG_GAUGES[name], number)
        for name, number in self.directories().items():
            yield _gauge(name, DIRECTORY_GAUGES[name], number)


def _gauge(name: str, description: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{NAMESPACE}_{name}", description, value=value)


def _labelled(name: str, description: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"{NAMESPACE}_{name}", description, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


class MetricsServer:
    """Serves `/metrics` at an address like ``127.0.0.1:9108``; with an empty address it does nothing."""

    def __init__(self, metrics: Metrics, address: str) -> None:
        self._metrics = metrics
        self._address = address
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to serve. An address that cannot be bound is only a warning: uploads matter more."""
        if not self._address:
            return
        host, _, port = self._address.rpartition(":")
        try:
            self._server, self._thread = start_http_server(
                int(port), host.strip("[]"), registry=self._metrics.registry
            )
        except (OSError, UnicodeError) as exc:
            # A host name that cannot be encoded in IDNA raises UnicodeError.
            log.warning(
                "metrics_unavailable",
                address=self._address,
                reason=str(exc),
                hint="Set METRICS_ADDRESS to a free host:port, or empty.",
            )

    def stop(self) -> None:
        """Stop serving and close the port."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = self._thread = None
