"""Matroska and WebM: an EBML header, then a segment that contains all media (RFC 8794, RFC 9559).

An element is an id, a size and its content. Both numbers have variable length: the leading zero bits of the
first byte give the number of bytes that follow it. A size whose bits are all ones is unknown.
"""

from watcher.containers.reading import Element, FileBytes, IncompleteError, elements

_EBML = bytes.fromhex("1A45DFA3")
_SEGMENT = bytes.fromhex("18538067")
_LONGEST_ID = 4
_LONGEST_SIZE = 8


def require_complete(file: FileBytes) -> None:
    """Raise IncompleteError unless the file is a complete Matroska file.

    It begins with an EBML header, its top-level elements end exactly at the end of the file, one of them is a
    segment, and each has a known size, which a muxer writes when it closes the file.
    """
    if file.read_at(0, len(_EBML)) != _EBML:
        raise IncompleteError("It does not begin with an EBML header and is no Matroska or WebM file.")
    kinds = {element.kind for element in elements(file, _read_element, name="top-level elements")}
    if _SEGMENT not in kinds:
        raise IncompleteError("The segment (the media) is missing: the file is truncated before it.")


def _read_element(file: FileBytes, offset: int) -> Element:
    header = file.read_at(offset, _LONGEST_ID + _LONGEST_SIZE)
    id_length = _length(header)
    if not 1 <= id_length <= _LONGEST_ID:
        raise IncompleteError(f"There is no valid element id at byte {offset}.")
    size_length = _length(header[id_length:])
    own = id_length + size_length
    if not size_length or len(header) < own:
        raise IncompleteError(f"It is truncated or damaged in the element header at byte {offset}.")
    size = _value(header[id_length:own])
    if size is None:
        raise IncompleteError(f"The element at byte {offset} was never closed: its size is unknown.")
    missing = offset + own + size - file.size
    if missing > 0:
        raise IncompleteError(
            f"It is truncated in the element at byte {offset}: {missing} bytes are missing."
        )
    return Element(header[:id_length], offset + own + size)


def _length(number: bytes) -> int:
    """The length in bytes of a variable-length number, from its first byte; 0 if that is invalid."""
    return 9 - number[0].bit_length() if number and number[0] else 0


def _value(number: bytes) -> int | None:
    """A size without its length marker; None if it is unknown (all ones)."""
    ones = (1 << 7 * len(number)) - 1
    value = int.from_bytes(number, "big") & ones
    return None if value == ones else value
