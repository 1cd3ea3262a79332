"""MP4 and QuickTime: a sequence of boxes from the first byte to the last (ISO/IEC 14496-12, 4.2).

A box begins with its size, header included, in four bytes, and its type, in four characters. Size 1 means
that the real size follows in eight bytes; size 0, that the box extends to the end of the file.
"""

from watcher.containers.reading import Element, FileBytes, IncompleteError, elements

_HEADER = 8
_LONG_HEADER = 16
_EXTENDS_TO_END = 0
_HAS_LARGE_SIZE = 1


def require_complete(file: FileBytes) -> None:
    """Raise IncompleteError unless the file is a complete MP4.

    Its boxes end exactly at the end of the file, and include `moov`, the index, and `mdat`, the media: a file
    that begins with its index may be truncated right after it. The same holds for `moof`, the index of a
    fragment. Missing fragments at the end cannot be detected.
    """
    kinds, last = set(), b""
    for box in elements(file, _read_box, name="boxes"):
        kinds.add(box.kind)
        last = box.kind
    if b"moov" not in kinds:
        raise IncompleteError("The moov box (the index) is missing: the encoder did not finish.")
    if b"mdat" not in kinds:
        raise IncompleteError("The mdat box (the media) is missing: the file is truncated after its index.")
    if last == b"moof":
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
    size, own = int.from_bytes(header[:4], "big"), _HEADER
    if size == _EXTENDS_TO_END:
        # A muxer writes a box's size when the box is complete. Only mdat is left open on purpose; ffmpeg
        # leaves a moov of size zero when it is killed while writing it.
        if kind != b"mdat":
            raise IncompleteError(f"The {name} was never finished: its size is zero.")
        size = left
    elif size == _HAS_LARGE_SIZE:
        size, own = int.from_bytes(header[_HEADER:], "big"), _LONG_HEADER
    if size > left or own > left:
        raise IncompleteError(f"It is truncated in the {name}: {max(size, own) - left} bytes are missing.")
    if size < own:
        raise IncompleteError(f"The {name} has a size of {size} bytes, less than its header.")
    return Element(kind, offset + size)


def _is_type(kind: bytes) -> bool:
    """Whether four bytes can be a box type: printable ASCII or Mac Roman, not zeros left by a power cut."""
    return all(0x20 <= byte != 0x7F for byte in kind)
