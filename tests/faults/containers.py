"""Fuzzing of the container walks: real files, and what an attacker could make of them.

The corpus is beside this module: small real files, written by ffmpeg, and one mutated file for every finding
that a mutation has led to. A failure that was found once is tried first the next time: hypothesis keeps those
in `.hypothesis/`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase

from watcher import containers
from watcher.containers.reading import MAX_ELEMENTS
from watcher.filesystem.openat import Owned

CORPUS = Path(__file__).parent / "corpus"
FAMILIES = {"mp4": (".mp4", ".mov"), "matroska": (".mkv", ".webm")}
SMALLEST_PART = {".mp4": 8, ".mov": 8, ".mkv": 2, ".webm": 2}
"""The fewest bytes that a box or an element takes: a walk cannot have more steps than a file has of those."""
LONGEST_READ = 64
LARGEST_KEPT = 4096

SIZES = [number.to_bytes(length, "big") for length in (4, 8) for number in (0, 1, 2, 7, 8, 9, 15, 16, 2**31)]
SIZES += [
    b"\xff" * 4,
    b"\xff" * 8,
    b"\x7f" + b"\xff" * 7,
    b"\x01" + b"\xff" * 7,
    b"\x01" + bytes(6) + b"\x01",
]
NAMES = [
    b"moov",
    b"mdat",
    b"ftyp",
    b"free",
    b"\0\0\0\0",
    bytes.fromhex("1A45DFA3"),
    bytes.fromhex("18538067"),
]

HEADERS = [size + kind for size in SIZES if len(size) == 4 for kind in (b"moov", b"mdat", b"free")]
HEADERS += [b"\0\0\0\x01free" + size for size in SIZES if len(size) == 8]
HEADERS += [bytes.fromhex("18538067") + size for size in SIZES]


@dataclass
class Reads:
    """The reads that one inspection made."""

    lengths: list[int] = field(default_factory=list)


@contextmanager
def counted_reads() -> Iterator[Reads]:
    """Every pread in the block, each made for real."""
    reads, pread = Reads(), os.pread

    def count(descriptor: int, length: int, offset: int) -> bytes:
        reads.lengths.append(length)
        return pread(descriptor, length, offset)

    with patch.object(os, "pread", count):
        yield reads


def inspect(content: bytes, extension: str, size: int | None = None) -> tuple[str | None, Reads]:
    """What is found in a file of this content, whose size was taken to be `size`, and with what reads."""
    with Owned(os.memfd_create("video")) as descriptor, counted_reads() as reads:
        os.write(descriptor, content)
        return containers.inspect(descriptor, len(content) if size is None else size, extension), reads


def real_files(family: str) -> list[Path]:
    """The unchanged files of the corpus, as ffmpeg wrote them."""
    return [path for path in corpus(family) if path.name.startswith("real-")]


def corpus(family: str) -> list[Path]:
    """Every file of the corpus that is of these kinds."""
    return sorted(path for path in CORPUS.iterdir() if path.suffix in FAMILIES[family])


def mutated(family: str) -> st.SearchStrategy[tuple[bytes, str]]:
    """Files of the corpus with a few changes, each with an extension of its family."""
    contents = [path.read_bytes() for path in corpus(family)]
    place = st.integers(min_value=0, max_value=max(map(len, contents)))
    pieces = st.sampled_from([*SIZES, *NAMES, *HEADERS]) | st.binary(max_size=16)
    ends = st.builds(lambda piece: lambda content: content + piece, pieces)
    changes: st.SearchStrategy[Callable[[bytes], bytes]] = st.one_of(
        st.builds(_cut, place),
        st.builds(_write, place, pieces),
        st.builds(_insert, place, pieces),
        ends,
        st.builds(_repeat, place, st.integers(1, 64), st.integers(2, 40)),
        st.builds(_splice, place, st.sampled_from(contents)),
    )
    return st.tuples(
        st.builds(_changed, st.sampled_from(contents), st.lists(changes, max_size=6)),
        st.sampled_from(FAMILIES[family]),
    )


def _changed(content: bytes, changes: list[Callable[[bytes], bytes]]) -> bytes:
    for change in changes:
        content = change(content)
    return content


def _cut(at: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:at]


def _write(at: int, piece: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content[:at] + piece + content[at + len(piece) :]


def _insert(at: int, piece: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content[:at] + piece + content[at:]


def _repeat(at: int, length: int, times: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:at] + content[at : at + length] * times + content[at + length :]


def _splice(at: int, other: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content[:at] + other[at:]


def ensure_harmless(content: bytes, extension: str, size: int) -> str | None:
    """Inspect a file; whatever it is, the walk ends, reads little, and finds a sentence or nothing."""
    finding, reads = inspect(content, extension, size)
    assert finding is None or (finding.endswith(".") and finding.isprintable()), finding
    assert len(reads.lengths) <= min(MAX_ELEMENTS, size // SMALLEST_PART[extension]) + 2, len(reads.lengths)
    assert all(0 <= length <= LONGEST_READ for length in reads.lengths), reads
    return finding


def fuzz(family: str, seconds: float, *, keep: bool = False) -> int:
    """Try mutated files for so long; returns how many. With `keep` new kinds of findings join the corpus."""
    known = {_kind(path.suffix, inspect(path.read_bytes(), path.suffix)[0]) for path in corpus(family)}
    tried = 0

    @hypothesis_settings(
        max_examples=200,
        deadline=None,
        database=DirectoryBasedExampleDatabase(".hypothesis/containers"),
        suppress_health_check=list(HealthCheck),
    )
    @given(file=mutated(family), difference=st.sampled_from([0, 0, 0, 0, -1, 1, -16, 16, 2**40, 2**62]))
    def attempt(file: tuple[bytes, str], difference: int) -> None:
        nonlocal tried
        tried += 1
        content, extension = file
        finding = ensure_harmless(content, extension, max(0, len(content) + difference))
        kind = _kind(extension, finding)
        if keep and difference == 0 and kind not in known and len(content) <= LARGEST_KEPT:
            known.add(kind)
            (CORPUS / f"found-{len(known):02}{extension}").write_bytes(content)

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        attempt()
    return tried


def _kind(extension: str, finding: str | None) -> str:
    """A finding without its numbers and the names of boxes."""
    words = re.sub(r"\d+|The .{4,16} box", "#", finding or "complete")
    return extension + re.sub(r"in the .{4,16} box", "in the # box", words)
