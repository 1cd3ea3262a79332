"""Reads a local file through a descriptor and detects every change of it.

The file is never mapped into memory: the compressor truncates renditions in place when it compresses again,
and access to a mapped page past the new end raises SIGBUS, where a read is merely short.
"""

import ctypes
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

from storage import checksums
from storage.errors import ErrorKind, SourceChangedError, StorageError

BUFFER_BYTES = 1024 * 1024
"""Read size for hashing."""
WRITE_BACK_BYTES = 64 * 1024 * 1024
"""How much of a large file is written to the disk at a time."""

_WRITE_AND_WAIT = 1 | 2 | 4
"""SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE and _WAIT_AFTER; see sync_file_range(2)."""
_NOT_SUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ESPIPE})
_sync_file_range = ctypes.CDLL(None, use_errno=True).sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


Pace = AbstractContextManager[Callable[[int], object]]
"""What a long read keeps to. It is entered for every stretch of a file that is hashed; the function that it
gives is called before each block, with the number of bytes read since the last call. Either may wait, and may
raise, which ends the read."""


def never_cancelled() -> bool:
    """The `cancelled` of operations that nothing cancels."""
    return False


@dataclass(slots=True)
class PartialChecksum:
    """How far a file was hashed when that was interrupted: bytes from its start, and their CRC64NVME."""

    offset: int = 0
    value: int = 0


class FileIdentity(NamedTuple):
    """What changes with a file's content while it is sent.

    Not ctime, which chmod and hard links change too: what is sent is compared with the checksum anyway.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, fd: int) -> "FileIdentity":
        """The present identity of an open file."""
        status = os.fstat(fd)
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class SourceFile:
    """An open regular file that is hashed and sent. The caller closes the descriptor.

    Its identity is taken at construction; any later change of it raises `SourceChangedError`, and a read
    error `StorageError` of kind object. Safe for threads without a `pace`, because every read names its
    offset. What hashes, but not `read_into`, keeps to `pace` and raises what that raises. The disk is waited
    for in the context that `waiting` makes.
    """

    def __init__(
        self,
        fd: int,
        pace: Pace | None = None,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("only a regular file can be uploaded")
        self._fd = fd
        self._pace = pace or nullcontext(_at_once)
        self._waiting = waiting
        self.identity = FileIdentity.of(fd)

    @property
    def size(self) -> int:
        """Length in bytes at construction."""
        return self.identity.size

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with the bytes from `offset`; `SourceChangedError` if the file ends before."""
        done = 0
        while done < len(buffer):
            with _reading:
                count = os.preadv(self._fd, [buffer[done:]], offset + done)
            if not count:
                raise SourceChangedError(f"it ended before byte {offset + len(buffer)}")
            done += count

    def ensure_unchanged(self) -> None:
        """Raise `SourceChangedError` unless device, inode, size and mtime are those of the construction."""
        with _reading:
            now = FileIdentity.of(self._fd)
        changes = [
            f"{name} was {before} and is {after}"
            for name, before, after in zip(FileIdentity._fields, self.identity, now, strict=True)
            if before != after
        ]
        if changes:
            raise SourceChangedError(", ".join(changes))

    def checksum(
        self, done: PartialChecksum | None = None, *, copy_to: Callable[[memoryview], object] | None = None
    ) -> str:
        """CRC64NVME of the whole file in S3's text form, after its data has reached the disk (fsync).

        What is hashed thus survives a power cut. Hashing begins where `done` ends, which is kept up to date:
        passed again after an interruption, it has only the rest of the same content read. Each block is given
        to `copy_to`. Raises `SourceChangedError` if the file changed while it was read.
        """
        done = done or PartialChecksum()
        if not done.offset:
            self.write_back()
        for block in self._blocks(done.offset, self.size - done.offset):
            done.value = checksums.crc(block, done.value)
            if copy_to is not None:
                copy_to(block)
            done.offset += len(block)
        self.ensure_unchanged()
        return checksums.encode(done.value)

    def write_back(self) -> None:
        """Write the file's data to the disk, a large file in stretches: fsync(2) alone can take minutes.

        Raises as `checksum`, but for a change.
        """
        if self.size > WRITE_BACK_BYTES:
            with self._pace as keep_to_pace:
                for offset in range(0, self.size, WRITE_BACK_BYTES):
                    keep_to_pace(0)
                    with _reading:
                        _sync_range(self._fd, offset, WRITE_BACK_BYTES)
        with self._waiting(), _reading:
            os.fsync(self._fd)

    def etags(self, part_size: int | None) -> tuple[str, ...]:
        """The ETags, without quotes, that servers give this file sent in parts of `part_size` bytes.

        None means sent with a single PUT. Of a file in parts most make the MD5 of the parts' MD5s, and some
        the MD5 of the whole; one pass gives both. Raises as `checksum` does.
        """
        whole = hashlib.md5(usedforsecurity=False)
        of_parts = []
        for offset in range(0, self.size, part_size or max(self.size, 1)):
            of_part = hashlib.md5(usedforsecurity=False)
            for block in self._blocks(offset, min(part_size or self.size, self.size - offset)):
                of_part.update(block)
                if part_size is not None:
                    whole.update(block)
            of_parts.append(of_part)
        self.ensure_unchanged()
        if part_size is None:
            return ((of_parts[0] if of_parts else whole).hexdigest(),)
        return checksums.multipart_etag([digest.digest() for digest in of_parts]), whole.hexdigest()

    def crc(self, offset: int, length: int) -> int:
        """CRC64NVME of `length` bytes from `offset`. Raises as `checksum`, but for a change elsewhere."""
        value = 0
        for block in self._blocks(offset, length):
            value = checksums.crc(block, value)
        return value

    def md5(self, offset: int, length: int) -> bytes:
        """MD5 of `length` bytes from `offset`, which servers make ETags from. Raises as `crc` does."""
        digest = hashlib.md5(usedforsecurity=False)
        for block in self._blocks(offset, length):
            digest.update(block)
        return digest.digest()

    def _blocks(self, offset: int, length: int) -> Iterator[memoryview]:
        """The bytes from `offset`, in blocks that share one buffer."""
        buffer = memoryview(bytearray(min(length, BUFFER_BYTES)))
        end = offset + length
        count = 0
        with self._pace as keep_to_pace:
            while offset < end:
                keep_to_pace(count)
                with _reading:
                    count = os.preadv(self._fd, [buffer[: end - offset]], offset)
                if not count:
                    raise SourceChangedError(f"it ended at byte {offset} of {end}")
                yield buffer[:count]
                offset += count


def _at_once(_count: int) -> None:
    """The pace of a read that nothing holds up."""


def _sync_range(fd: int, offset: int, length: int) -> None:
    """Write a stretch of a file's data to the disk and wait for it. Does nothing where that is impossible."""
    if _sync_file_range(fd, offset, length, _WRITE_AND_WAIT) != 0:
        code = ctypes.get_errno()
        # Any other error must be raised here: fsync(2) does not report it a second time.
        if code not in _NOT_SUPPORTED:
            raise OSError(code, os.strerror(code))


class _Reading:
    """Raises an OSError in its block as a `StorageError`. One for all: it keeps nothing."""

    __slots__ = ()

    def __enter__(self) -> None:
        """Nothing has to be done before."""

    def __exit__(self, _kind: type[BaseException] | None, exc: BaseException | None, *_: object) -> None:
        if isinstance(exc, OSError):
            reason = f"The local file cannot be read ({exc.strerror})"
            hint = f"{reason}: look at the disk and the file's permissions."
            raise StorageError(ErrorKind.OBJECT, "read", None, "source-unreadable", hint) from exc


_reading = _Reading()
