"""File names of real videos as keys, URLs and back."""

from __future__ import annotations

from urllib.request import urlopen

import pytest

from storage import ObjectStore, ParsedKey, key_of_url, object_key, parse_object_key, public_url
from tests.conformance.backends import Backend
from tests.conformance.files import MIB, content_of, make_file
from tests.conformance.uploads import send
from tests.support.fault_proxy import FaultProxy

VIDEO_ID = "0b7f2a3e-9d55-4b8e-8f0d-8c2f2b7d4a11"
NAMES = [
    "my holiday in  Goa.mp4",
    " leading and trailing .mp4",
    "Ünïcödé 日本語 मराठी 🎬.mp4",
    "e\u0301 decomposed.mp4",
    "100%.mp4",
    "100%25 %2F.mp4",
    "take #2.mp4",
    "a+b = c&d?e.mp4",
    'it\'s "quoted" `so`.mp4',
    "v1.2.final.cut.mp4",
    "...mp4",
    "a~b*c(d)[e]{f}|g^h<i>j;k:l,m@n$o!p\\q.mp4",
]

NAMES_OF_ALL_SORTS = [NAMES[2], '50% "a+b" #1 & it\'s <c>?.x.mp4']
"""For the documents and queries of multipart uploads."""
SMALL = 1000
LARGE = 16 * MIB


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *((name, SMALL) for name in NAMES),
        *((name, LARGE) for name in NAMES_OF_ALL_SORTS),
    ],
)
def test_any_name_arrives_as_it_is_and_comes_back_from_its_key_and_its_address(
    backend: Backend, proxy: FaultProxy, prefix: str, path: str, name: str, size: int
) -> None:
    key = object_key(prefix, VIDEO_ID, name, "720p")
    config = backend.config(proxy.url, acl="public-read" if backend.traits.knows_acls else None)
    with ObjectStore(config) as store:
        send(store, make_file(path, size), key)

    listed = backend.client.list_objects_v2(Bucket=backend.bucket, Prefix=f"{prefix}/")["Contents"]
    assert [found["Key"] for found in listed] == [key]
    assert backend.content(key) == content_of(path)
    assert parse_object_key(prefix, key, ("720p",)) == ParsedKey(VIDEO_ID, name, "720p")
    base = backend.config().public_base_url
    url = public_url(base, key)
    assert key_of_url(base, url) == key
    if backend.traits.knows_acls:
        with urlopen(url) as answer:
            assert answer.read() == content_of(path)
