"""Whole, playable files are complete, however odd; what is truncated behind the same oddity is not."""

from __future__ import annotations

import functools
import itertools
import random
import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.media import FFMPEG, Media, encode
from tests.unit.watcher.test_containers import (
    EBML,
    FTYP,
    MDAT,
    MOOF,
    MOOV,
    SEGMENT,
    VOID,
    box,
    element,
    endless_box,
    inspect,
    long_box,
    memory_file,
    real,
    top_level_ends,
)
from watcher import containers
from watcher.containers.matroska import require_complete
from watcher.containers.mp4 import require_complete as require_complete_mp4
from watcher.containers.reading import MAX_ELEMENTS, WINDOW, FileBytes, IncompleteError

WHOLE = FTYP + MOOV + MDAT
FRAGMENTED = FTYP + MOOV + MOOF + MDAT
TRAILERS = {
    "one byte": b"x",
    "a line end": b"\r\n",
    "three zeros": bytes(3),
    "a page of zeros": bytes(4096),
    "a megabyte of zeros": bytes(1 << 20),
    "a box that claims gigabytes": b"\xf5\xb1\x92\x92" + b"SEFT" + bytes(100),
    "a last free box of no size": endless_box(b"free", bytes(300)),
    "a last uuid box of no size": endless_box(b"uuid", bytes(300)),
    "a last skip box of no size": endless_box(b"skip", bytes(300)),
    "a whole unknown box and text": box(b"cam0", bytes(99)) + b"made by a camera\n",
    "noise": random.Random(1).randbytes(5000),
    "a box with a negative size": b"\xff\xff\xff\xffinfo" + bytes(9),
    "a box smaller than its header": b"\0\0\0\x03info" + bytes(9),
}


@pytest.mark.parametrize("kind", ["faststart", "plain", "mov", "webm", "mkv", "fragmented", "per_frame"])
@pytest.mark.parametrize("trailer", TRAILERS.values(), ids=TRAILERS)
def test_bytes_behind_a_finished_file_are_no_defect(media: Media, kind: str, trailer: bytes) -> None:
    """A finished fragmented file ends with `mfra`."""
    content, extension = real(media, kind)
    assert inspect(content + trailer, extension) is None


@pytest.mark.parametrize("kind", ["faststart", "plain", "mov"])
@pytest.mark.parametrize("trailer", [bytes(64), b"SEFT" * 16, endless_box(b"free", bytes(9))])
def test_a_truncated_file_is_incomplete_with_such_bytes_behind_it(
    media: Media, kind: str, trailer: bytes
) -> None:
    content, extension = real(media, kind)
    for cut in (len(content) // 2, len(content) - 100):
        assert inspect(content[:cut] + trailer, extension), cut


@pytest.mark.parametrize("kind", ["faststart", "plain", "mov", "fragmented"])
@pytest.mark.parametrize("last", [b"free", b"skip", b"uuid", b"wide", b"mdat", b"moov", b"moof", b"sidx"])
def test_a_last_box_that_is_truncated_is_a_defect_though_no_media_is_missing(
    media: Media, kind: str, last: bytes
) -> None:
    content, extension = real(media, kind)
    padded = content + box(last, bytes(300))
    for cut in (1, 150, 300, 301, 302, 303):
        assert inspect(padded[:-cut], extension), cut


def test_media_that_the_index_names_behind_the_last_box_is_missing(media: Media) -> None:
    """The file has its index in front and its media in two boxes, of which the second one is lost."""
    content, extension = real(media, "faststart")
    moved = bytearray(content)
    table = moved.index(b"stco") + 8
    count = int.from_bytes(moved[table : table + 4], "big")
    last = table + 4 * count
    moved[last : last + 4] = (len(content) + 8).to_bytes(4, "big")
    second = box(b"mdat", bytes(500))
    assert inspect(bytes(moved) + second, extension) is None
    for left in (*range(1, 9), 100):
        assert inspect(bytes(moved) + second[:left], extension), left
    assert inspect(bytes(moved) + bytes(5000), extension)


def mp4_index(offsets: list[int], *, wide: bool) -> bytes:
    form = f">II{len(offsets)}{'Q' if wide else 'I'}"
    table = box(b"co64" if wide else b"stco", struct.pack(form, 0, len(offsets), *offsets))
    track = box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", table))))
    return box(b"moov", box(b"mvhd", bytes(20)) + track + box(b"udta", bytes(4)))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("size_of_first", [None, 16])
@pytest.mark.parametrize("number", [1, 2, 1000])
def test_the_last_offset_of_either_table_decides(wide: bool, size_of_first: int | None, number: int) -> None:
    index = mp4_index([200] * number, wide=wide)
    mdat = (long_box if size_of_first else box)(b"mdat", bytes(1000))
    content = FTYP + index + mdat
    assert inspect(content + b"xy", ".mp4") is None
    index = mp4_index([200] * (number - 1) + [len(content) + 1], wide=wide)
    assert inspect(FTYP + index + mdat + b"xy", ".mp4")


@pytest.mark.parametrize(
    "content",
    [
        WHOLE + bytes(8),
        WHOLE + b"\0" * 7,
        WHOLE + b"\xf5\xb1\x92\x92SEFT",
        FTYP + MDAT + MOOV + endless_box(b"uuid", bytes(16)),
        FTYP + MOOV + MDAT + endless_box(b"free") + MDAT,
        MOOV + MDAT,
        box(b"wide") + MDAT + MOOV,
        box(b"wide") + long_box(b"mdat", bytes(9)) + long_box(b"moov", bytes(9)),
        box(b"pnot", bytes(12)) + box(b"PICT", bytes(9)) + MDAT + MOOV,
        FTYP + MOOV + endless_box(b"mdat", bytes(100)),
        FRAGMENTED + bytes(4096),
        FRAGMENTED + b"\xf5\xb1\x92\x92SEFT",
        FRAGMENTED + box(b"mfra", bytes(8)) + bytes(1 << 20),
        FRAGMENTED + box(b"sidx", bytes(8)) + MOOF + MDAT + endless_box(b"free", bytes(9)),
    ],
)
def test_an_odd_mp4_whose_index_and_media_are_whole_is_complete(content: bytes) -> None:
    for extension in (".mp4", ".m4v", ".mov"):
        assert inspect(content, extension) is None


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (FTYP + endless_box(b"free", bytes(9)) + MDAT + MOOV, "free box .* was never finished"),
        (FTYP + MOOV + endless_box(b"free") + MDAT, "free box .* was never finished"),
        (FTYP + MDAT + bytes(4096), "no valid box type"),
        (FTYP + MOOV + b"\xf5\xb1\x92\x92SEFT", "SEFT box"),
        (WHOLE + MDAT[:-1], "truncated in the mdat box"),
        (WHOLE + MOOV[:-1], "truncated in the moov box"),
        (WHOLE + endless_box(b"moov", bytes(9)), "moov box .* was never finished"),
        (WHOLE + box(b"free", bytes(9))[:-1], "truncated in the free box"),
        (FRAGMENTED + MOOF[:-1], "truncated in the moof box"),
        (FRAGMENTED + MOOF, "media of the last fragment"),
        (FRAGMENTED + MOOF + bytes(64), "media of the last fragment"),
        (FRAGMENTED + MOOF + box(b"free")[:-1], "truncated in the box header"),
        (FRAGMENTED + MOOF + endless_box(b"free"), "media of the last fragment"),
        (FRAGMENTED + bytes((1 << 16) + 1), "no valid box type"),
        (FRAGMENTED + endless_box(b"sidx"), "sidx box .* was never finished"),
        (FRAGMENTED + box(b"styp", bytes(9))[:-1], "truncated in the styp box"),
        *((FRAGMENTED + MOOF[:length], "truncated in the box header") for length in range(1, 8)),
        *((WHOLE + MDAT[:length], "truncated in the box header") for length in range(1, 8)),
    ],
)
def test_what_may_be_missing_behind_the_last_whole_box_is_a_defect(content: bytes, finding: str) -> None:
    for extension in (".mp4", ".m4v", ".mov"):
        assert re.search(finding, inspect(content, extension) or "complete")


def test_the_first_fragment_may_be_described_by_the_first_index(media: Media) -> None:
    """Then no moof was seen before the file is truncated, and only `mvex` tells that more may follow."""
    index = mp4_index([200], wide=False)
    index = box(b"moov", index[8:] + box(b"mvex", bytes(8)))
    for left in range(1, 8):
        assert inspect(FTYP + index + MDAT + MOOF[:left], ".mp4"), left


def test_an_index_of_too_many_boxes_proves_nothing() -> None:
    index = box(b"moov", mp4_index([200], wide=False)[8:] + box(b"free") * 5000)
    assert inspect(FTYP + index + MDAT, ".mp4") is None
    assert "no player expects" in (inspect(FTYP + index + MDAT + b"xyz", ".mp4") or "")


FEW = 20
"""How many boxes a walk reads in these tests."""
MFRA_ENTRIES = bytes(WINDOW + 100)
MFRA = box(b"mfra", MFRA_ENTRIES + box(b"mfro", bytes(4) + (len(MFRA_ENTRIES) + 24).to_bytes(4, "big")))


def inspect_few(content: bytes, check: Callable[[FileBytes], None] = require_complete_mp4) -> str | None:
    """What is found by a walk that reads a few elements only."""
    with memory_file(content) as descriptor:
        try:
            check(FileBytes(descriptor, len(content), most=FEW))
        except IncompleteError as error:
            return str(error)
    return None


@pytest.mark.long
def test_a_video_with_a_fragment_a_frame_is_complete_however_many_there_are() -> None:
    content = FTYP + MOOV + (MOOF + MDAT) * (MAX_ELEMENTS // 2)
    assert inspect(content, ".mp4") is None
    assert "no player expects" in (inspect(content[:-1], ".mp4") or "complete")


def test_an_unfinished_walk_ends_in_a_whole_fragment_before_an_index_of_any_size() -> None:
    content = FTYP + MOOV + (MOOF + MDAT) * FEW
    assert inspect_few(content + MFRA) is None
    for odd in (content[:-1], content[: -len(MDAT)], content + bytes(9), content + MFRA[:-1], content + MOOF):
        assert "no player expects" in (inspect_few(odd) or "complete")


def test_an_unfinished_walk_needs_an_index_and_fragments() -> None:
    for content in (FTYP + (MOOF + MDAT) * FEW, WHOLE + box(b"free") * FEW, WHOLE + MDAT * FEW):
        assert "no player expects" in (inspect_few(content) or "complete")


def test_a_real_video_with_a_fragment_a_frame_is_judged_by_its_end_alone(media: Media) -> None:
    content, extension = real(media, "per_frame")
    ends = top_level_ends(content, extension)
    kinds = [content[end + 4 : end + 8] for end in ends[:-1]]
    assert len(kinds) > FEW
    media_ends = {end for end, kind in zip(ends[1:], kinds, strict=True) if kind in {b"mdat", b"mfra"}}
    cuts = {end + by for end in ends[FEW + 2 :] for by in (-9, -1, 0, 1, 4, 7, 8, 9)}
    for cut in sorted(cut for cut in cuts if cut <= len(content)):
        assert (inspect_few(content[:cut]) is None) == (cut in media_ends), cut


def test_a_walk_over_fragments_is_bounded_by_time() -> None:
    """A second passes at each look at the clock; the walk looks at it after every 1024 boxes."""
    content = FTYP + MOOV + (MOOF + MDAT) * 20_000
    seconds = itertools.count()
    with memory_file(content) as descriptor:
        require_complete_mp4(FileBytes(descriptor, len(content), clock=lambda: next(seconds)))
        assert next(seconds) < 30
        with pytest.raises(IncompleteError, match="took 20 seconds to read"):
            require_complete_mp4(FileBytes(descriptor, len(content) - 1, clock=lambda: next(seconds)))


def test_a_slow_disk_makes_no_file_of_few_boxes_incomplete() -> None:
    hours = itertools.count(step=3600)
    with memory_file(WHOLE) as descriptor:
        require_complete_mp4(FileBytes(descriptor, len(WHOLE), clock=lambda: next(hours)))


LIVE_SEGMENT = bytes.fromhex("18538067 01FFFFFFFFFFFFFF")
LIVE_CLUSTER = bytes.fromhex("1F43B675 01FFFFFFFFFFFFFF")
TRACKS, TIME = element("1654AE6B", bytes(50)), element("E7", b"\1", size_length=1)
SIMPLE_BLOCK = element("A3", bytes(200), size_length=2)
RECORDED = EBML + LIVE_SEGMENT + TRACKS + 2 * (LIVE_CLUSTER + TIME + 3 * SIMPLE_BLOCK)
"""As a browser's MediaRecorder writes it: the sizes of clusters are unknown, too."""


def inspect_live(content: bytes, extension: str = ".webm") -> str | None:
    with memory_file(content) as descriptor:
        return containers.inspect(descriptor, len(content), extension, accepts_live=True)


def test_a_live_container_is_complete_with_its_last_cluster_where_it_is_accepted(media: Media) -> None:
    content, extension = real(media, "live")
    assert "never closed" in (inspect(content, extension) or "complete")
    clusters = [match.start() for match in re.finditer(bytes.fromhex("1F43B675"), content)]
    assert len(clusters) > 1
    ends = {*clusters[1:], len(content)}
    cuts = {end + by for end in ends for by in range(-20, 20)} | set(range(0, len(content), 97))
    for cut in sorted(cut for cut in cuts if cut <= len(content)):
        assert (inspect_live(content[:cut]) is None) == (cut in ends), cut
    assert inspect_live(content + bytes(100))


def test_a_recorded_container_is_complete_with_a_whole_block() -> None:
    ends = {len(RECORDED) - length for length in (0, 203, 406)}
    ends |= {end - len(LIVE_CLUSTER + TIME + 3 * SIMPLE_BLOCK) for end in ends}
    for cut in range(len(RECORDED) + 1):
        assert (inspect_live(RECORDED[:cut]) is None) == (cut in ends), cut
    assert inspect_live(RECORDED + element("1C53BB6B", bytes(30))) is None
    assert inspect_live(RECORDED + RECORDED) is None


def test_only_a_segment_and_its_clusters_may_be_of_unknown_size() -> None:
    assert "never closed" in (inspect_live(EBML + LIVE_SEGMENT + bytes.fromhex("1654AE6B FF") + TIME) or "")


@pytest.mark.parametrize("kind", ["webm", "mkv"])
def test_a_closed_container_is_judged_as_before_where_live_ones_are_accepted(media: Media, kind: str) -> None:
    content, extension = real(media, kind)
    assert inspect_live(content, extension) is None
    assert inspect_live(content[:-1], extension)


def test_a_recording_of_many_blocks_is_judged_by_its_last_cluster() -> None:
    content = RECORDED + (LIVE_CLUSTER + TIME + 3 * SIMPLE_BLOCK) * FEW
    check = functools.partial(require_complete, accepts_live=True)
    assert inspect_few(content, check) is None
    for odd in (content[:-1], content + LIVE_CLUSTER + TIME, content + bytes(100)):
        assert "no player expects" in (inspect_few(odd, check) or "complete")


@pytest.mark.parametrize("content", [b"", EBML, EBML + SEGMENT, EBML + LIVE_SEGMENT, b"\0" * 50])
def test_only_a_segment_of_unknown_size_makes_a_container_live(content: bytes) -> None:
    with memory_file(content) as descriptor:
        is_live = containers.is_live(descriptor, len(content), ".WebM")
        assert is_live == (LIVE_SEGMENT in content)
        assert not containers.is_live(descriptor, len(content), ".mp4")
        if not is_live:
            with pytest.raises(IncompleteError):
                require_complete(FileBytes(descriptor, len(content) - len(SEGMENT)), accepts_live=True)


@pytest.mark.parametrize("tail", [b"\0", b"\r\n", bytes(4096), b"\x08\0\0\0\0\x81\0", b"EOF"])
def test_bytes_behind_a_closed_segment_are_no_defect_unless_another_one_begins(tail: bytes) -> None:
    assert inspect(EBML + SEGMENT + tail, ".mkv") is None
    assert inspect(EBML + SEGMENT[:-1], ".mkv")
    for length in range(1, 30):
        assert inspect(EBML + SEGMENT + (EBML + SEGMENT)[:length], ".mkv"), length
    for length in range(1, len(VOID)):
        assert inspect(EBML + SEGMENT + VOID[:length], ".mkv"), length


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.avi", ("-c:v", "mpeg4")),
        ("a.flv", ("-c:v", "flv")),
        ("a.wmv", ("-c:v", "wmv2")),
        ("a.mpg", ("-c:v", "mpeg2video", "-r", "25")),
        ("a.ts", ("-c:v", "mpeg2video", "-r", "25")),
        ("a.ogv", ("-c:v", "libtheora")),
    ],
)
@pytest.mark.parametrize("tail", [b"", b"x", b"G" + bytes(90), bytes(4096)], ids=len)
def test_files_of_other_formats_are_complete_with_whatever_behind(
    tmp_path: Path, name: str, options: tuple[str, ...], tail: bytes
) -> None:
    """A partial packet behind the others is usual in MPEG-TS, as is junk behind the chunks of RIFF."""
    path = tmp_path / name
    encode(str(path), *options)
    assert inspect(path.read_bytes() + tail, path.suffix) is None


def test_what_is_complete_with_a_trailer_plays(media: Media, tmp_path: Path) -> None:
    """ffmpeg decodes as many frames with the trailer as without it."""
    for kind in ("faststart", "plain", "per_frame"):
        content, extension = real(media, kind)
        for number, trailer in enumerate(
            (b"", TRAILERS["a page of zeros"], endless_box(b"free", bytes(300)))
        ):
            path = tmp_path / f"{kind}{number}{extension}"
            path.write_bytes(content + trailer)
            command = [FFMPEG, "-v", "error", "-i", str(path), "-f", "framecrc", "-"]
            frames = subprocess.run(command, check=True, capture_output=True).stdout
            assert len([line for line in frames.splitlines() if line[:1] != b"#"]) == 10
