"""Metrics for Prometheus: counters of this process, and gauges that read the ledger when scraped."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import product

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

CATALOG_GAUGES = {
    "awaiting_row_uploads": "Finished files that wait for their catalog row.",
    "overdue_row_uploads": "Those that have waited for longer than `CATALOG_ROW_TIMEOUT`.",
    "orphan_objects": "Objects whose catalog rows were deleted, as of the last check.",
    "orphans_doubted": "1 while the catalog has lost so many rows that no object is deleted.",
    "ignored_ready_files": "Files that are ignored although their catalog rows are ready, by the last scan.",
    "missing_ready_files": (
        "Ready catalog rows without a file and without an object, as of the last look (every hour); "
        "`status --ignored` lists them."
    ),
}

DIRECTORY_GAUGES = {
    "watched_directories": "Directories watched for events.",
    "unwatched_directories": "Directories that cannot be watched; only scans find their new files.",
    "unreadable_directories": "Directories that the last scan could not read.",
}

NAMESPACE = "video_uploader"
SECONDS_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 43200)


REQUEST_BUCKETS = (0.05, 0.2, 1, 5, 30)
DATABASE_BUCKETS = (0.005, 0.05, 0.5, 5)
S3_OPERATIONS = (
    *("HeadObject", "PutObject", "ListObjectsV2", "ListMultipartUploads", "DeleteObject"),
    *("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload", "ListParts"),
)
"""Those that are shown from the start."""
DATABASE_OPERATIONS = ("read", "claim", "write")

STAGES = ("upload", "publish", "release", "invalidation")
KINDS = ("transient", "environment", "object")


def total(counter: Counter, **labels: str) -> float:
    """What a counter counts under some labels. Asking its registry would ask all others, and the ledger."""
    samples = (sample for metric in counter.collect() for sample in metric.samples)
    counts = (
        sample.value for sample in samples if sample.name.endswith("_total") and sample.labels == labels
    )
    return next(counts, 0.0)


class Metrics:
    """The metrics of one daemon, in a registry of their own; docs/metrics.md is made from their texts.

    The standard ones of its process are among them (`process_*`). Labelled counters begin at 0.
    """

    def __init__(self) -> None:
        without_created: Callable[[], None] = disable_created_metrics
        without_created()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        counter = partial(Counter, namespace=NAMESPACE, registry=self.registry)
        gauge = partial(Gauge, namespace=NAMESPACE, registry=self.registry)
        build = gauge("build_info", "1; the versions of this program and of Python.", ["version", "python"])
        build.labels(version=version("video-uploader"), python=platform.python_version()).set(1)
        self.bytes_sent = counter("sent_bytes", "Bytes that S3 has accepted, repeated ones included.")
        self.confirmed = counter(
            "confirmed_uploads", "Confirmations, by `checksum`, `etag` or `reading`.", ["by"]
        )
        self.adopted = counter("adopted_uploads", "Uploads whose object already existed.")
        self.published = counter("published_uploads", "Publications.")
        self.published_at = gauge(
            "last_published_timestamp_seconds",
            "When this process published last, in seconds since 1970; 0 while it has not.",
        )
        self.republished = counter(
            "republished_rows",
            "Catalog rows whose public URL was restored after another URL had replaced it.",
        )
        self.released = counter("released_bytes", "Bytes of deleted local copies.")
        self.released_early = counter(
            "released_early_bytes",
            "Bytes of local copies deleted before the end of their retention, because the disk was full.",
        )
        self.disk_used = gauge(
            "disk_used_ratio",
            "Used share of the watched directory's file system, from 0 to 1, as `df` computes it.",
        )
        self.disk_pressure = gauge(
            "disk_pressure", "1 while the file system is fuller than `DISK_PRESSURE_PERCENT`."
        )
        self.upload_seconds = Histogram(
            "upload_seconds",
            "From the first byte sent to the confirmation.",
            namespace=NAMESPACE,
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.publication_seconds = Histogram(
            "publication_seconds",
            "From the last change of a file to the publication of its URL.",
            namespace=NAMESPACE,
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.setbacks = counter(
            "setbacks",
            "Failed attempts, by stage (`invalidation` is one) and kind of error.",
            ["stage", "kind"],
        )
        self.invalidated = counter("invalidated_paths", "Paths whose invalidation the CDN has accepted.")
        self.scans = counter("scans", "Completed scans.", ["scope"])
        self.scan_seconds = gauge("scan_seconds", "Duration of the last full scan.")
        self.found_by_scan = counter("found_by_scan_files", "New files found by a scan before any event.")
        self.root_available = gauge(
            "root_available", "1 while the watched directory is available and trusted."
        )
        self.store_reachable = gauge(
            "store_reachable", "0 while no connection to S3 can be made, or it refuses every request."
        )
        self.store_reachable.set(1)
        self.observer_restarts = counter("observer_restarts", "Restarts of the observer of the directory.")
        self.events_lost = counter("event_queue_overflows", "Times the kernel's event queue overflowed.")
        self.instance_conflict = gauge(
            "instance_conflict", "1 while another daemon uses the same database with the same `INSTANCE_ID`."
        )
        self.internal_errors = counter(
            "internal_errors",
            "Unforeseen errors that restarted a thread, or set one file or row aside.",
            ["thread"],
        )
        self.notifications = counter(
            "notifications",
            "Attempts to tell a receiver (`webhook`, `on_published`, `on_video_complete`) of an event: "
            "`delivered`, `failed`, or `dropped` after three days.",
            ["channel", "outcome"],
        )
        self.thread_restarts = counter(
            "thread_restarts", "Threads restarted after an unforeseen exception.", ["thread"]
        )
        histogram = partial(Histogram, namespace=NAMESPACE, registry=self.registry)
        self._store_seconds = histogram(
            "store_request_seconds",
            "Requests to S3 and their duration, by S3's name of the operation; those that a retry repeats "
            "within a request are one, and public URLs that are fetched are none.",
            ["operation"],
            buckets=REQUEST_BUCKETS,
        )
        self._store_errors = counter(
            "store_request_errors",
            "Requests to S3 without an answer or with an error; a missing object that was looked for and an "
            "unmet condition are none, and neither is a cancelled request.",
            ["operation"],
        )
        self._database_seconds = histogram(
            "database_operation_seconds",
            "What the database was asked for, and for how long: `read`, `claim` (rows for a stage) and "
            "`write` (a transaction, with its commit and what is computed in it).",
            ["operation"],
            buckets=DATABASE_BUCKETS,
        )
        self._database_errors = counter(
            "database_operation_errors", "Operations that the database failed.", ["operation"]
        )
        for operation in S3_OPERATIONS:
            self._store_seconds.labels(operation)
            self._store_errors.labels(operation)
        self._database_seconds_of = {
            operation: self._database_seconds.labels(operation) for operation in DATABASE_OPERATIONS
        }
        for operation in DATABASE_OPERATIONS:
            self._database_errors.labels(operation)
        for by in ("checksum", "etag", "reading"):
            self.confirmed.labels(by=by)
        for stage, kind in product(STAGES, KINDS):
            self.setbacks.labels(stage=stage, kind=kind)
        for scope in ("full", "directory"):
            self.scans.labels(scope=scope)

    def observe_store(self, operation: str, seconds: float, has_failed: bool) -> None:
        """Count a request to S3."""
        self._store_seconds.labels(operation).observe(seconds)
        if has_failed:
            self._store_errors.labels(operation).inc()

    def observe_database(self, operation: str, seconds: float, has_failed: bool) -> None:
        """Count an operation of the database."""
        self._database_seconds_of[operation].observe(seconds)
        if has_failed:
            self._database_errors.labels(operation).inc()


@dataclass(frozen=True, eq=False)
class LedgerGauges(Collector):
    """Gauges that are read at each scrape; a source that returns nothing gives no samples.

    The keys of `catalog` are those of `CATALOG_GAUGES`, of `directories` those of `DIRECTORY_GAUGES`.
    """

    counts: Callable[[], Mapping[str, int]]
    settling: Callable[[], int]
    paused: Callable[[], Mapping[str, bool]]
    catalog: Callable[[], Mapping[str, int]]
    operator_pause: Callable[[], float] = float
    """For how long an operator's pause has lasted, in seconds."""
    directories: Callable[[], Mapping[str, int]] = dict
    set_aside: Callable[[], Mapping[str, int]] = dict
    line: Callable[[], float | None] = lambda: None
    """The rate of the line to S3 in bytes per second; None while unknown."""
    to_hash_again: Callable[[], int] = int
    sizes: Callable[[], Mapping[str, int]] = dict
    oldest: Callable[[], Mapping[str, float]] = dict
    """The age of the oldest upload of each open state in seconds."""
    ignored: Callable[[], Mapping[str, int]] = dict
    success: Callable[[], Mapping[str, float]] = dict
    """The success rate by period; a period in which nothing was decided is missing."""
    notifications: Callable[[], Mapping[str, int]] = dict

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the families of one scrape."""
        yield _labelled("uploads", "Ledger rows by state.", "state", self.counts())
        yield _labelled(
            "upload_bytes",
            "Bytes of the files of these rows; those of `pending` are still to be sent.",
            "state",
            self.sizes(),
        )
        description = (
            "For how long the oldest row has been in an open state (`pending`: since it was found); 0 where "
            "there is none."
        )
        yield _labelled("oldest_upload_seconds", description, "state", self.oldest())
        description = (
            "Success rate of the last `hour` and `day`, see below; absent while nothing was decided."
        )
        yield _labelled("success_ratio", description, "period", self.success())
        description = "Events that wait to be told to a receiver."
        yield _labelled("waiting_notifications", description, "channel", self.notifications())
        description = (
            "Files that are never uploaded, as of the last full scan: `directory` (no part of the path is a "
            "UUID), `extension`, `name` (not valid UTF-8, control characters), `pattern`, `playlist`, "
            "`quality`, `template`; `status --ignored` lists them."
        )
        yield _labelled("ignored_files", description, "reason", self.ignored())
        yield _gauge("settling_files", "Files not known to be finished yet.", self.settling())
        description = "Known files that were touched and wait to be hashed again; part of `settling_files`."
        yield _gauge("files_to_hash_again", description, self.to_hash_again())
        description = (
            "1 while a failure pauses this part, or `pause` the `uploads`: `uploads`, `upload`, `publish`, "
            "`release`, `invalidation`, `settle`, `scan`, `observer`, `catalog`, `orphans`, as far as they "
            "exist."
        )
        yield _labelled("stage_paused", description, "stage", self.paused())
        description = "For how long an operator's `pause` has lasted; 0 while there is none."
        yield _gauge("operator_pause_seconds", description, self.operator_pause())
        description = (
            "Files and rows that an unforeseen error set aside, and invalidations that CloudFront refuses; "
            "they are tried again, and `status` shows the latest error."
        )
        yield _labelled("set_aside_items", description, "items", self.set_aside())
        for name, number in self.catalog().items():
            yield _gauge(name, CATALOG_GAUGES[name], number)
        for name, number in self.directories().items():
            yield _gauge(name, DIRECTORY_GAUGES[name], number)
        if (rate := self.line()) is not None:
            description = (
                "What the line to S3 takes for all uploads together, as last measured; absent while unknown."
            )
            yield _gauge("line_bytes_per_second", description, rate)


def _gauge(name: str, description: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{NAMESPACE}_{name}", description, value=value)


def _labelled(name: str, description: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"{NAMESPACE}_{name}", description, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family
