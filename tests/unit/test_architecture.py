"""The house rules that a machine can hold: who imports whom, what stands where, which names are stable."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from collections import Counter

import pytest

from tests.support.generated_tables import log_calls
from tests.support.source_tree import PACKAGES, ROOT, modules, parsed

LONGEST_MODULE = 600
MOST_MODULES = 18


def pyproject() -> dict[str, object]:
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        return tomllib.load(file)


def tracked() -> list[str]:
    """The paths that the repository holds, or would hold if all were added; skips outside of a checkout."""
    command = ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout, so its top level cannot be told from what was built in it: {error}")
    return listing.stdout.splitlines()


def test_every_module_is_looked_at() -> None:
    found = modules(*PACKAGES)
    assert {"watcher/app/wiring.py", "storage/object_store.py", "db/ledger.py"} < set(found)


def test_the_top_level_holds_the_packages_and_what_readme_speaks_of() -> None:
    top = {path.partition("/")[0] for path in tracked()}
    assert top >= {*PACKAGES, "tests", "systemd", "pyproject.toml", "README.md", "Makefile"}


def test_the_packages_that_are_installed_are_the_packages_on_disk() -> None:
    on_disk = {
        os.path.dirname(module).replace("/", ".")
        for module in modules(*PACKAGES)
        if os.path.basename(module) == "__init__.py"
    }
    setuptools = pyproject()["tool"]["setuptools"]  # type: ignore[index]  # the shape of our own file
    assert sorted(setuptools["packages"]) == sorted(on_disk)
    assert {os.path.dirname(module).replace("/", ".") for module in modules(*PACKAGES)} == on_disk


@pytest.mark.parametrize("package", PACKAGES)
def test_the_packages_say_that_they_are_typed(package: str) -> None:
    assert os.path.isfile(os.path.join(ROOT, package, "py.typed"))
    kept = {
        "*": ["py.typed", "*.pyi"],
        "watcher": ["share/**/*"],
        "watcher.http": ["static/*", "templates/*"],
    }
    assert pyproject()["tool"]["setuptools"]["package-data"] == kept  # type: ignore[index]


@pytest.mark.parametrize("module", modules(*PACKAGES))
def test_every_module_says_why_it_exists(module: str) -> None:
    assert ast.get_docstring(parsed(module))


@pytest.mark.parametrize("module", modules(*PACKAGES))
def test_no_module_outgrows_its_reason(module: str) -> None:
    """Past 600 lines a module is two; which two is for its author to say."""
    with open(os.path.join(ROOT, module), encoding="utf-8") as file:
        assert sum(1 for _ in file) <= LONGEST_MODULE


def test_no_folder_holds_more_than_one_looks_through() -> None:
    """More than 18 modules side by side are several concepts: they want folders of their own."""
    counts = Counter(os.path.dirname(module) for module in modules(*PACKAGES))
    assert not {folder: count for folder, count in counts.items() if count > MOST_MODULES}


def test_log_events_are_named_in_snake_case() -> None:
    events = {event: call.place for call in log_calls() for event in call.events}
    assert "upload_verified" in events
    assert "aside_repaired" in events
    assert not {name: place for name, place in events.items() if not re.fullmatch(r"[a-z]+(_[a-z]+)*", name)}
