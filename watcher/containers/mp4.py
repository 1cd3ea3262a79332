"""MP4 and QuickTime: a sequence of boxes from the first byte (ISO/IEC 14496-12, 4.2).

A box begins with its size, header included, in four bytes, and its type, in four characters. Size 1 means
that the real size follows in eight bytes; size 0, that the box extends to the end of the file.

Other bytes may follow the last box: a camera's own data, or zeros. They are told from a truncated box by the
index: `moov` names the offset of every piece of media, and a fragmented file is closed by `mfra`.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from watcher.containers.reading import (
    BLOCK,
    Element,
    FileBytes,
    IncompleteError,
    UnfinishedWalkError,
    elements,
)

_HEADER = 8
_LONG_HEADER = 16
_EXTENDS_TO_END = 0
_HAS_LARGE_SIZE = 1

_MEDIA = frozenset({b"moov", b"moof", b"mdat"})
_SKIPPED = frozenset({b"free", b"skip", b"uuid", b"wide"})
"""Types whose content no player needs."""
_OF_FRAGMENTS = frozenset({b"styp", b"sidx", b"ssix", b"prft", b"emsg", b"mfra"})
_KNOWN = _MEDIA | _SKIPPED | _OF_FRAGMENTS

_INDEX_CONTAINERS = frozenset({b"trak", b"mdia", b"minf", b"stbl"})
_CHUNK_OFFSETS = {b"stco": 4, b"co64": 8}
"""Tables of the offsets of the media, with the length of an offset (ISO/IEC 14496-12, 8.7.5)."""
_MAX_INDEX_BOXES = 2**12
_MAX_CANDIDATES = 64
_MAX_FRAGMENT_BOXES = 64


@dataclass(slots=True)
class _Walk:
    """The boxes that were read, in their order: the last one, and the last index."""

    kinds: set[bytes]
    last: Element
    index: Element | None = None


def require_complete(file: FileBytes) -> None:
    """Raise IncompleteError unless the file is a complete MP4.

    It has `moov`, the index, and `mdat`, the media, as a whole: a file that begins with its index may be
    truncated right after it. The same holds for `moof`, the index of a fragment. What follows these is no
    truncated box (`_is_trailer`). Of a file with too many boxes to be read, the last fragment ends at the end
    of the file. Missing fragments at the end cannot be detected.
    """
    walk = _Walk(set(), Element(b"", 0, 0))
    try:
        for box in elements(file, _read_box, name="boxes"):
            walk.kinds.add(box.kind)
            walk.last = box
            if box.kind == b"moov":
                walk.index = box
    except UnfinishedWalkError:
        if not walk.kinds >= _MEDIA or not _ends_in_fragment(file):
            raise
        return
    except IncompleteError:
        if not walk.kinds >= {b"moov", b"mdat"} or not _is_trailer(file, walk):
            raise
    if b"moov" not in walk.kinds:
        raise IncompleteError("The moov box (the index) is missing: the encoder did not finish.")
    if b"mdat" not in walk.kinds:
        raise IncompleteError("The mdat box (the media) is missing: the file is truncated after its index.")
    if walk.last.kind == b"moof":
        raise IncompleteError("The media of the last fragment is missing: the file is truncated before it.")


def _read_box(file: FileBytes, offset: int) -> Element:
    header = file.read_at(offset, _LONG_HEADER)
    if len(header) < _HEADER:
        raise IncompleteError(f"It is truncated in the box header at byte {offset}.")
    kind = header[4:_HEADER]
    if not _is_type(kind):
        raise IncompleteError(f"There is no valid box type at byte {offset}.")
    name = f"{kind.decode('ascii', 'backslashreplace')} box at byte {offset}"
    left = file.size - offset
    size, own = _size(header)
    if size == _EXTENDS_TO_END and own == _HEADER:
        # A muxer writes a box's size when the box is complete. Only mdat is left open on purpose; ffmpeg
        # leaves a moov of size zero when it is killed while writing it.
        if kind != b"mdat":
            raise IncompleteError(f"The {name} was never finished: its size is zero.")
        size = left
    if size > left or own > left:
        raise IncompleteError(f"It is truncated in the {name}: {max(size, own) - left} bytes are missing.")
    if size < own:
        raise IncompleteError(f"The {name} has a size of {size} bytes, less than its header.")
    return Element(kind, offset + own, offset + size)


def _size(header: bytes) -> tuple[int, int]:
    """The size of a box and that of its header, as the header has them."""
    size = int.from_bytes(header[:4], "big")
    if size == _HAS_LARGE_SIZE:
        return int.from_bytes(header[_HEADER:], "big"), _LONG_HEADER
    return size, _HEADER


def _is_type(kind: bytes) -> bool:
    """Whether four bytes can be a box type: printable ASCII or Mac Roman, not zeros left by a power cut."""
    return all(0x20 <= byte != 0x7F for byte in kind)


def _is_trailer(file: FileBytes, walk: _Walk) -> bool:
    """Whether no media is missing in what follows the last whole box, which is no whole box itself."""
    begin = walk.last.end
    header = file.read_at(begin, _LONG_HEADER)
    left = file.size - begin
    if len(header) < min(left, _LONG_HEADER):
        return False
    kind = header[4:_HEADER]
    extends_to_end = kind in _SKIPPED and header[:4] == bytes(4)
    if kind and not extends_to_end and any(known.startswith(kind) for known in _KNOWN):
        return False
    if b"mfra" in walk.kinds:
        return True
    has_fragments, last_offset = _read_index(file, walk.index)
    has_fragments |= b"moof" in walk.kinds
    if not has_fragments and last_offset is not None:
        return last_offset < begin
    # Up to four bytes may be those of the size of any box. In the place of more fragments, a power cut or a
    # recorder that was killed leaves zeros, of which few are padding.
    return bool(kind) and (not has_fragments or left <= BLOCK or any(header))


def _read_index(file: FileBytes, index: Element | None) -> tuple[bool, int | None]:
    """Whether fragments may follow an index, and the largest offset that ends a track's list of offsets."""
    has_fragments = False
    offsets: list[int] = []
    for box in _index_boxes(file, index) if index else ():
        has_fragments |= box.kind == b"mvex"
        if length := _CHUNK_OFFSETS.get(box.kind):
            # Version and flags, the number of offsets, the offsets.
            table = file.read_at(box.content, 8 + length)
            last = box.content + 8 + (int.from_bytes(table[4:8], "big") - 1) * length
            if box.content + 8 <= last <= box.end - length:
                entry = table[8:] if last == box.content + 8 else file.read_at(last, length)
                offsets.append(int.from_bytes(entry, "big"))
    return has_fragments, max(offsets, default=None)


def _index_boxes(file: FileBytes, index: Element) -> Iterator[Element]:
    """The boxes within an index, in any depth; raises IncompleteError if there are too many of them."""
    pending = [(index.content, index.end)]
    for _ in range(_MAX_INDEX_BOXES):
        while pending and pending[-1][1] - pending[-1][0] < _HEADER:
            pending.pop()
        if not pending:
            return
        begin, end = pending.pop()
        header = file.read_at(begin, _LONG_HEADER)
        size, own = _size(header)
        if not own <= size <= end - begin:
            # QuickTime ends some lists with a size of zero.
            continue
        pending.append((begin + size, end))
        box = Element(header[4:_HEADER], begin + own, begin + size)
        if box.kind in _INDEX_CONTAINERS:
            pending.append((box.content, box.end))
        else:
            yield box
    raise IncompleteError(f"Its index has {_MAX_INDEX_BOXES} boxes or more, which no player expects.")


def _ends_in_fragment(file: FileBytes) -> bool:
    """Whether the last boxes of the file are those of a whole fragment, found from its end."""
    end = file.size
    # `mfra` ends in its own size (ISO/IEC 14496-12, 8.8.11), and may be larger than what is searched.
    size = int.from_bytes(file.read_at(end - 4, 4), "big") if end >= _LONG_HEADER else 0
    if file.read_at(end - _LONG_HEADER, _HEADER)[4:] == b"mfro" and _HEADER <= size <= end:
        header = file.read_at(end - size, _HEADER)
        if header == size.to_bytes(4, "big") + b"mfra":
            end -= size
    found = file.last_occurrences(b"moof", end)
    whole = replace(file, size=end, most=_MAX_FRAGMENT_BOXES)
    return any(_is_fragment(whole, at - 4) for at in itertools.islice(found, _MAX_CANDIDATES) if at >= 4)


def _is_fragment(file: FileBytes, begin: int) -> bool:
    """Whether the boxes from `begin` to the end of the file are whole, and the media follows its index."""
    boxes = elements(file, _read_box, name="boxes", begin=begin)
    try:
        kinds = [box.kind for box in boxes]
    except IncompleteError:
        return False
    return b"mdat" in kinds and kinds[-1] != b"moof"
