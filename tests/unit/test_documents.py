"""The documents name only files, modules, links, commands and make targets that exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer

from tests.support.source_tree import ROOT as TOP
from watcher.cli.app import COMMANDS, app, loaded

ROOT = Path(TOP)
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
PACKAGES = ("watcher", "storage", "db", "tests", "benchmarks")
FILE = re.compile(r"\.?[\w-]+(/[\w.-]+)*\.(py|md|toml|txt|yaml|service)")
MODULE = re.compile(rf"({'|'.join(PACKAGES)})(\.[a-z_0-9]+)+")
BLOCK = re.compile(r"^ *```\w*\n(.*?)^ *```$", flags=re.MULTILINE | re.DOTALL)
PROGRAM = "video-uploader"
MAX_README_LINES = 150
MAX_SENTENCE_WORDS = 40


def code_of(document: Path) -> Iterator[str]:
    """The words of a document that are set as code, in a line or in a block."""
    text = document.read_text(encoding="utf-8")
    for block in BLOCK.findall(text):
        yield from re.sub(r"(?m)(^| )#.*", "", block).splitlines()
    yield from (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", BLOCK.sub("", text)))


def is_path(word: str) -> bool:
    top = word.partition("/")[0]
    is_below_top = "/" in word and not word.startswith(("/", ".venv/", "http")) and (ROOT / top).exists()
    return FILE.fullmatch(word) is not None or is_below_top


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))


def exists(path: str, document: Path) -> bool:
    """Whether a path exists, below the top, beside the document, or once a target has made it."""
    return (
        (ROOT / path).exists() or (document.parent / path).exists() or path.startswith(("build/", "./build/"))
    )


def missing(code: str, document: Path = DOCUMENTS[0]) -> list[str]:
    """What a piece of code names and the repository does not have."""
    words = code.split()
    paths = [word for word in words if is_path(word) and not exists(word, document)]
    modules = [
        word for word in words if not is_path(word) and MODULE.fullmatch(word) and find_spec(word) is None
    ]
    made = [f"make {word}" for word in words[1:2] if words[0] == "make" and word not in targets()]
    return paths + modules + made


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_what_a_document_names_exists(document: Path) -> None:
    assert [name for code in code_of(document) for name in missing(code, document)] == []


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


def anchors(text: str) -> set[str]:
    """The anchors of the headings of a document, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(text: str, document: Path) -> list[str]:
    """The links of a text to files and anchors that do not exist; those to other sites are not followed."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", text)):
        path, _, anchor = unquote(link).partition("#")
        target = document.parent / path if path else document
        if re.match(r"[a-z]+:", link):
            continue
        is_there = target.exists() and target.resolve().is_relative_to(ROOT)
        if not is_there or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    assert broken_links(document.read_text(encoding="utf-8"), document) == []


@pytest.mark.parametrize("link", ["nowhere.md", "#nowhere", "docs/s3.md#nowhere", "../", "docs/nowhere.png"])
def test_a_link_that_leads_nowhere_is_found(link: str) -> None:
    assert broken_links(f"see [this]({link})", ROOT / "README.md") == [link]


def command_lines(code: str) -> Iterator[str]:
    """The arguments of this program in a line of a shell or of a synopsis."""
    for one in re.split(r"&&|[;>]|\s\|\s", code):
        match = re.match(rf"(?:sudo |exec )?(?:[\w./-]+/)?{PROGRAM}(?: (.*))?$", one.strip())
        if match:
            yield match[1] or ""


def wrong(arguments: str) -> str | None:
    """Why the program would refuse the words of a command; values of options are not checked."""
    command, words = typer.main.get_command(app), shlex.split(re.sub(r"[\[\]…|\\]", " ", arguments))
    group: Mapping[str, Any] = COMMANDS
    try:
        while True:
            _, words, _ = command.make_parser(typer.Context(command)).parse_args(words)
            if not words:
                return None
            if words[0] not in group:
                return f"{words[0]} is not expected"
            command = loaded(words[0]) if group is COMMANDS else group[words[0]]
            words, group = words[1:], getattr(command, "commands", {})
    except typer.TyperException as exc:
        return str(exc)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_command_line_is_one_of_the_program(document: Path) -> None:
    lines = [line for code in code_of(document) for line in command_lines(code)]
    assert {line: why for line in lines if (why := wrong(line)) is not None} == {}


@pytest.mark.parametrize(
    "code", ["video-uploader nowhere", "sudo video-uploader run --twice", "cd / && video-uploader db nowhere"]
)
def test_a_command_line_that_the_program_refuses_is_found(code: str) -> None:
    assert [wrong(line) is not None for line in command_lines(code)] == [True]


def commands_of_readme() -> list[str]:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Commands\n")[2]
    cells = re.findall(r"^\| `(.+?)` \|", section.partition("\n## ")[0], flags=re.MULTILINE)
    return [line for cell in cells for line in cell.split("`, `")]


def test_the_readme_has_every_command_and_no_other() -> None:
    described = commands_of_readme()
    assert {line: why for line in described if (why := wrong(line)) is not None} == {}
    names = {
        f"{name} {sub}".strip()
        for name in COMMANDS
        for sub in getattr(loaded(name), "commands", None) or [""]
    }
    assert {
        name for name in names if not any(f"{line} ".startswith(f"{name} ") for line in described)
    } == set()


def test_the_readme_is_short() -> None:
    """What is longer belongs to docs/."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_README_LINES


def sentences(text: str) -> Iterator[str]:
    """The sentences of paragraphs, list items and cells of tables; a piece of code is one word."""
    prose = re.sub(r"`[^`]*`", "code", BLOCK.sub("", text))
    for block in re.split(r"\n\s*\n|\n#|\n *(?:[-*]|\d+\.) |(?<!\\)\|", prose):
        yield from re.split(r"(?<=[.?!])\s+", block)


def too_long(text: str) -> list[int]:
    """The numbers of words of the sentences that have too many."""
    lengths = [len(re.findall(r"\S*\w\S*", one)) for one in sentences(text)]
    return [length for length in lengths if length > MAX_SENTENCE_WORDS]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_no_sentence_is_too_long_to_be_read_at_once(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert [one for one in sentences(text) if too_long(one)] == []


def test_a_sentence_that_is_too_long_is_found_in_a_paragraph_a_list_and_a_table() -> None:
    short, long = " ".join(["word"] * 39) + " end.", " ".join(["word"] * 41) + "."
    text = f"# Title\n\n{short} {short}\n{long}\n\n- {short}\n- `a b` {long}\n\n| a | {long} | {short} |\n"
    assert too_long(text) == [41, 42, 41]


def test_the_changelog_has_the_version_as_its_newest_release() -> None:
    """`version` in pyproject.toml is the one place; everything else reads it from there."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", changelog, flags=re.MULTILINE)
    assert headings[:2] == ["Unreleased", version]
