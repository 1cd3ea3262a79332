"""Checks of S3 by real requests, for `doctor` and before publication."""

from storage.checks.connectivity import check_storage
from storage.checks.public_reads import PublicCheck
from storage.checks.results import CheckResult, Outcome, failed, not_tried, ok, warning

__all__ = ["CheckResult", "Outcome", "PublicCheck", "check_storage", "failed", "not_tried", "ok", "warning"]
