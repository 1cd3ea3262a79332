"""MP4 and QuickTime: a row of boxes from the first byte to the last (ISO/IEC 14496-12, 4.2).

A box begins with its size, header included, as four bytes, and its type, as four characters. Size 1 means
that eight bytes with the real size follow; size 0 that the box goes on to the end of the file.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from watcher.containers.reading import MAX_ELEMENTS, FileBytes, IncompleteError

_HEADER = 8
_LONG_HEADER = 16
_REACHES_TO_THE_END = 0
_SIZE_IS_LONG = 1


@dataclass(frozen=True, slots=True)
class _Box:
    kind: bytes
    end: int


def require_complete(file: FileBytes) -> None:
    """Raise IncompleteError unless the file is a complete MP4.

    Its boxes end exactly at the end of the file, and among them are `moov`, the index without which nothing
    plays, and `mdat`, the media: a file with its index in front may have been cut off right behind it. The
    same goes for the index of a fragment, `moof`; whether further fragments followed, nothing tells.
    """
    kinds, last = set(), b""
    for box in _boxes(file):
        kinds.add(box.kind)
        last = box.kind
    if b"moov" not in kinds:
        raise IncompleteError("The moov box (the index) is missing: the encoder did not get to its end.")
    if b"mdat" not in kinds:
        raise IncompleteError("The mdat box (the media) is missing: the file was cut off after its index.")
    if last == b"moof":
        raise IncompleteError("The media of the last fragment is missing: the file was cut off before it.")


def _boxes(file: FileBytes) -> Iterator[_Box]:
    offset = 0
    for _ in range(MAX_ELEMENTS):
        if offset == file.size:
            return
        box = _box(file, offset)
        yield box
        offset = box.end
    raise IncompleteError(f"It has {MAX_ELEMENTS} boxes or more, which no player expects.")


def _box(file: FileBytes, offset: int) -> _Box:
    header = file.at(offset, _LONG_HEADER)
    if len(header) < _HEADER:
        raise IncompleteError(f"It breaks off in the box header at byte {offset}.")
    kind = header[4:_HEADER]
    if not _is_type(kind):
        raise IncompleteError(f"There is no box at byte {offset}, where one must begin.")
    name = f"{kind.decode('ascii', 'backslashreplace')} box at byte {offset}"
    left = file.size - offset
    size, own = int.from_bytes(header[:4], "big"), _HEADER
    if size == _REACHES_TO_THE_END:
        # Muxers fill a box's size in when they are done with it. Only the media is ever left open on purpose;
        # a moov of size zero is one that ffmpeg was killed in.
        if kind != b"mdat":
            raise IncompleteError(f"The {name} was never finished: its size is not filled in.")
        size = left
    elif size == _SIZE_IS_LONG:
        size, own = int.from_bytes(header[_HEADER:], "big"), _LONG_HEADER
    if size > left or own > left:
        raise IncompleteError(f"It breaks off in the {name}: {max(size, own) - left} bytes are missing.")
    if size < own:
        raise IncompleteError(f"The {name} claims {size} bytes, fewer than its own header has.")
    return _Box(kind, offset + size)


def _is_type(kind: bytes) -> bool:
    """Whether four bytes can be a box type: printable ASCII or Mac Roman, not the zeros of a power cut."""
    return all(0x20 <= byte != 0x7F for byte in kind)
