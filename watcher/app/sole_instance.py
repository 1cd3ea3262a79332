"""One daemon per INSTANCE_ID and database: the second one refuses to start, and one that appears is told.

On one machine a file lock keeps the daemons of an instance apart (`watcher.filesystem.instance_lock`). Across
machines the heartbeat does: it says which machine, which boot of it and which process has written it. Its
time is kept outside of the database as well, which tells an older ledger from the one that was used last.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime

import structlog

from db import JSON, InstanceReport, Ledger, format_time
from watcher.filesystem.instance_lock import InstanceRunningError
from watcher.supervision.liveness import FRESH
from watcher.telemetry import Metrics, human_duration, human_time

log = structlog.get_logger()

BEATS_SECONDS = 15
"""How long a heartbeat that may be of an earlier boot is watched: a daemon writes one every 10 seconds at
least."""


@dataclass(frozen=True, slots=True)
class Host:
    """The machine and the boot that a process runs in; `machine` is no secret, unlike machine-id(5)."""

    machine: str
    boot: str
    name: str

    @classmethod
    def present(cls) -> Host:
        """Those of this process. A container has no machine id, and is known by its host name."""
        name = platform.node()
        machine = _read("/etc/machine-id") or name
        # Where ProcSubset=pid hides the boot id, the minute of the boot stands for it.
        booted = int(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)) // 60
        boot = _read("/proc/sys/kernel/random/boot_id") or f"minute {booted}"
        return cls(hashlib.sha256(f"video-uploader {machine}".encode()).hexdigest()[:16], boot, name)


@dataclass(slots=True)
class SoleInstance:
    """Writes the heartbeats of this process, and compares them with those of others of its INSTANCE_ID.

    `record` is a file for the time of the last one. `clock` gives monotonic seconds. Its methods raise
    `db.DatabaseError`.
    """

    ledger: Ledger
    metrics: Metrics
    host: Host = field(default_factory=Host.present)
    clock: Callable[[], float] = time.monotonic
    record: str | None = None
    run: str = field(default_factory=lambda: secrets.token_hex(8))
    """Tells this process from any other, also in containers whose processes have the same numbers."""
    conflict: str | None = field(init=False, default=None)
    """Which other daemon writes heartbeats at present, as a sentence; None if there is none."""
    _has_beaten: bool = field(init=False, default=False)
    _commits: object = field(init=False, default=None)
    """Of the ledger, after the last heartbeat."""
    _seen_at: float = field(init=False, default=0.0)

    def require(self, wait: Callable[[float], bool]) -> None:
        """Raise `InstanceRunningError` if another daemon of the name is alive.

        A fresh heartbeat from this machine may be that of a process that was killed, or of an earlier boot,
        or of a copy of this virtual machine: unless its process has certainly ended, it is watched for
        `BEATS_SECONDS`. `wait` waits for some seconds and returns whether the program has to stop.
        """
        first = self.ledger.instance_report()
        if first is None or not self._may_be_alive(first):
            return
        host = first.report.get("host")
        if isinstance(host, Mapping) and host.get("machine") != self.host.machine:
            raise InstanceRunningError(self._describe(first))
        for _ in range(BEATS_SECONDS):
            if wait(1.0):
                return
            present = self.ledger.instance_report()
            if present is not None and present.heartbeat_at != first.heartbeat_at:
                raise InstanceRunningError(self._describe(present))

    def warn_of_older_ledger(self) -> None:
        """Warn if the ledger lacks the last heartbeat that this instance has written on this machine."""
        found = self.ledger.instance_report()
        written = None
        if self.record is not None:
            with suppress(ValueError):
                written = datetime.fromisoformat(_read(self.record))
        lag = self.ledger.database.lag
        if written is None or (found is not None and found.heartbeat_at >= written - lag):
            return
        last = "no heartbeat" if found is None else f"a last heartbeat of {human_time(found.heartbeat_at)}"
        log.warning(
            "ledger_older",
            reason=f"The ledger has {last} of this instance, which has written one at {human_time(written)}.",
            hint="If an older ledger was restored or a new one was begun, the receipts since then are lost; "
            "`video-uploader audit` lists the objects without one.",
        )

    @property
    def is_ledger_unchanged(self) -> bool:
        """Whether it is certain that nothing was committed since the last heartbeat, by any process.

        Only then can one be left out: a copy with the last heartbeat lacks nothing, and no other daemon has
        written one. A server is not asked.
        """
        commits = self.ledger.database.commits()
        return commits is not None and commits == self._commits

    def heartbeat(self, report: Mapping[str, JSON]) -> None:
        """Write a heartbeat, and notice whether another daemon has written one since the last."""
        self._commits = None
        replaced = self.ledger.heartbeat(
            {**report, "host": asdict(self.host), "run": self.run, "conflict": self.conflict}
        )
        self._keep_record()
        self.ledger.add_up_counts()
        now = self.clock()
        if self._has_beaten and replaced is not None and self._is_another(replaced):
            self._seen_at, before = now, self.conflict
            self.conflict = self._describe(replaced)
            if before is None:
                log.error("instance_conflict", reason=self.conflict)
        elif now - self._seen_at > FRESH.total_seconds():
            self.conflict = None
        self._has_beaten = True
        self.metrics.instance_conflict.set(self.conflict is not None)
        self._commits = self.ledger.database.commits()

    def _keep_record(self) -> None:
        found = self.ledger.heartbeat_at
        if self.record is None or found is None:
            return
        try:
            record = os.open(self.record, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                # In place, for all times are of one length: a new file would have the disk free the old one.
                os.pwrite(record, f"{format_time(found)}\n".encode("ascii"), 0)
            finally:
                os.close(record)
        except OSError as exc:
            log.debug("heartbeat_unrecorded", reason=str(exc))

    def _is_another(self, report: InstanceReport) -> bool:
        return report.report.get("run") != self.run and report.report.get("phase") != "stopped"

    def _may_be_alive(self, report: InstanceReport) -> bool:
        silence = abs(self.ledger.now() - report.heartbeat_at)
        if report.report.get("phase") in {None, "stopped"} or silence > FRESH:
            return False
        host = report.report.get("host")
        is_of_this_boot = host == asdict(self.host)
        return not (is_of_this_boot and (report.pid == os.getpid() or not _exists(report.pid)))

    def _describe(self, report: InstanceReport) -> str:
        host = report.report.get("host")
        name = host.get("name") if isinstance(host, Mapping) else None
        ago = human_duration(abs(self.ledger.now() - report.heartbeat_at))
        return (
            f"Another daemon has the INSTANCE_ID {self.ledger.worker} and uses the same database: process "
            f"{report.pid} on host {name or 'unknown'}, last heard of {ago} ago. Stop it, or give one of the "
            "two another INSTANCE_ID."
        )


def _exists(pid: int) -> bool:
    """Whether there may be such a process, which has not ended; see kill(2) and proc_pid_stat(5)."""
    if _read(f"/proc/{pid}/stat").rpartition(")")[2].startswith((" Z", " X")):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
