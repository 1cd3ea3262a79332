"""What a check found, so that a person can mend it and a program can branch on it."""

from dataclasses import asdict, dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """It works, or could not be told; somebody should know."""
    FAILED = "failed"
    """Uploading or playing does not work, or not as the settings ask for."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check: its name, how it ended, a sentence that says what was found and, unless ok, what to do."""

    name: str
    outcome: Outcome
    detail: str
    mend: str = ""

    def as_dict(self) -> dict[str, str]:
        """The result as JSON has it."""
        return asdict(self)


def ok(name: str, detail: str) -> CheckResult:
    """A check that found what it should."""
    return CheckResult(name, Outcome.OK, detail)


def warning(name: str, detail: str, mend: str) -> CheckResult:
    """A check that found something to know about."""
    return CheckResult(name, Outcome.WARNING, detail, mend)


def failed(name: str, detail: str, mend: str) -> CheckResult:
    """A check that found something to mend."""
    return CheckResult(name, Outcome.FAILED, detail, mend)


def not_tried(name: str, because: str) -> CheckResult:
    """A check that makes no sense before another one has passed."""
    return warning(
        name, f"It was not tried, because the check of {because} did not pass.", "Mend that first."
    )
