from .completeness import FileStatus, check_complete
from .inotify import Callbacks
from .observer import TreeObserver
from .scanner import Scanner, ScanReport
from .settler import Reading, ReadRequired, Settler, Source

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
