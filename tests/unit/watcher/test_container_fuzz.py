"""No file, however strange, gets more out of a container walk than a sentence; `make soak` tries longer."""

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

SECONDS = float(os.environ.get("FUZZ_SECONDS", "5")) / len(FAMILIES)
KEEPS = "FUZZ_KEEP" in os.environ


def ids(path: Path) -> str:
    return path.name


REAL = [path for family in FAMILIES for path in real_files(family)]
CORPUS = [path for family in FAMILIES for path in corpus(family)]


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("family", FAMILIES)
def test_whatever_is_made_of_a_real_file_the_walk_ends_and_reads_little(family: str) -> None:
    assert fuzz(family, SECONDS, keep=KEEPS) > 20 * SECONDS


@pytest.mark.parametrize("path", CORPUS, ids=ids)
def test_every_file_of_the_corpus_is_harmless_and_small(path: Path) -> None:
    content = path.read_bytes()
    assert len(content) <= LARGEST_KEPT
    finding = ensure_harmless(content, path.suffix, len(content))
    assert (finding is None) or not path.name.startswith("real-")


@pytest.mark.parametrize("path", REAL, ids=ids)
def test_a_real_file_is_complete_at_no_byte_but_its_last(path: Path) -> None:
    """Each fragment ends a file that plays: such a file may be cut off behind one."""
    content = path.read_bytes()
    may_end = fragment_ends(content) if "fragmented" in path.name else set()
    for cut in range(len(content)):
        finding = inspect(content[:cut], path.suffix)[0]
        assert finding or cut in may_end, f"cut at {cut}"


def fragment_ends(content: bytes) -> set[int]:
    """Where the media of a fragmented file's fragments end."""
    ends, at = set(), 0
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] == b"mdat":
            ends.add(at + size)
        at += size
    return ends


NESTED = 3000


def nested_boxes() -> bytes:
    """`moov` in `moov` in `moov`, deeper than any program may recurse."""
    content = b""
    for _ in range(NESTED):
        content = (8 + len(content)).to_bytes(4, "big") + b"moov" + content
    return content + b"\0\0\0\x08mdat"


def nested_elements() -> bytes:
    """Segments in segments, likewise."""
    content = b""
    for _ in range(NESTED):
        content = bytes.fromhex("18538067") + (len(content) | 1 << 56).to_bytes(8, "big") + content
    return bytes.fromhex("1A45DFA380") + content


@pytest.mark.parametrize(
    ("extension", "content"), [(".mp4", nested_boxes()), (".mkv", nested_elements())], ids=["mp4", "mkv"]
)
def test_depth_costs_nothing_for_only_the_outermost_parts_are_walked(extension: str, content: bytes) -> None:
    finding, reads = inspect(content, extension)
    assert finding is None
    assert len(reads.lengths) <= 3


@pytest.mark.parametrize("size", [8 * 2**40, 2**62, 2**63 - 1])
@pytest.mark.parametrize("extension", [".mp4", ".mkv"])
def test_a_size_that_no_disk_has_is_no_more_work_than_another(extension: str, size: int) -> None:
    assert ensure_harmless(b"", extension, size)
    assert ensure_harmless(b"\0\0\0\x08ftyp\0\0\0\x01mdat" + b"\x7f" * 8, extension, size)


def test_a_walk_has_an_end_where_parts_are_as_small_as_can_be() -> None:
    content = b"\0\0\0\x08free" * (MAX_ELEMENTS + 10)
    finding, reads = inspect(content, ".mp4")
    assert "no player expects" in (finding or "")
    assert len(reads.lengths) <= MAX_ELEMENTS


@pytest.mark.parametrize("path", REAL, ids=ids)
def test_a_size_that_cannot_be_is_harmless_before_and_behind_a_real_file(path: Path) -> None:
    content = path.read_bytes()
    for header in HEADERS:
        for odd in (content + header, header + content, content + header + content):
            ensure_harmless(odd, path.suffix, len(odd))
