"""Files and blocks of code without privileges, also where the tests run as root."""

from __future__ import annotations

import os

NOBODY = 65534
"""The user and group without privileges."""


def give_away(directory: str) -> None:
    """Let somebody without privileges own everything below a directory."""
    if os.geteuid() == 0:
        for below, directories, files in os.walk(directory):
            for name in (".", *directories, *files):
                os.chown(os.path.join(below, name), NOBODY, NOBODY)
