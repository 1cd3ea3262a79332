"""Results of checks, for people and for programs."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    WARNING = "warning"
    """It works with a reservation, or is unknown."""
    FAILED = "failed"
    """Uploading or playing does not work as the settings require."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check: its name, its outcome, what was found and, unless it passed, the remedy."""

    name: str
    outcome: Outcome
    detail: str
    remedy: str = ""
    unmet: str = ""
    """The check that did not pass, so that this one was not made."""

    def as_dict(self) -> dict[str, str]:
        """The result as a JSON object."""
        return {"name": self.name, "outcome": self.outcome, "detail": self.detail, "mend": self.remedy}


def ok(name: str, detail: str) -> CheckResult:
    """The result of a check that passed."""
    return CheckResult(name, Outcome.OK, detail)


def warning(name: str, detail: str, remedy: str) -> CheckResult:
    """The result of a check with a reservation."""
    return CheckResult(name, Outcome.WARNING, detail, remedy)


def failed(name: str, detail: str, remedy: str) -> CheckResult:
    """The result of a check that failed."""
    return CheckResult(name, Outcome.FAILED, detail, remedy)


def not_tried(name: str, unmet: str) -> CheckResult:
    """The result of a check that was not made because the check `unmet` did not pass."""
    detail = f"It was not tried, because the check of {unmet} did not pass."
    return CheckResult(name, Outcome.WARNING, detail, "Correct that first.", unmet)
