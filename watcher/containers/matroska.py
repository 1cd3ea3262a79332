"""Matroska and WebM: an EBML header, then a segment that contains all media (RFC 8794, RFC 9559).

An element is an id, a size and its content. Both numbers have variable length: the leading zero bits of the
first byte give the number of bytes that follow it. A size whose bits are all ones is unknown. Programs that
cannot go back, such as a browser's MediaRecorder, leave the sizes of the segment and of its clusters unknown
for ever (RFC 9559, 23.2): such a live container ends with its last cluster.
"""

import itertools
from dataclasses import dataclass, replace

from watcher.containers.reading import (
    Element,
    FileBytes,
    IncompleteError,
    UnfinishedWalkError,
    elements,
)

_EBML = bytes.fromhex("1A45DFA3")
_SEGMENT = bytes.fromhex("18538067")
_VOID = bytes.fromhex("EC")
_CLUSTER = bytes.fromhex("1F43B675")
_BLOCKS = frozenset(map(bytes.fromhex, ("A3", "A0", "AF")))
"""SimpleBlock, BlockGroup and EncryptedBlock: the media in a cluster."""
_LONGEST_ID = 4
_LONGEST_SIZE = 8
_MAX_HEADERS = 16
"""How many elements are read in search of the segment."""
_MAX_CANDIDATES = 64
_MAX_CLUSTER_ELEMENTS = 2**13
"""More than the last cluster has: one lasts 33 seconds at most (RFC 9559, 11.2)."""


def require_complete(file: FileBytes, *, accepts_live: bool = False) -> None:
    """Raise IncompleteError unless the file is a complete Matroska file.

    It begins with an EBML header, and each of its top-level elements has a known size, which a muxer writes
    when it closes the file. One of them is a segment. What follows it is no truncated element of this level.
    With `accepts_live`, the sizes of the segment and its clusters may be unknown; the last cluster is whole.
    """
    if file.read_at(0, len(_EBML)) != _EBML:
        raise IncompleteError("It does not begin with an EBML header and is no Matroska or WebM file.")
    if accepts_live and is_live(file):
        _require_whole_clusters(file)
        return
    kinds, end = set(), 0
    try:
        for element in elements(file, _read_element, name="top-level elements"):
            kinds.add(element.kind)
            end = element.end
    except UnfinishedWalkError:
        raise
    except IncompleteError:
        if _SEGMENT not in kinds or not _is_trailer(file, end):
            raise
    if _SEGMENT not in kinds:
        raise IncompleteError("The segment (the media) is missing: the file is truncated before it.")


def is_live(file: FileBytes) -> bool:
    """Whether the size of the segment is unknown. Raises OSError."""
    try:
        for element in itertools.islice(elements(file, _read_header, name="elements"), _MAX_HEADERS):
            if element.kind == _SEGMENT:
                return element.size is None
    except IncompleteError:
        pass
    return False


@dataclass(frozen=True, slots=True)
class _Header(Element):
    """The header of an element: `end` is that of the header itself where `size` is unknown (None)."""

    size: int | None


def _read_header(file: FileBytes, offset: int) -> _Header:
    header = file.read_at(offset, _LONGEST_ID + _LONGEST_SIZE)
    id_length = _length(header)
    if not 1 <= id_length <= _LONGEST_ID:
        raise IncompleteError(f"There is no valid element id at byte {offset}.")
    size_length = _length(header[id_length:])
    own = id_length + size_length
    if not size_length or len(header) < own:
        raise IncompleteError(f"It is truncated or damaged in the element header at byte {offset}.")
    size = _value(header[id_length:own])
    missing = offset + own + (size or 0) - file.size
    if missing > 0:
        raise IncompleteError(
            f"It is truncated in the element at byte {offset}: {missing} bytes are missing."
        )
    return _Header(header[:id_length], offset + own, offset + own + (size or 0), size)


def _read_element(file: FileBytes, offset: int) -> Element:
    header = _read_header(file, offset)
    if header.size is None:
        raise IncompleteError(f"The element at byte {offset} was never closed: its size is unknown.")
    return header


def _read_live_element(file: FileBytes, offset: int) -> Element:
    """The next element of a live segment; those within a cluster of unknown size are read like its own."""
    header = _read_header(file, offset)
    return header if header.kind in {_SEGMENT, _CLUSTER} else _read_element(file, offset)


def _require_whole_clusters(file: FileBytes, begin: int = 0) -> None:
    """Raise IncompleteError unless the elements of a live segment are whole, and its last cluster has media.

    Of a file with too many elements to be read, the last cluster ends at the end of the file.
    """
    ends_in_media = False
    try:
        for element in elements(file, _read_live_element, name="elements", begin=begin):
            if element.kind == _CLUSTER:
                ends_in_media = element.content < element.end
            elif element.kind in _BLOCKS:
                ends_in_media = True
    except UnfinishedWalkError:
        if begin or not _ends_in_cluster(file):
            raise
        return
    if not ends_in_media:
        raise IncompleteError("The media of the last cluster is missing: the file is truncated before it.")


def _ends_in_cluster(file: FileBytes) -> bool:
    """Whether the last elements of the file are those of a whole cluster, found from its end."""
    few = replace(file, most=_MAX_CLUSTER_ELEMENTS)
    for at in itertools.islice(file.last_occurrences(_CLUSTER, file.size), _MAX_CANDIDATES):
        try:
            _require_whole_clusters(few, at)
        except IncompleteError:
            continue
        return True
    return False


def _is_trailer(file: FileBytes, begin: int) -> bool:
    """Whether what follows a whole segment is no truncated element of the top level."""
    header = file.read_at(begin, _LONGEST_ID)
    if len(header) < min(file.size - begin, _LONGEST_ID):
        return False
    return not any(kind.startswith(header[: len(kind)]) for kind in (_EBML, _SEGMENT, _VOID))


def _length(number: bytes) -> int:
    """The length in bytes of a variable-length number, from its first byte; 0 if that is invalid."""
    return 9 - number[0].bit_length() if number and number[0] else 0


def _value(number: bytes) -> int | None:
    """A size without its length marker; None if it is unknown (all ones)."""
    ones = (1 << 7 * len(number)) - 1
    value = int.from_bytes(number, "big") & ones
    return None if value == ones else value
