"""The commands of the documents, which the tests run as they are written there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.source_tree import ROOT

PROGRAMS = ("apt", "dpkg", "du", "journalctl", "promtool", "sysctl", "systemctl", "video-uploader")
_PART = re.compile(r"^(?:#+ (?P<heading>.*)|```(?P<language>sh|sql)\n(?P<text>(?s:.*?))^```)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """Commands of a shell or of SQL."""

    heading: str
    """That of the section where they are."""
    text: str


def blocks(document: str) -> list[Block]:
    """The blocks of a document, by its path in the repository, in order."""
    found, heading = [], ""
    for part in _PART.finditer(Path(ROOT, document).read_text(encoding="utf-8")):
        heading = part["heading"] or heading
        if part["language"]:
            found.append(Block(heading, part["text"]))
    return found


def commands(document: str) -> set[str]:
    """The commands with an argument in the text of a document, outside of blocks."""
    text = re.sub(r"(?ms)^ *```.*?^ *```$", "", Path(ROOT, document).read_text(encoding="utf-8"))
    found = (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text))
    return {code for code in found if re.match(rf"(?:sudo )?(?:{'|'.join(PROGRAMS)}) ", code)}


def block(document: str, heading: str, word: str = "") -> str:
    """The one block of a section that has a word."""
    (found,) = [each.text for each in blocks(document) if each.heading == heading and word in each.text]
    return found
