"""Runs a Python module as `python -m` does, in a process whose upload threads have less patience.

So a test of seconds shows what otherwise takes minutes: a thread that beats too rarely. Usage:
``python -m tests.slow_line.impatient SECONDS PYTHON -m MODULE ARGUMENT...``.
"""

from __future__ import annotations

import runpy
import sys

from watcher.supervision.liveness import Liveness, Pulse

_pulse = Liveness.pulse


def main() -> None:
    """Run the module with the patience of the command line."""
    seconds, _, _, module, *arguments = sys.argv[1:]

    def impatient_pulse(self: Liveness, name: str, patience: float) -> Pulse:
        return _pulse(self, name, float(seconds) if name.startswith("upload-") else patience)

    Liveness.pulse = impatient_pulse  # type: ignore[method-assign]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
