"""`video-uploader status --all`: every daemon that uses the ledger's database, by what it last said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from db import InstanceReport, Ledger, State, format_time
from watcher.cli.common import echo, print_table
from watcher.telemetry.formatting import human_duration, human_size

SILENT_AFTER = timedelta(seconds=30)
"""A daemon reports every few seconds; one that has not for so long, nor said that it stops, is dead."""

STOPPED, RUNNING, SILENT = "stopped", "running", "silent"


@dataclass(frozen=True, slots=True)
class Instance:
    """One daemon. `ledger` says whose uploads it works on: its own, or those of a shared directory."""

    report: InstanceReport
    ledger: str
    condition: str
    silence: timedelta
    """Since its last heartbeat, by the database's clock."""

    def said(self, name: str) -> object:
        """A value of its report; None if an earlier version of the program did not say it."""
        return self.report.report.get(name)

    @property
    def paused(self) -> Mapping[str, str]:
        """What keeps which part of it from working."""
        paused = self.said("paused")
        return {str(k): str(v) for k, v in paused.items()} if isinstance(paused, Mapping) else {}

    def as_dict(self, others: Sequence[str], counts: Mapping[State, int]) -> dict[str, object]:
        """The daemon ready for JSON; `others` work on the same uploads, which `counts` counts."""
        is_running = self.condition == RUNNING
        return {
            "instance": self.report.instance,
            "condition": self.condition,
            "heartbeat_at": format_time(self.report.heartbeat_at),
            "heartbeat_seconds_ago": round(self.silence.total_seconds(), 1),
            "started_at": format_time(self.report.started_at),
            "pid": self.report.pid,
            "directory": self.said("directory"),
            "bytes_per_second": self.said("bytes_per_second") if is_running else 0,
            "published_per_minute": self.said("published_per_minute") if is_running else 0,
            "paused": self.paused if is_running else {},
            "ledger": self.ledger,
            "shares_ledger_with": list(others),
            "counts": {state.value: number for state, number in counts.items()},
        }


def summary(ledger: Ledger) -> dict[str, object]:
    """Every daemon, and every ledger once, ready for JSON. Raises `db.DatabaseError`."""
    instances, counts = _instances(ledger), ledger.counts_by_instance()
    named = _names(instances, counts)
    none = dict.fromkeys(State, 0)
    return {
        "instances": [
            one.as_dict(
                [name for name in named[one.ledger] if name != one.report.instance],
                counts.get(one.ledger, none),
            )
            for one in instances
        ],
        "ledgers": [
            {
                "ledger": name,
                "instances": daemons,
                "counts": {state.value: number for state, number in counts.get(name, none).items()},
            }
            for name, daemons in named.items()
        ],
    }


def print_all(ledger: Ledger) -> None:
    """Two tables: the daemons, and the uploads of each ledger. Raises `db.DatabaseError`."""
    instances, counts = _instances(ledger), ledger.counts_by_instance()
    print_table(
        ["INSTANCE", "IS", "HEARTBEAT", "SENDS", "PUBLISHES", "DIRECTORY"], [_row(one) for one in instances]
    )
    for one in instances:
        for name, reason in one.paused.items() if one.condition == RUNNING else ():
            echo(f"{one.report.instance}: {name} paused: {reason}")
    echo("")
    none = dict.fromkeys(State, 0)
    rows = [
        [" + ".join(daemons) or name, *(str(number) for number in counts.get(name, none).values())]
        for name, daemons in _names(instances, counts).items()
    ]
    print_table(["UPLOADS OF", *(state.upper() for state in State)], rows)
    if any(len(daemons) > 1 for daemons in _names(instances, counts).values()):
        echo("Daemons joined by '+' work on one directory together and have these uploads in common.")


def _row(one: Instance) -> list[str]:
    sends = publishes = "-"
    if one.condition == RUNNING:
        sends = f"{human_size(int(str(one.said('bytes_per_second') or 0)))}/s"
        publishes = f"{one.said('published_per_minute') or 0} a minute"
    ago = f"{human_duration(one.silence)} ago"
    return [one.report.instance, one.condition, ago, sends, publishes, str(one.said("directory") or "-")]


def _instances(ledger: Ledger) -> list[Instance]:
    now = ledger.now()
    return [
        Instance(
            report,
            ledger=str(report.report.get("ledger") or report.instance),
            condition=_condition(report, now - report.heartbeat_at),
            silence=now - report.heartbeat_at,
        )
        for report in ledger.instance_reports()
    ]


def _condition(report: InstanceReport, silence: timedelta) -> str:
    if report.report.get("phase") == "stopped":
        return STOPPED
    return SILENT if silence > SILENT_AFTER else RUNNING


def _names(instances: Sequence[Instance], counts: Mapping[str, Mapping[State, int]]) -> dict[str, list[str]]:
    """The daemons of each ledger, by the ledger's name; also of those no daemon has told of."""
    found: dict[str, list[str]] = {name: [] for name in sorted({*counts, *(one.ledger for one in instances)})}
    for one in instances:
        found[one.ledger].append(one.report.instance)
    return found
