"""The source of the packages, as the tests of its form read it."""

from __future__ import annotations

import ast
import os
from functools import cache

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""The top of the working tree; processes that tests start import from it, wherever packages are installed."""
PACKAGES = ("watcher", "storage", "db")


def modules(*packages: str) -> list[str]:
    """The paths of every module of packages, relative to the repository."""
    return sorted(
        os.path.relpath(os.path.join(directory, name), ROOT)
        for package in packages
        for directory, _, names in os.walk(os.path.join(ROOT, package))
        for name in names
        if name.endswith(".py")
    )


@cache
def parsed(module: str) -> ast.Module:
    """The syntax tree of a module."""
    with open(os.path.join(ROOT, module), encoding="utf-8") as file:
        return ast.parse(file.read(), module)
