"""The settings that a running daemon has, in a file beside its lock, for commands to compare theirs with."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Mapping
from contextlib import suppress

import structlog

from watcher.filesystem.instance_lock import LockUnavailableError, is_held
from watcher.settings import Settings, report_settings

log = structlog.get_logger()

_LOCK, _RECORD = ".lock", ".settings"
_MODE = 0o640


def record_settings(lock: str, settings: Settings) -> None:
    """Write what the daemon that holds a lock has; secrets are masked. A failure is only logged."""
    record = lock.removesuffix(_LOCK) + _RECORD
    try:
        descriptor = os.open(f"{record}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
        with open(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, _MODE)
            json.dump({report.name: report.value for report in report_settings(settings)}, file)
        os.replace(f"{record}.new", record)
    except OSError as exc:
        log.info("settings_unrecorded", reason=str(exc))


def running_settings(lock: str) -> Mapping[str, str] | None:
    """What the running daemon has, by name; None if there is none, or its record cannot be read.

    It is the daemon that holds the lock. If there is none, it is the only other one in the state directory: a
    lock depends on INSTANCE_ID and COMPLETED_DIR, which may be what the command has set differently.
    """
    others = glob.glob(os.path.join(glob.escape(os.path.dirname(lock)), f"instance-*{_LOCK}"))
    with suppress(OSError, ValueError, LockUnavailableError):
        held = [lock] if is_held(lock) else [other for other in others if is_held(other)]
        if len(held) == 1:
            with open(held[0].removesuffix(_LOCK) + _RECORD, encoding="utf-8") as file:
                return {str(name): str(value) for name, value in json.load(file).items()}
    return None


def differing_settings(settings: Settings, running: Mapping[str, str]) -> Mapping[str, tuple[str, str]]:
    """The settings that a running daemon has with another value: the own one and the daemon's, by name."""
    return {
        report.name: (report.value, running[report.name])
        for report in report_settings(settings)
        if running.get(report.name, report.value) != report.value
    }
