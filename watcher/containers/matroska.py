"""Matroska and WebM: an EBML header, then a segment with everything in it (RFC 8794, RFC 9559).

An element is an id, a size and its content. Both numbers have variable length: the zero bits that the first
byte begins with say how many bytes follow it. A size of ones only means that nobody knows it (yet).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from watcher.containers.reading import MAX_ELEMENTS, FileBytes, IncompleteError

_EBML = bytes.fromhex("1A45DFA3")
_SEGMENT = bytes.fromhex("18538067")
_LONGEST_ID = 4
_LONGEST_SIZE = 8


@dataclass(frozen=True, slots=True)
class _Element:
    identifier: bytes
    end: int


def require_complete(file: FileBytes) -> None:
    """Raise IncompleteError unless the file is a complete Matroska file.

    It begins with an EBML header, its top-level elements end exactly at the end of the file, and among them
    is a segment; each has a size, which the muxer of a segment fills in when it closes the file.
    """
    if file.at(0, len(_EBML)) != _EBML:
        raise IncompleteError("It does not begin with an EBML header: this is no Matroska or WebM file.")
    if _SEGMENT not in {element.identifier for element in _elements(file)}:
        raise IncompleteError("The segment (the media) is missing: the file was cut off before it.")


def _elements(file: FileBytes) -> Iterator[_Element]:
    offset = 0
    for _ in range(MAX_ELEMENTS):
        if offset == file.size:
            return
        element = _element(file, offset)
        yield element
        offset = element.end
    raise IncompleteError(f"It has {MAX_ELEMENTS} top-level elements or more, which no player expects.")


def _element(file: FileBytes, offset: int) -> _Element:
    header = file.at(offset, _LONGEST_ID + _LONGEST_SIZE)
    id_length = _length(header)
    if not 1 <= id_length <= _LONGEST_ID:
        raise IncompleteError(f"There is no element at byte {offset}, where one must begin.")
    size_length = _length(header[id_length:])
    own = id_length + size_length
    if not size_length or len(header) < own:
        raise IncompleteError(f"It breaks off, or is damaged, in the element header at byte {offset}.")
    size = _value(header[id_length:own])
    if size is None:
        raise IncompleteError(f"The element at byte {offset} was never closed: its size is not filled in.")
    missing = offset + own + size - file.size
    if missing > 0:
        raise IncompleteError(f"It breaks off in the element at byte {offset}: {missing} bytes are missing.")
    return _Element(header[:id_length], offset + own + size)


def _length(number: bytes) -> int:
    """How many bytes a number of variable length takes, told by its first byte; 0 if that is no beginning."""
    return 9 - number[0].bit_length() if number and number[0] else 0


def _value(number: bytes) -> int | None:
    """A size without its length marker; None if all its bits are ones: unknown."""
    ones = (1 << 7 * len(number)) - 1
    value = int.from_bytes(number, "big") & ones
    return None if value == ones else value
