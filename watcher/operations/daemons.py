"""Every daemon that uses the same database, by its last report, and the uploads of each ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from db import InstanceReport, Ledger, State, format_time
from watcher.supervision.liveness import FRESH

STOPPED, RUNNING, SILENT = "stopped", "running", "silent"

NO_UPLOADS: Mapping[State, int] = dict.fromkeys(State, 0)
"""The counts of a ledger that has no uploads."""


def paused_stages(report: InstanceReport | None) -> Mapping[str, str]:
    """Return the paused parts of the daemon by name, with the reasons."""
    paused = report.report.get("paused") if report else None
    return {str(name): str(reason) for name, reason in paused.items()} if isinstance(paused, Mapping) else {}


@dataclass(frozen=True, slots=True)
class Instance:
    """One daemon, by its last report."""

    report: InstanceReport
    silence: timedelta
    """Time since its last heartbeat, by the database's clock."""

    @property
    def ledger(self) -> str:
        """The instance whose uploads it works on: its own, or a shared directory's."""
        return str(self.reported("ledger") or self.report.instance)

    @property
    def condition(self) -> str:
        """One of `STOPPED`, `SILENT` and `RUNNING`."""
        if self.reported("phase") == "stopped":
            return STOPPED
        return SILENT if self.silence > FRESH else RUNNING

    def reported(self, name: str) -> object:
        """Return a value of its report; None if its version of the program does not report it."""
        return self.report.report.get(name)

    def as_dict(self, others: Sequence[str], counts: Mapping[State, int]) -> dict[str, object]:
        """Return the daemon for JSON; `others` work on the same uploads, whose number is in `counts`."""
        is_running = self.condition == RUNNING
        return {
            "instance": self.report.instance,
            "condition": self.condition,
            "heartbeat_at": format_time(self.report.heartbeat_at),
            "heartbeat_seconds_ago": round(self.silence.total_seconds(), 1),
            "started_at": format_time(self.report.started_at),
            "pid": self.report.pid,
            "directory": self.reported("directory"),
            "bytes_per_second": self.reported("bytes_per_second") if is_running else 0,
            "published_per_minute": self.reported("published_per_minute") if is_running else 0,
            "paused": paused_stages(self.report) if is_running else {},
            "ledger": self.ledger,
            "shares_ledger_with": list(others),
            "counts": counts,
        }


def summarize_all(ledger: Ledger) -> dict[str, object]:
    """Return every daemon, and every ledger once, for JSON. Raises `db.DatabaseError`."""
    instances, counts = instances_of(ledger), ledger.counts_by_instance()
    by_ledger = daemons_by_ledger(instances, counts)
    return {
        "instances": [
            one.as_dict(
                [name for name in by_ledger[one.ledger] if name != one.report.instance],
                counts.get(one.ledger, NO_UPLOADS),
            )
            for one in instances
        ],
        "ledgers": [
            {
                "ledger": name,
                "instances": daemons,
                "counts": counts.get(name, NO_UPLOADS),
            }
            for name, daemons in by_ledger.items()
        ],
    }


def instances_of(ledger: Ledger) -> list[Instance]:
    """Return every daemon, by name. Raises `db.DatabaseError`."""
    now = ledger.now()
    return [Instance(report, now - report.heartbeat_at) for report in ledger.instance_reports()]


def is_served(ledger: Ledger) -> bool:
    """Whether a daemon on any machine works on the uploads of a ledger. Raises `db.DatabaseError`."""
    return any(one.condition == RUNNING and one.ledger == ledger.instance for one in instances_of(ledger))


def others_alive(ledger: Ledger) -> list[Instance]:
    """Return the other daemons that work on the uploads of a ledger: those of a shared directory."""
    return [
        one
        for one in instances_of(ledger)
        if one.condition == RUNNING and one.ledger == ledger.instance and one.report.instance != ledger.worker
    ]


def daemons_by_ledger(
    instances: Sequence[Instance], counts: Mapping[str, Mapping[State, int]]
) -> dict[str, list[str]]:
    """Return the daemons of each ledger; a ledger with uploads and without a daemon has none."""
    found: dict[str, list[str]] = {name: [] for name in sorted({*counts, *(one.ledger for one in instances)})}
    for one in instances:
        found[one.ledger].append(one.report.instance)
    return found
