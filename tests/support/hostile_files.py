"""Everything that an attacker with write access to the watched directory could leave there."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass

HOSTILE_VIDEO = "6f1d2c3b-4a59-4e68-b7a6-95c4d3e2f101"
LINKED_VIDEO = "6f1d2c3b-4a59-4e68-b7a6-95c4d3e2f102"
EIGHT_TIB = 8 * 2**40
DEPTH = 300


@dataclass(frozen=True)
class Ground:
    """Where hostile things are put: below `completed`, beside `outside`, which holds a complete video."""

    completed: str
    outside: str

    @property
    def secret(self) -> str:
        """The complete video outside that must never be published."""
        return os.path.join(self.outside, "secret_720p.mp4")

    @property
    def hard_linked(self) -> str:
        """Another secret file, owned by another user: a second name would protect the first one."""
        return os.path.join(self.outside, "others_720p.mp4")

    def at(self, name: str) -> str:
        """The path of a name in the hostile video's directory."""
        return os.path.join(self.completed, HOSTILE_VIDEO, name)


Leave = Callable[[Ground], None]


def _link(name: str, target: str) -> Leave:
    return lambda ground: os.symlink(target.format(secret=ground.secret), ground.at(name))


def _bytes(name: str | bytes, content: bytes = b"nothing that plays") -> Leave:
    def leave(ground: Ground) -> None:
        directory = os.fsencode(ground.at(""))
        with open(os.path.join(directory, os.fsencode(name)), "wb") as file:
            file.write(content)

    return leave


def _socket(ground: Ground) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(ground.at("socket_720p.mp4"))


def _device(name: str, kind: int, number: int) -> Leave:
    def leave(ground: Ground) -> None:
        # A container without CAP_MKNOD has no devices to be attacked with either.
        if os.geteuid() == 0:
            os.mknod(ground.at(name), kind | 0o666, os.makedev(1, number))

    return leave


def _sparse(name: str, beginning: bytes = b"") -> Leave:
    def leave(ground: Ground) -> None:
        with open(ground.at(name), "wb") as file:
            file.write(beginning)
            file.truncate(EIGHT_TIB)

    return leave


def _linked_directory(ground: Ground) -> None:
    os.symlink(ground.outside, os.path.join(ground.completed, LINKED_VIDEO))


def _link_in_the_middle(ground: Ground) -> None:
    os.symlink(ground.outside, ground.at("middle"))


def _deep(ground: Ground) -> None:
    """A path longer than the kernel takes in one go."""
    directory = os.open(ground.at(""), os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(DEPTH):
        os.mkdir("a directory in a dir", dir_fd=directory)
        below = os.open("a directory in a dir", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)


def _box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def _boxes(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        content = _box(b"moov", content)
    return content


_EBML = bytes.fromhex("1A45DFA380")
_LONG_NAME = "n" * (255 - len("_720p.mp4")) + "_720p.mp4"

KINDS: dict[str, Leave] = {
    "a link to a video outside": _link("link_720p.mp4", "{secret}"),
    "a relative link out of the directory": _link("up_720p.mp4", "../../outside/secret_720p.mp4"),
    "a link to nothing": _link("dangling_720p.mp4", "/nonexistent/secret_720p.mp4"),
    "a link to itself": _link("loop_720p.mp4", "loop_720p.mp4"),
    "a link to a device": _link("zero_720p.mp4", "/dev/zero"),
    "a link to memory of the process": _link("mem_720p.mp4", "/proc/self/mem"),
    "a directory that is a link": _linked_directory,
    "a link in the middle of a path": _link_in_the_middle,
    "dots, percent-encoded": _bytes("x%2F..%2F..%2Foutside%2Fsecret_720p.mp4"),
    "dots, encoded twice": _bytes("x%252F..%252Fsecret_720p.mp4"),
    "dots behind backslashes": _bytes("x\\..\\..\\outside\\secret_720p.mp4"),
    "dots and slashes that only look so": _bytes("x\uff0f\u2025\uff0fsecret_720p.mp4"),
    "dots in overlong UTF-8": _bytes(b"x\xc0\xaf\xc0\xae\xc0\xae\xc0\xafsecret_720p.mp4"),
    "a FIFO": lambda ground: os.mkfifo(ground.at("fifo_720p.mp4")),
    "a socket": _socket,
    "a character device": _device("null_720p.mp4", stat.S_IFCHR, 3),
    "an endless device": _device("endless_720p.mp4", stat.S_IFCHR, 5),
    "a block device": _device("disk_720p.mp4", stat.S_IFBLK, 0),
    "a directory with a video's name": lambda ground: os.mkdir(ground.at("directory_720p.mp4")),
    "8 TiB of nothing": _sparse("sparse_720p.mp4"),
    "8 TiB of nothing, of a kind that nobody looks into": _sparse("sparse_720p.avi"),
    "8 TiB of nothing, in boxes that are complete": _sparse(
        "boxes_720p.mp4", _box(b"moov", bytes(8)) + b"\0\0\0\0mdat"
    ),
    "a hard link to somebody else's video": lambda ground: os.link(
        ground.hard_linked, ground.at("hard_720p.mp4")
    ),
    "a name with newlines": _bytes("two\nlines\r\n_720p.mp4"),
    "a name that clears the terminal": _bytes("\x1b[2J\x1b]0;title\x07_720p.mp4"),
    "a name with C1 controls": _bytes("\x9b31m\x85_720p.mp4"),
    "a name with DEL": _bytes("\x7f\x7f_720p.mp4"),
    "a name that turns the line around": _bytes("\u202e4pm.p027_\u2066_720p.mp4"),
    "a name of 255 bytes": _bytes(_LONG_NAME),
    "a name that is not UTF-8": _bytes(b"\xff\xfe\x80_720p.mp4"),
    "a directory that is not UTF-8": lambda ground: os.mkdir(os.fsencode(ground.at("")) + b"\xff\x1b[2J"),
    "a name of ours": _bytes(".video-uploader-1.aside"),
    "a name of ours with a claim": _bytes(".video-uploader-1-1.aside"),
    "a name of ours with a number no database holds": _bytes(f".video-uploader-{10**40}.aside"),
    "a name of another ledger": _bytes(f".video-uploader-{'0' * 16}-1-1-\x1b[2J_720p.mp4.aside"),
    "a link under a name of ours": _link(".video-uploader-2.aside", "{secret}"),
    "a FIFO under a name of ours": lambda ground: os.mkfifo(ground.at(".video-uploader-3.aside")),
    "an empty file": _bytes("empty_720p.mp4", b""),
    "a box larger than any disk": _bytes("large_720p.mp4", b"\0\0\0\1mdat" + b"\xff" * 8),
    "a box of no size": _bytes("nothing_720p.mp4", b"\0\0\0\1moov" + bytes(8)),
    "boxes that only say: to the end": _bytes("zeros_720p.mp4", b"\0\0\0\0moov" * 1000),
    "a box whose name is an escape": _bytes("escape_720p.mp4", b"\0\0\0\x7f\x9b31m"),
    "boxes in boxes": _bytes("deep_720p.mp4", _boxes(5000)),
    "nothing but tiny boxes": _bytes("tiny_720p.mp4", b"\0\0\0\x08free" * 300_000),
    "an element larger than any disk": _bytes(
        "large_720p.mkv", _EBML + b"\x18\x53\x80\x67\x01" + b"\xfe" * 7
    ),
    "an element of no known size": _bytes("open_720p.webm", _EBML + b"\x18\x53\x80\x67\xff" + bytes(100)),
    "nothing but tiny elements": _bytes("tiny_720p.mkv", _EBML + b"\xec\x80" * 300_000),
    "directories deeper than a path can be long": _deep,
}
