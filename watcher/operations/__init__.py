"""Operations that a command carries out by itself: doctor, audit, dry run, explanations."""

from watcher.operations.audit import Audit, Finding, Issue
from watcher.operations.doctor import check_host
from watcher.operations.dry_run import open_planner
from watcher.operations.next_step import describe_gate, describe_next_step

__all__ = [
    "Audit",
    "Finding",
    "Issue",
    "check_host",
    "describe_gate",
    "describe_next_step",
    "open_planner",
]
