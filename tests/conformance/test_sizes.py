"""Files of every size arrive as they are, proven by the server's checksum or ETag."""

from __future__ import annotations

import pytest

from storage import ObjectStore, Verdict, part_size_for
from tests.conformance.backends import Backend
from tests.conformance.files import MIB, content_of, make_file, source_of
from tests.conformance.uploads import Watched, parts_sent
from tests.support.fault_proxy import FaultProxy

PART = 8 * MIB
THRESHOLD = 16 * MIB
SIZES = [
    1,
    *(PART + change for change in (-1, 0, 1)),
    *(THRESHOLD + change for change in (-1, 0, 1)),
    *(3 * PART + change for change in (-1, 0, 1)),
    100 * MIB,
]


@pytest.mark.parametrize("size", SIZES)
def test_a_file_of_any_size_arrives_whole_and_is_confirmed(
    backend: Backend, store: ObjectStore, proxy: FaultProxy, key: str, path: str, size: int
) -> None:
    watched = Watched()
    with source_of(make_file(path, size)) as source:
        sent = watched.send(store, source, key)
        checksum, etags = source.checksum(), source.etags(sent.part_size)
        confirmation = store.confirm_file(key, source, checksum=checksum, part_size=sent.part_size)

    assert backend.content(key) == content_of(path)
    assert sent.part_size == part_size_for(size)
    etag = etags[-1] if backend.traits.etag_of_whole else etags[0]
    assert sent.etag == etag or not backend.traits.answers_etag
    assert confirmation.verdict is Verdict.AGREES, confirmation.detail
    assert confirmation.receipt is not None
    assert (confirmation.receipt.size, confirmation.receipt.etag) == (size, etag)
    if backend.traits.keeps_checksums:
        assert (confirmation.receipt.confirmed_by, confirmation.receipt.checksum) == ("checksum", checksum)

    assert watched.progress == sorted(watched.progress)
    assert watched.progress[-1] == size
    if sent.part_size is None:
        assert proxy.actions.count("PutObject") == 1
        assert not watched.multiparts
    else:
        assert parts_sent(proxy.requests) == list(range(1, -(-size // sent.part_size) + 1))
        assert [multipart.part_size for multipart in watched.multiparts] == [sent.part_size]


def test_from_16_mib_on_files_go_in_parts() -> None:
    """The sizes above stand on both sides of it."""
    assert part_size_for(THRESHOLD - 1) is None
    assert part_size_for(THRESHOLD) == PART
