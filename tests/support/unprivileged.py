"""The user without privileges, and files that belong to it where the tests run as root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

NOBODY = 65534
"""The user and group without privileges."""


def give_away(directory: str) -> None:
    """Give everything below a directory to the user without privileges."""
    if os.geteuid() == 0:
        for below, directories, files in os.walk(directory):
            for name in (".", *directories, *files):
                os.chown(os.path.join(below, name), NOBODY, NOBODY)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Run a block without privileges, also where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
