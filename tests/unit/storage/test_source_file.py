"""Reading and hashing a local file, and detection of its changes."""

import ctypes
import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from storage import (
    ErrorKind,
    PartialChecksum,
    SourceChangedError,
    SourceFile,
    StorageError,
    UploadCancelledError,
    checksums,
    part_size_for,
    source_file,
)
from storage.source_file import BUFFER_BYTES
from storage.transfer.part_layout import max_parts_of, part_size_of, parts_of

SourceOf = Callable[..., SourceFile]
MIB = 1024 * 1024


@pytest.mark.parametrize(
    "size", [0, 1, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, 3 * BUFFER_BYTES + 7]
)
def test_digests_are_those_of_the_whole_content(source_of: SourceOf, size: int) -> None:
    content = os.urandom(size)
    source = source_of(content)
    assert source.size == size
    md5 = hashlib.md5()
    assert (
        source.checksum() == source.checksum(copy_to=md5.update) == checksums.encode(checksums.crc(content))
    )
    assert source.etags(None)[0] == md5.hexdigest() == hashlib.md5(content).hexdigest()


def test_the_etag_of_parts_follows_the_part_size(source_of: SourceOf) -> None:
    content = os.urandom(2 * MIB + 5)
    source = source_of(content)
    parts = [content[:MIB], content[MIB : 2 * MIB], content[2 * MIB :]]
    assert source.etags(MIB)[0] == checksums.multipart_etag([hashlib.md5(part).digest() for part in parts])
    assert source.etags(MIB)[0] != source.etags(2 * MIB)[0]


def read(source: SourceFile, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    source.read_into(memoryview(buffer), offset)
    return bytes(buffer)


def test_a_read_gives_exactly_what_was_asked_for(source_of: SourceOf) -> None:
    source = source_of(b"0123456789")
    assert read(source, 0, 10) == b"0123456789"
    assert read(source, 3, 4) == b"3456"
    assert read(source, 10, 0) == b""


def test_a_read_that_the_system_cuts_short_is_completed(
    source_of: SourceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_preadv = os.preadv
    source = source_of(b"0123456789")
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: real_preadv(fd, [buffers[0][:3]], offset))
    assert read(source, 1, 8) == b"12345678"


def test_a_file_that_became_shorter_has_changed(source_of: SourceOf, path: Path) -> None:
    source = source_of(bytes(100))
    os.truncate(path, 50)
    with pytest.raises(SourceChangedError):
        read(source, 0, 100)
    with pytest.raises(SourceChangedError):
        source.checksum()
    with pytest.raises(SourceChangedError):
        source.etags(None)[0]
    for digest in (source.crc, source.md5):
        with pytest.raises(SourceChangedError, match="ended at byte 50 of 100"):
            digest(0, 100)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def overwrite_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"y")
    os.utime(path, ns=(1, 1))


def move_mtime(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [append, overwrite_in_place, move_mtime])
def test_a_file_that_changes_between_two_reads_is_never_given_a_digest(
    source_of: SourceOf, path: Path, change: Callable[[Path], None]
) -> None:
    content = bytes(3 * BUFFER_BYTES)
    for digest in (SourceFile.checksum, lambda source: source.etags(None)[0]):
        blocks: list[int] = []

        def change_after_the_first_block(count: int, blocks: list[int] = blocks) -> None:
            blocks.append(count)
            if len(blocks) == 2:
                change(path)

        with pytest.raises(SourceChangedError):
            digest(source_of(content, nullcontext(change_after_the_first_block)))
        assert blocks[:2] == [0, BUFFER_BYTES]


def test_links_and_permissions_are_not_content(source_of: SourceOf, path: Path) -> None:
    source = source_of(b"content")
    path.chmod(0o600)
    os.link(path, path.with_suffix(".link"))
    source.ensure_unchanged()


def test_a_change_says_what_changed(source_of: SourceOf, path: Path) -> None:
    source = source_of(b"1234")
    os.utime(path, ns=(1, 1))
    with pytest.raises(SourceChangedError, match=r"mtime_ns was \d+ and is 1") as caught:
        source.ensure_unchanged()
    assert caught.value.kind is ErrorKind.TRANSIENT
    assert caught.value.code == "source-changed"


class Interrupting:
    """A pace that ends the read before the third block, and records when it is entered and left."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def __enter__(self) -> Callable[[int], None]:
        self.told.append("enter")
        return self._before_block

    def __exit__(self, *_: object) -> None:
        self.told.append("exit")

    def _before_block(self, count: int) -> None:
        self.told.append(count)
        if self.told[-3:-1] == [0, BUFFER_BYTES]:
            raise UploadCancelledError(operation="read")


def test_every_hashing_keeps_to_its_pace_and_ends_when_that_raises(source_of: SourceOf) -> None:
    content = bytes(3 * BUFFER_BYTES)
    for hashing in (
        SourceFile.checksum,
        lambda source: source.etags(None)[0],
        lambda source: source.etags(3 * BUFFER_BYTES)[0],
        lambda source: source.crc(0, source.size),
        lambda source: source.md5(0, source.size),
    ):
        pace = Interrupting()
        with pytest.raises(UploadCancelledError):
            hashing(source_of(content, pace))
        assert pace.told == ["enter", 0, BUFFER_BYTES, BUFFER_BYTES, "exit"]


def test_an_interrupted_checksum_is_continued_where_it_was(
    source_of: SourceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(5 * BUFFER_BYTES)
    done = PartialChecksum()
    with pytest.raises(UploadCancelledError):
        source_of(content, Interrupting()).checksum(done)
    assert done == PartialChecksum(2 * BUFFER_BYTES, checksums.crc(content[: 2 * BUFFER_BYTES]))
    offsets: list[int] = []
    real_preadv = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        offsets.append(offset)
        return real_preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    assert source_of(content).checksum(done) == checksums.encode(checksums.crc(content))
    assert offsets == [2 * BUFFER_BYTES, 3 * BUFFER_BYTES, 4 * BUFFER_BYTES]


def test_content_is_on_the_disk_before_it_is_hashed(
    source_of: SourceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_fsync, real_preadv = os.fsync, os.preadv

    @contextmanager
    def waiting() -> Iterator[None]:
        calls.append("waits")
        yield
        calls.append("goes on")

    source = source_of(b"content", None, waiting)

    def fsync(fd: int) -> None:
        calls.append("fsync")
        real_fsync(fd)

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        calls.append("preadv")
        return real_preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "preadv", preadv)
    source.checksum()
    assert calls == ["waits", "fsync", "goes on", "preadv"]


def test_a_large_file_is_written_to_the_disk_in_stretches_that_keep_to_the_pace(
    source_of: SourceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    sync_range, real_fsync = source_file._sync_range, os.fsync

    def note_range(fd: int, offset: int, length: int) -> None:
        told.append((offset, length))
        sync_range(fd, offset, length)

    def fsync(fd: int) -> None:
        told.append("fsync")
        real_fsync(fd)

    monkeypatch.setattr(source_file, "WRITE_BACK_BYTES", 2 * BUFFER_BYTES)
    monkeypatch.setattr(source_file, "_sync_range", note_range)
    monkeypatch.setattr(os, "fsync", fsync)
    content = os.urandom(3 * BUFFER_BYTES)
    assert source_of(content, nullcontext(told.append)).checksum() == checksums.encode(checksums.crc(content))
    assert told[:5] == [0, (0, 2 * BUFFER_BYTES), 0, (2 * BUFFER_BYTES, 2 * BUFFER_BYTES), "fsync"]
    assert told[5:] == [0, BUFFER_BYTES, BUFFER_BYTES]


def test_an_error_of_the_disk_while_it_is_written_is_not_lost(
    source_of: SourceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(bytes(10))
    monkeypatch.setattr(source_file, "WRITE_BACK_BYTES", 5)

    def fail(code: int) -> Callable[..., int]:
        def sync_file_range(*_: object) -> int:
            ctypes.set_errno(code)
            return -1

        return sync_file_range

    monkeypatch.setattr(source_file, "_sync_file_range", fail(errno.EIO))
    with pytest.raises(StorageError, match="Input/output error"):
        source.checksum()
    monkeypatch.setattr(source_file, "_sync_file_range", fail(errno.ENOSYS))
    assert source.checksum() == checksums.encode(checksums.crc(bytes(10)))


@pytest.mark.parametrize("call", ["fsync", "preadv"])
def test_a_disk_that_cannot_be_read_is_this_objects_own_problem(
    source_of: SourceOf, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    source = source_of(b"content")
    monkeypatch.setattr(os, call, broken)
    with pytest.raises(StorageError, match="Input/output error") as caught:
        source.checksum()
    assert caught.value.kind is ErrorKind.OBJECT
    assert caught.value.code == "source-unreadable"


def test_only_a_regular_file_is_a_source(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(ValueError, match="regular file"):
            SourceFile(fd)
    finally:
        os.close(fd)


def test_the_descriptor_stays_the_callers(source_of: SourceOf, path: Path) -> None:
    fd = os.open(path, os.O_CREAT | os.O_RDONLY)
    source = SourceFile(fd)
    source.checksum()
    del source
    os.close(fd)


@pytest.mark.parametrize(
    ("size", "part_size"),
    [
        (0, None),
        (16 * MIB - 1, None),
        (16 * MIB, 8 * MIB),
        (80_000 * MIB, 8 * MIB),
        (80_000 * MIB + 1, 9 * MIB),
        (5 * MIB * MIB, 525 * MIB),
    ],
)
def test_parts_grow_so_that_ten_thousand_suffice(size: int, part_size: int | None) -> None:
    assert part_size_for(size) == part_size
    assert part_size is None or -(-size // part_size) <= 10_000


@pytest.mark.parametrize(
    ("size", "rate", "part_size"),
    [
        (5 * MIB, 1.0, None),
        (5 * MIB + 1, 64_000.0, 5 * MIB),
        (6 * MIB, 0.2 * MIB, None),
        (15 * MIB, 0.2 * MIB, 5 * MIB),
        (16 * MIB, 0.5 * MIB, 5 * MIB),
        (16 * MIB, 0.6 * MIB, 8 * MIB),
        (50_000 * MIB, 1.0, 5 * MIB),
        (50_000 * MIB + 1, 1.0, 6 * MIB),
    ],
)
def test_a_slow_line_gets_small_parts_and_a_single_put_only_for_what_takes_a_minute(
    size: int, rate: float, part_size: int | None
) -> None:
    assert part_size_for(size, rate) == part_size
    assert part_size is None or -(-size // part_size) <= 10_000


@pytest.mark.parametrize(
    ("size", "part_size"),
    [(16 * MIB, 8 * MIB), (8_000 * MIB, 8 * MIB), (8_000 * MIB + 1, 9 * MIB), (40_000 * MIB, 40 * MIB)],
)
def test_parts_grow_with_the_file_where_the_server_takes_a_thousand(size: int, part_size: int) -> None:
    assert part_size_for(size, max_parts=1_000) == part_size
    assert part_size_of(f"0-{-(-size // part_size)}", size, None, max_parts=1_000) == part_size


@pytest.mark.parametrize(
    ("endpoint", "limit"),
    [
        (None, 10_000),
        ("https://s3.fr-par.scw.cloud", 1_000),
        ("https://media.s3.nl-ams.scw.cloud:443/", 1_000),
        ("https://notscw.cloud", 10_000),
        ("https://s3.scw.cloud.example.com", 10_000),
    ],
)
def test_scaleway_is_known_to_take_a_thousand_parts(endpoint: str | None, limit: int) -> None:
    assert max_parts_of(endpoint) == limit


@pytest.mark.parametrize("size", [16 * MIB, 16 * MIB + 1, 24 * MIB - 1, 24 * MIB])
def test_parts_cover_a_file_once_and_in_order(size: int) -> None:
    part_size = part_size_for(size)
    assert part_size is not None
    parts = list(parts_of(size, part_size))
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    end = 0
    for part in parts:
        assert part.offset == end
        assert 0 < part.length <= part_size
        end += part.length
    assert end == size
