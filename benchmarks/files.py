"""Sets of video files: complete containers of a given size, each with content of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

QUALITIES: Final = ("360p", "480p", "720p", "1080p")
_INDEX: Final = b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x08moov"
"""An MP4 that ffmpeg would not play, but whose boxes are complete (ISO/IEC 14496-12, 4.2)."""
_HOLES_FROM: Final = 256 * 2**20
_CACHED_UP_TO: Final = 4 * 2**30
_MARK: Final = 2**20
"""Of larger files one MiB in eight is written: a file of which less than a tenth is written is incomplete."""


@dataclass(frozen=True)
class FileSet:
    """Files below a directory, in the layout `VIDEO_ID/clip_QUALITY.mp4`."""

    root: str
    count: int
    size: int

    @property
    def bytes(self) -> int:
        """The size of all."""
        return self.count * self.size

    def paths(self) -> Iterator[str]:
        """The paths of all, relative to `root`."""
        for number in range(self.count):
            yield path_of(number)

    def move_into(self, directory: str) -> None:
        """Rename each file into another directory of the file system, one after the other."""
        made = ""
        for path in self.paths():
            video = os.path.dirname(path)
            if video != made:
                os.makedirs(os.path.join(directory, video), exist_ok=True)
                made = video
            os.rename(os.path.join(self.root, path), os.path.join(directory, path))

    def move_back(self, directory: str) -> None:
        """Rename each file back, and remove the directories of videos."""
        for path in self.paths():
            os.rename(os.path.join(directory, path), os.path.join(self.root, path))
        for name in os.listdir(directory):
            shutil.rmtree(os.path.join(directory, name), ignore_errors=True)

    def remove(self) -> None:
        """Delete all that is left."""
        shutil.rmtree(self.root, ignore_errors=True)


def video_id(number: int) -> str:
    """The id of a video."""
    return f"{number * 2654435761 % 2**32:08x}-0000-4000-8000-{number:012x}"


def path_of(number: int) -> str:
    """The path of a file of a set."""
    video, quality = divmod(number, len(QUALITIES))
    return f"{video_id(video)}/clip_{QUALITIES[quality]}.mp4"


def make_files(root: str, count: int, size: int) -> FileSet:
    """Make a set of files of `size` bytes each, which is on disk and in the page cache afterwards."""
    made = FileSet(root, count, size)
    for number, path in enumerate(made.paths()):
        full = os.path.join(root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        write_video(full, size, number)
    os.sync()
    if _HOLES_FROM <= size <= _CACHED_UP_TO:
        for path in made.paths():
            _read_through(os.path.join(root, path))
    return made


def write_video(path: str, size: int, number: int) -> None:
    """Write a video of `size` bytes, at least 64, whose content depends on `number`."""
    media = size - len(_INDEX)
    with open(path, "wb") as file:
        file.write(_INDEX + (1).to_bytes(4) + b"mdat" + media.to_bytes(8) + number.to_bytes(8))
        if size >= _HOLES_FROM:
            for offset in range(_MARK, size - _MARK, 8 * _MARK):
                file.seek(offset)
                file.write(_noise(number + offset, _MARK))
            file.truncate(size)
        else:
            left = size - file.tell()
            while left:
                block = _noise(number, min(left, _MARK))
                left -= file.write(block)


_NOISE: Final = os.urandom(2 * _MARK)


def _noise(number: int, length: int) -> bytes:
    begin = number * 4099 % _MARK
    return _NOISE[begin : begin + length]


def _read_through(path: str) -> None:
    buffer = bytearray(8 * _MARK)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            continue
