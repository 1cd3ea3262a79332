from .connectivity import check_storage
from .public_reads import PublicCheck
from .results import CheckResult, Outcome, failed, not_tried, ok, warning

__all__ = [
    "CheckResult",
    "Outcome",
    "PublicCheck",
    "check_storage",
    "failed",
    "not_tried",
    "ok",
    "warning",
]
