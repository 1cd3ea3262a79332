"""What the daemon shows to people and programs: logs, metrics, transfer progress."""

from watcher.telemetry.formatting import human_duration, human_size, human_time, printable
from watcher.telemetry.logging import RepeatFilter, configure_logging, row_context
from watcher.telemetry.metrics import Metrics
from watcher.telemetry.progress_bars import show_progress
from watcher.telemetry.redaction import redact
from watcher.telemetry.transfer_progress import TransferProgress

__all__ = [
    "Metrics",
    "RepeatFilter",
    "TransferProgress",
    "configure_logging",
    "human_duration",
    "human_size",
    "human_time",
    "printable",
    "redact",
    "row_context",
    "show_progress",
]
