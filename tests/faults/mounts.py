"""File systems of a test's own, to be filled, made read-only and taken away; where mounting is not allowed
the test is skipped and says why."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest


def run(*command: str) -> None:
    """Run a system command; whatever it says is the reason of a skip."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
    except FileNotFoundError:
        pytest.skip(f"there is no {command[0]} here")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{' '.join(command)} is not allowed here: {error.stderr.strip()}")


@dataclass
class Mount:
    """A file system that is mounted at `path`."""

    path: str

    def fill(self) -> None:
        """Leave not a byte free."""
        block = b"\0" * 65536
        with open(self._filler, "wb", buffering=0) as file, suppress(OSError):
            while file.write(block):
                continue
        assert os.statvfs(self.path).f_bavail == 0

    def empty(self) -> None:
        """Take away what filled it."""
        os.unlink(self._filler)

    def remount(self, how: str) -> None:
        """Make it ``ro`` or ``rw``."""
        run("mount", "-o", f"remount,{how}", self.path)

    @property
    def _filler(self) -> str:
        return os.path.join(self.path, "filler")


@contextmanager
def small_disk(path: str, size: str = "4m") -> Iterator[Mount]:
    """A tmpfs of that size, mounted at a directory that is made."""
    os.makedirs(path, exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "video-uploader-test", path)
    try:
        yield Mount(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=False, capture_output=True, timeout=20)


@dataclass
class Disk:
    """An ext4 file system in a file, mounted at `path`."""

    image: str
    path: str

    def mount(self) -> None:
        """Mount it, as a server does at its start."""
        run("mount", "-o", "loop,errors=remount-ro", self.image, self.path)

    def fail(self) -> None:
        """Make the kernel find an error, after which the file system is read-only; see ext4(5)."""
        found = subprocess.run(
            ["findmnt", "-no", "SOURCE", self.path], check=True, capture_output=True, text=True, timeout=20
        )
        device = os.path.basename(found.stdout.strip())
        try:
            with open(f"/sys/fs/ext4/{device}/trigger_fs_error", "w", encoding="ascii") as trigger:
                trigger.write("a test")
        except OSError as error:
            pytest.skip(f"no error can be made in a file system here: {error}")

    def repair(self) -> None:
        """Check the unused file system and mount it again, as an operator does."""
        unmount(self.path)
        subprocess.run(["e2fsck", "-fy", self.image], check=False, capture_output=True, timeout=20)
        self.mount()


@contextmanager
def failing_disk(path: str) -> Iterator[Disk]:
    """A small disk that can fail, mounted at a directory that is made."""
    disk = Disk(f"{path}.image", path)
    os.makedirs(path)
    with open(disk.image, "wb") as image:
        image.truncate(32 << 20)
    run("mkfs.ext4", "-q", disk.image)
    disk.mount()
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", path], check=False, capture_output=True, timeout=20)


@contextmanager
def slow_view(source: str, path: str, bytes_per_second: int) -> Iterator[None]:
    """Show a directory at another place, where no more than that can be read or written; see bindfs(1)."""
    rate = str(bytes_per_second)
    run("bindfs", f"--read-rate={rate}", f"--write-rate={rate}", source, path)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=False, capture_output=True, timeout=20)


def bind(source: str, path: str) -> None:
    """Show a directory at another place, too."""
    run("mount", "--bind", source, path)


def unmount(path: str) -> None:
    """Take away what is mounted there, as an operator would."""
    subprocess.run(["umount", path], check=True, capture_output=True, timeout=20)
