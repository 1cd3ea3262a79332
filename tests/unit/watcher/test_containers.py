"""An incomplete container is never reported as complete, and the work for any file is bounded."""

import errno
import os
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.media import Media, encoding
from watcher import containers
from watcher.containers.reading import MAX_ELEMENTS
from watcher.filesystem.openat import Owned

EIGHT_TIB = 8 << 40
PAGE = 4096
SIZE = 1000 * PAGE

KINDS = ("faststart", "plain", "fragmented", "mov", "webm", "mkv")


@contextmanager
def memory_file(content: bytes) -> Iterator[int]:
    with Owned(os.memfd_create("video")) as descriptor:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        yield descriptor


def inspect(content: bytes, extension: str) -> str | None:
    with memory_file(content) as descriptor:
        return containers.inspect(descriptor, len(content), extension)


def real(media: Media, kind: str) -> tuple[bytes, str]:
    path = getattr(media, kind)
    with open(path, "rb") as file:
        return file.read(), os.path.splitext(path)[1]


def box(kind: bytes, content: bytes = b"") -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def long_box(kind: bytes, content: bytes = b"") -> bytes:
    return (1).to_bytes(4, "big") + kind + (16 + len(content)).to_bytes(8, "big") + content


def endless_box(kind: bytes, content: bytes = b"") -> bytes:
    return bytes(4) + kind + content


def element(identifier: str, content: bytes = b"", *, size_length: int = 8) -> bytes:
    size = len(content) | 1 << 7 * size_length
    return bytes.fromhex(identifier) + size.to_bytes(size_length, "big") + content


FTYP, MOOV, MDAT = box(b"ftyp", b"isom"), box(b"moov", bytes(100)), box(b"mdat", bytes(1000))
MOOF = box(b"moof", bytes(20))
EBML, SEGMENT, VOID = (
    element("1A45DFA3", bytes(20)),
    element("18538067", bytes(1000)),
    element("EC", bytes(9)),
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_ffmpeg_finished_is_complete(media: Media, kind: str) -> None:
    content, extension = real(media, kind)
    assert inspect(content, extension) is None
    assert inspect(content, extension.upper()) is None


def top_level_ends(content: bytes, extension: str) -> list[int]:
    """The bounds of boxes or elements, by an independent reader."""
    if extension in {".webm", ".mkv"}:
        segment = content.index(bytes.fromhex("18538067"))
        return [0, segment, segment + 4, segment + 12, len(content)]
    ends = [0]
    while ends[-1] < len(content):
        ends.append(ends[-1] + int.from_bytes(content[ends[-1] : ends[-1] + 4], "big"))
    return ends


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "fragmented"])
def test_a_file_truncated_at_any_byte_is_incomplete(media: Media, kind: str) -> None:
    content, extension = real(media, kind)
    cuts = {end + by for end in top_level_ends(content, extension) for by in (-1, 0, 1)}
    cuts |= set(random.Random(kind).choices(range(len(content)), k=200)) | set(range(64))
    for cut in sorted(cut for cut in cuts if 0 <= cut < len(content)):
        assert inspect(content[:cut], extension), f"cut at {cut}"


def test_a_file_truncated_within_a_fragment_is_incomplete(media: Media) -> None:
    content, extension = real(media, "fragmented")
    ends = top_level_ends(content, extension)
    assert len(ends) > 5
    first_media = 4  # ftyp, moov, moof, mdat: from its end on, each fragment ends a file that plays
    for cut in range(0, len(content), 7):
        if cut < ends[first_media] or cut not in ends:
            assert inspect(content[:cut], extension), f"cut at {cut}"


@pytest.mark.parametrize(("name", "finding"), [("killed.mp4", "moov"), ("killed.mkv", "never closed")])
def test_a_file_of_a_killed_ffmpeg_is_incomplete(place: str, name: str, finding: str) -> None:
    path = f"{place}/{name}"
    with encoding(path) as process:
        process.kill()
        process.wait()
    with open(path, "rb") as file:
        assert finding in (inspect(file.read(), os.path.splitext(name)[1]) or "")


@pytest.mark.parametrize(
    "content",
    [
        FTYP + MOOV + MDAT,
        FTYP + MDAT + MOOV,
        FTYP + MOOV + box(b"free") + MDAT + box(b"uuid", bytes(16)),
        FTYP + MOOV + long_box(b"mdat", bytes(100)),
        FTYP + MOOV + endless_box(b"mdat", bytes(100)),
        FTYP + MOOV + box(b"\xa9xyz") + MDAT,
        FTYP + MOOV + 2 * (MOOF + MDAT),
    ],
)
def test_boxes_that_end_with_the_file_are_complete(content: bytes) -> None:
    assert inspect(content, ".mp4") is None


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (FTYP + MDAT, "moov box .* is missing"),
        (FTYP + MOOV, "mdat box .* is missing"),
        (FTYP + box(b"free") + endless_box(b"mdat"), "moov box .* is missing"),
        (FTYP + MOOV + MDAT[:-1], "is truncated in the mdat box at byte 120: 1 bytes are missing"),
        (FTYP + MDAT + b"\0" * 7, "is truncated in the box header"),
        (FTYP + MDAT + b"\0" * 8, "There is no valid box type at byte"),
        (FTYP + MOOV + bytes(1000), "There is no valid box type at byte 120"),
        (FTYP + endless_box(b"moov", bytes(100)) + MDAT, "moov box at byte 12 was never finished"),
        (FTYP + (7).to_bytes(4, "big") + b"moov" + MDAT, "has a size of 7 bytes"),
        (FTYP + MOOV + (1).to_bytes(4, "big") + b"mdat" + (15).to_bytes(8, "big"), "has a size of 15 bytes"),
        (FTYP + MOOV + (1).to_bytes(4, "big") + b"mdat" + (0).to_bytes(8, "big"), "has a size of 0 bytes"),
        (FTYP + MOOV + (1).to_bytes(4, "big") + b"mdat" + b"\xff" * 8, "bytes are missing"),
        (FTYP + MOOV + (1).to_bytes(4, "big") + b"mdat" + b"\0" * 7, "1 bytes are missing"),
        (FTYP + MOOV + MOOF + MDAT + MOOF, "media of the last fragment is missing"),
        (b"\x7fELF" * 100, "There is no valid box type|bytes are missing"),
    ],
)
def test_the_finding_names_the_defect_of_an_mp4(content: bytes, finding: str) -> None:
    for extension in (".mp4", ".m4v", ".mov"):
        assert re.search(finding, inspect(content, extension) or "complete")


@pytest.mark.parametrize(
    "content",
    [
        EBML + SEGMENT,
        EBML + VOID + SEGMENT + VOID,
        EBML + SEGMENT + EBML + SEGMENT,
        EBML + element("18538067", bytes(100), size_length=1),
        EBML + element("18538067", bytes(1), size_length=4),
    ],
)
def test_elements_that_end_with_the_file_are_complete(content: bytes) -> None:
    assert inspect(content, ".webm") is None


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (EBML, "segment .* is missing"),
        (EBML + VOID, "segment .* is missing"),
        (SEGMENT, "does not begin with an EBML header"),
        (b"\x1a\x45\xdf", "does not begin with an EBML header"),
        (EBML + SEGMENT[:-1], "is truncated in the element at byte 32: 1 bytes are missing"),
        (EBML + b"\0" + SEGMENT, "There is no valid element id at byte"),
        (EBML + b"\x08\0\0\0\0\x81\0" + SEGMENT, "There is no valid element id at byte"),
        (EBML + bytes.fromhex("18538067 01FFFFFFFFFFFFFF") + bytes(1000), "never closed"),
        (EBML + bytes.fromhex("18538067 FF") + bytes(1000), "never closed"),
        (EBML + bytes.fromhex("18538067 00") + bytes(1000), "is truncated or damaged"),
        (EBML + bytes.fromhex("18538067 010000"), "is truncated or damaged"),
        (EBML + bytes.fromhex("18538067"), "is truncated or damaged"),
        (EBML + bytes.fromhex("185380"), "is truncated or damaged"),
    ],
)
def test_the_finding_names_the_defect_of_a_matroska_file(content: bytes, finding: str) -> None:
    for extension in (".webm", ".mkv"):
        assert re.search(finding, inspect(content, extension) or "complete")


@pytest.mark.parametrize("extension", [".mp4", ".mkv", ".avi", ".ts", ""])
def test_an_empty_file_is_incomplete(extension: str) -> None:
    assert inspect(b"", extension) == "The file is empty."


@pytest.mark.parametrize(
    ("extension", "beginning"),
    [
        (".mp4", FTYP + MOOV + endless_box(b"mdat")),
        (
            ".mkv",
            EBML + bytes.fromhex("18538067") + (EIGHT_TIB - len(EBML) - 12 | 1 << 56).to_bytes(8, "big"),
        ),
        (".ts", b"G"),
        ("", b""),
    ],
    ids=["mp4", "mkv", "ts", "nothing at all"],
)
def test_a_file_that_is_almost_only_holes_is_incomplete_in_any_format(
    extension: str, beginning: bytes
) -> None:
    with memory_file(beginning) as descriptor:
        os.ftruncate(descriptor, EIGHT_TIB)
        finding = containers.inspect(descriptor, EIGHT_TIB, extension)
    assert re.search("^Most of it was never written: 87960930.* of its", finding or "complete")


@pytest.mark.parametrize(("pages", "is_complete"), [(10, True), (9, False)])
def test_a_tenth_of_written_data_anywhere_is_enough(pages: int, is_complete: bool) -> None:
    with memory_file(b"") as descriptor:
        for place in range(10):
            os.pwrite(descriptor, b"x" * pages * PAGE, place * SIZE // 10)
        os.ftruncate(descriptor, SIZE)
        finding = containers.inspect(descriptor, SIZE, ".ts")
    assert (finding is None) == is_complete


def test_the_number_of_holes_examined_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def alternate(_fd: int, offset: int, _whence: int) -> int:
        asked.append(offset)
        return offset + 1

    monkeypatch.setattr(os, "lseek", alternate)
    with memory_file(b"x") as descriptor:
        containers.inspect(descriptor, EIGHT_TIB, ".ts")
    assert len(asked) == 2 * MAX_ELEMENTS


def test_a_hole_with_data_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system may report unflushed data as a hole."""
    monkeypatch.setattr(os, "lseek", lambda _fd, offset, whence: offset if whence == os.SEEK_HOLE else SIZE)
    with memory_file(b"x" * SIZE) as descriptor:
        assert containers.inspect(descriptor, SIZE, ".ts") is None
    with memory_file(bytes(SIZE)) as descriptor:
        assert containers.inspect(descriptor, SIZE, ".ts")


@pytest.mark.parametrize("code", [errno.ENXIO, errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_without_seek_hole_has_no_holes(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(_fd: int, _offset: int, _whence: int) -> int:
        raise OSError(code, os.strerror(code))

    with memory_file(bytes(SIZE)) as descriptor:
        monkeypatch.setattr(os, "lseek", refuse)
        assert containers.inspect(descriptor, SIZE, ".ts") is None


def test_a_failed_search_for_holes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_fd: int, _offset: int, _whence: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with memory_file(bytes(SIZE)) as descriptor:
        monkeypatch.setattr(os, "lseek", fail)
        with pytest.raises(OSError, match="Input/output"):
            containers.inspect(descriptor, SIZE, ".ts")


@pytest.mark.parametrize("extension", [".avi", ".ts", ".MPG", ""])
def test_an_unsupported_format_is_accepted(extension: str) -> None:
    assert inspect(b"anything", extension) is None


@pytest.mark.parametrize(
    ("extension", "first", "tiny"),
    [(".mp4", FTYP + MOOV + MDAT, box(b"free")), (".mkv", EBML + SEGMENT, bytes.fromhex("EC80"))],
    ids=["mp4", "mkv"],
)
def test_a_file_of_too_many_tiny_elements_is_incomplete(extension: str, first: bytes, tiny: bytes) -> None:
    assert "no player expects" in (inspect(first + tiny * MAX_ELEMENTS, extension) or "complete")


@given(
    extension=st.sampled_from([".mp4", ".mkv"]),
    beginning=st.sampled_from([b"", FTYP, FTYP + MOOV, EBML, EBML + SEGMENT]),
    rest=st.binary(max_size=200),
)
def test_arbitrary_bytes_raise_no_error(extension: str, beginning: bytes, rest: bytes) -> None:
    assert inspect(beginning + rest, extension) != ""


@given(
    boxes=st.lists(st.sampled_from([box(b"free"), long_box(b"skip", bytes(9)), MOOV, MDAT]), max_size=8),
    position=st.integers(min_value=0, max_value=8),
)
@example(boxes=[], position=0)
def test_an_mp4_is_complete_in_any_order_and_not_a_byte_shorter(boxes: list[bytes], position: int) -> None:
    boxes.insert(position, MOOV)
    content = FTYP + b"".join(boxes)
    assert (inspect(content, ".mp4") is None) == (MDAT in boxes)
    without_a_byte = content[:-1]
    assert inspect(without_a_byte, ".mp4")


def test_the_extension_is_case_insensitive() -> None:
    assert inspect(FTYP, ".MP4")
    assert inspect(EBML, ".WebM")


def test_data_beyond_the_given_size_is_ignored() -> None:
    before = FTYP + MOOV + MDAT
    with memory_file(before + MDAT) as descriptor:
        assert containers.inspect(descriptor, len(before), ".mp4") is None
        finding = containers.inspect(descriptor, len(before) + 4, ".mp4")
    assert finding == f"It is truncated in the box header at byte {len(before)}."


def test_a_file_that_shrinks_during_the_inspection_is_incomplete() -> None:
    content = FTYP + MOOV + MDAT + MDAT
    with memory_file(content) as descriptor:
        os.ftruncate(descriptor, len(content) - len(MDAT))
        assert containers.inspect(descriptor, len(content), ".mp4")
