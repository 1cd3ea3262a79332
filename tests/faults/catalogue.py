"""Every fault that is injected, by its name, in the order of the table in docs/reliability.md."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tests.faults.network import NETWORK
from watcher.failpoints import Point


def killed_at(point: Point) -> str:
    """The name of the fault of being killed at a step."""
    return f"killed with SIGKILL at `{point.value}`"


CRASHES: Final = tuple(killed_at(point) for point in Point)
ON_THE_NETWORK: Final = tuple(trouble.name for trouble in NETWORK)
DIALECTS: Final = (
    "S3: server that differs in one thing",
    "S3: server that differs in two things",
    "S3: answer that is none of S3's",
    "S3: value refused as not that of the content",
    "S3: encryption refused",
)
DATABASES: Final = (
    "PostgreSQL stopped in the middle of uploads",
    "every connection to PostgreSQL ended at every request to S3",
    "PostgreSQL frozen, connections open",
    "PostgreSQL: connections refused",
    "PostgreSQL: connections swallowed by a black hole, then reset",
    "PostgreSQL: every message delayed by 20 ms",
    "ledger locked by another program",
)
DISKS: Final = (
    "disk full under the ledger and the videos",
    "disk full in the middle of an upload",
    "disk full when the daemon starts",
    "disk nearly full of published copies",
    "file system of the videos read-only",
    "file system of the videos and the ledger read-only",
    "file system slow: 2 MB/s, by way of FUSE",
    "file that may not be read",
    "directory that may not be read",
    "directory that now belongs to somebody else",
)
WATCHING: Final = (
    "watched directory deleted and made again",
    "watched directory unmounted and mounted again",
    "another file system mounted in its place",
    "directory renamed while it is scanned",
    "event queue overflowed",
    "inotify watches exhausted",
)
FILES: Final = (
    "file replaced at every step of its release",
    "file rewritten at every step of its release",
    "file opened by an encoder at every step of its release",
    "file hard-linked at every step of its release",
    "symbolic link in its place at every step of its release",
    "zeros, or a half, after a power cut",
)
FLOODS: Final = (
    "event queue overflowed in 100,000 directories",
    "files as fast as they can be written",
    "100,000 files in one directory",
    "hostile names and contents",
)
CLOCKS: Final = (
    "clock set forward by a day",
    "clock set back by a day",
    "clock set back to 1970",
)
SKEWED: Final = "signatures refused for a wrong clock"
EVERYTHING: Final = "a life in which anything happens, in any order"
LEDGER_AWAY: Final = "ledger moved away under the daemon and put back"
ODD: Final = (
    "file with a modification time after 2262",
    "file with two names, of which one is removed later",
    "file with something like a quality in its name",
    "file damaged by two encoders at once",
    "catalog row without a URL",
    "catalog row locked by another session",
    "`processing` row of a killed compressor",
    "video deleted before its file was sent",
    "object in place that is private",
    "one key that a policy denies",
    "public URL that drips one byte a second",
    "one file on a line that is slower than a thread is patient",
    "idle connections on the port of the metrics",
    "second daemon on one directory",
    "edit that keeps size and modification time",
    "stray file with the key of another one",
    "catalog emptied under `DELETE_ORPHANS`",
    "older ledger restored",
    LEDGER_AWAY,
    "file in quarantine of another ledger",
    "device number of all copies changed, as after a boot",
    "answer to a PUT lost, then another encode",
    "`INSTANCE_ID` in use on another machine",
    "same bytes compressed again under a new row",
    "rows of an hour that the clock repeats",
    "rows of nine published objects deleted",
    "settings that name PostgreSQL's server and no database",
    "secret with a control character in the settings",
    "library called with a hostile id, name or quality",
    "compressor updates two rows in one transaction",
    "original in a format that is no MP4",
    "row of an upload that the compressor made itself",
    "bucket changed in the settings",
    "`run --once` beside a file that is still written",
    "PgBouncer in transaction mode before PostgreSQL",
    "PostgreSQL switched over to a standby, the old server only reads",
)
"""One file, row or answer is odd."""
FAULTS: Final = (
    *CRASHES,
    *ON_THE_NETWORK,
    *DIALECTS,
    *DATABASES,
    *DISKS,
    *WATCHING,
    *FILES,
    *FLOODS,
    *ODD,
    *CLOCKS,
    SKEWED,
    EVERYTHING,
)

STOPS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(CRASHES, "the daemon"),
        **dict.fromkeys((*ON_THE_NETWORK, *DIALECTS, SKEWED), "S3"),
        **dict.fromkeys((*DATABASES, LEDGER_AWAY), "the database"),
        **dict.fromkeys(DISKS[:3], "the disk"),
        **dict.fromkeys(DISKS[3:7], "the file system"),
        **dict.fromkeys(WATCHING[:3], "the directory"),
        **dict.fromkeys(WATCHING[4:], "events"),
        **dict.fromkeys((*FILES, *FLOODS[:2], EVERYTHING), ""),
    }
)
"""What has stopped for all files during a fault, so that none can be found to go on beside it; the empty text
where nothing else is under way."""
