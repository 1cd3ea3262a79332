"""Fuzzing of the container checks: any file is checked with bounded work; `make soak` runs longer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.containers import (
    FAMILIES,
    HEADERS,
    LARGEST_KEPT,
    corpus,
    ensure_harmless,
    fuzz,
    inspect,
    real_files,
)
from watcher.containers.reading import MAX_ELEMENTS

pytestmark = pytest.mark.long

SECONDS = float(os.environ.get("FUZZ_SECONDS", "5")) / len(FAMILIES)
KEEPS = "FUZZ_KEEP" in os.environ


def ids(path: Path) -> str:
    return path.name


REAL = [path for family in FAMILIES for path in real_files(family)]
CORPUS = [path for family in FAMILIES for path in corpus(family)]


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_mutated_file_is_checked_with_few_reads(family: str) -> None:
    assert fuzz(family, SECONDS, keep=KEEPS) > 20 * SECONDS


@pytest.mark.parametrize("path", CORPUS, ids=ids)
def test_every_file_of_the_corpus_is_small_and_checked_with_few_reads(path: Path) -> None:
    content = path.read_bytes()
    assert len(content) <= LARGEST_KEPT
    finding = ensure_harmless(content, path.suffix, len(content))
    assert (finding is None) or not path.name.startswith("real-")


@pytest.mark.parametrize("path", REAL, ids=ids)
def test_a_real_file_is_complete_only_with_its_last_byte(path: Path) -> None:
    """A fragmented file that is truncated after a fragment is complete and plays."""
    content = path.read_bytes()
    may_end = fragment_ends(content) if "fragmented" in path.name else set()
    for cut in range(len(content)):
        finding = inspect(content[:cut], path.suffix)[0]
        assert finding or cut in may_end, f"cut at {cut}"


def fragment_ends(content: bytes) -> set[int]:
    """The end of each fragment's media."""
    ends, at = set(), 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] == b"mdat":
            ends.add(at + size)
        at += size
    return ends


NESTED = 3000


def nested_boxes() -> bytes:
    """Nested `moov` boxes, beyond any recursion limit."""
    content = b""
    for _ in range(NESTED):
        content = (8 + len(content)).to_bytes(4, "big") + b"moov" + content
    return content + b"\0\0\0\x08mdat"


def nested_elements() -> bytes:
    """Nested segments, likewise."""
    content = b""
    for _ in range(NESTED):
        content = bytes.fromhex("18538067") + (len(content) | 1 << 56).to_bytes(8, "big") + content
    return bytes.fromhex("1A45DFA380") + content


@pytest.mark.parametrize(
    ("extension", "content"), [(".mp4", nested_boxes()), (".mkv", nested_elements())], ids=["mp4", "mkv"]
)
def test_nesting_costs_nothing_as_only_top_level_elements_are_read(extension: str, content: bytes) -> None:
    finding, reads = inspect(content, extension)
    assert finding is None
    assert len(reads.lengths) <= 3


@pytest.mark.parametrize("size", [8 * 2**40, 2**62, 2**63 - 1])
@pytest.mark.parametrize("extension", [".mp4", ".mkv"])
def test_a_huge_size_costs_no_more_reads(extension: str, size: int) -> None:
    assert ensure_harmless(b"", extension, size)
    assert ensure_harmless(b"\0\0\0\x08ftyp\0\0\0\x01mdat" + b"\x7f" * 8, extension, size)


def test_the_number_of_smallest_elements_is_bounded() -> None:
    content = b"\0\0\0\x08free" * (MAX_ELEMENTS + 10)
    finding, reads = inspect(content, ".mp4")
    assert "no player expects" in (finding or "")
    assert len(reads.lengths) <= MAX_ELEMENTS


@pytest.mark.parametrize("path", REAL, ids=ids)
def test_an_impossible_size_before_or_after_a_real_file_raises_no_error(path: Path) -> None:
    content = path.read_bytes()
    for header in HEADERS:
        for odd in (content + header, header + content, content + header + content):
            ensure_harmless(odd, path.suffix, len(odd))
