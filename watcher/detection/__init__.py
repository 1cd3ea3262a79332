"""Detection of finished files: events, scans, the completeness check, and the settler."""

from watcher.detection.completeness import FileStatus, check_complete
from watcher.detection.inotify import Callbacks
from watcher.detection.observer import TreeObserver
from watcher.detection.scanner import Scanner, ScanReport
from watcher.detection.settler import Reading, ReadRequired, Settler, Source

__all__ = [
    "Callbacks",
    "FileStatus",
    "ReadRequired",
    "Reading",
    "ScanReport",
    "Scanner",
    "Settler",
    "Source",
    "TreeObserver",
    "check_complete",
]
