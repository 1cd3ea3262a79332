"""The user without privileges, and files that belong to it where the tests run as root."""

from __future__ import annotations

import os

NOBODY = 65534
"""The user and group without privileges."""


def give_away(directory: str) -> None:
    """Give everything below a directory to the user without privileges."""
    if os.geteuid() == 0:
        for below, directories, files in os.walk(directory):
            for name in (".", *directories, *files):
                os.chown(os.path.join(below, name), NOBODY, NOBODY)
