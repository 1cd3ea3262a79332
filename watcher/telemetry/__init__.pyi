from .formatting import human_duration, human_size, human_time, printable
from .logging import RepeatFilter, configure_logging, row_context
from .metrics import Metrics
from .progress_bars import show_progress
from .redaction import redact
from .transfer_progress import TransferProgress

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
