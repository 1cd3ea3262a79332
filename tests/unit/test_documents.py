"""The documents for contributors name only files, modules and make targets that exist."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "CONTRIBUTING.md",
    ROOT / "docs/architecture.md",
    ROOT / "docs/operations.md",
    ROOT / "docs/performance.md",
    ROOT / "docs/reliability.md",
    *sorted((ROOT / "docs/adr").glob("*.md")),
]
PACKAGES = ("watcher", "storage", "db", "tests", "benchmarks")
FILE = re.compile(r"\.?[\w-]+(/[\w.-]+)*\.(py|md|toml|txt|yaml|service)")
MODULE = re.compile(rf"({'|'.join(PACKAGES)})(\.[a-z_0-9]+)+")


def code_of(document: Path) -> Iterator[str]:
    """The words of a document that are set as code, in a line or in a block."""
    text = document.read_text(encoding="utf-8")
    for block in re.findall(r"^```\w*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        yield from re.sub(r"#.*", "", block).splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def is_path(word: str) -> bool:
    top = word.partition("/")[0]
    is_below_top = "/" in word and not word.startswith(("/", ".venv/", "http")) and (ROOT / top).exists()
    return FILE.fullmatch(word) is not None or is_below_top


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))


def missing(code: str) -> list[str]:
    """What a piece of code names and the repository does not have."""
    words = code.split()
    paths = [word for word in words if is_path(word) and not os.path.exists(ROOT / word)]
    modules = [
        word for word in words if not is_path(word) and MODULE.fullmatch(word) and find_spec(word) is None
    ]
    made = [f"make {word}" for word in words[1:2] if words[0] == "make" and word not in targets()]
    return paths + modules + made


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_what_a_document_names_exists(document: Path) -> None:
    assert [name for code in code_of(document) for name in missing(code)] == []


@pytest.mark.parametrize(
    "code", ["watcher/nowhere.py", "docs/nowhere/", "nowhere.md", "make nowhere", "tests.unit.nowhere"]
)
def test_a_name_that_does_not_exist_is_found(code: str) -> None:
    assert missing(code) == [code]


@pytest.mark.parametrize(
    "code", ["watcher/cli/", "README.md", "make test PYTEST_ARGS=-x", "boto3.client", "status", ".ci/run"]
)
def test_other_code_is_no_name_that_is_missing(code: str) -> None:
    assert missing(code) == []


def test_every_make_target_is_described() -> None:
    described = {code.split()[1] for code in code_of(ROOT / "CONTRIBUTING.md") if code.startswith("make ")}
    assert described == targets()
