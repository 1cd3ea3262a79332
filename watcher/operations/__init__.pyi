from .audit import Audit, Finding, Issue
from .doctor import check_host
from .dry_run import open_planner
from .installation import Installation, InstallationError, earlier_choices, installed_files, uninstall
from .next_step import describe_gate, describe_next_step
from .story import Storyteller, UploadStory

__all__ = [
    "Audit",
    "Finding",
    "Installation",
    "InstallationError",
    "Issue",
    "Storyteller",
    "UploadStory",
    "check_host",
    "describe_gate",
    "describe_next_step",
    "earlier_choices",
    "installed_files",
    "open_planner",
    "uninstall",
]
