"""Every fault that is injected, by its name, in the order of the table in the README."""

from __future__ import annotations

from typing import Final

from watcher.steps import Step


def killed_at(step: Step) -> str:
    """The name of the fault of being killed at a step."""
    return f"killed with SIGKILL at `{step.value}`"


CRASHES: Final = tuple(killed_at(step) for step in Step)
FAULTS: Final = CRASHES
