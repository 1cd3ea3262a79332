"""Access to objects, and their options, as the server returns them."""

from __future__ import annotations

from typing import Any

import pytest

from storage import ObjectStore, StorageError, Target
from tests.conformance.backends import Backend
from tests.conformance.files import MIB, make_file, source_of
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, s3_error

EVERYBODY = "http://acs.amazonaws.com/groups/global/AllUsers"
TAGS = {"team": "video + more", "a=b/c:d@e": "ü_1.-"}
SMALL = 1000
LARGE = 16 * MIB

both_ways = pytest.mark.parametrize("size", [SMALL, LARGE], ids=["put", "multipart"])


def send(store: ObjectStore, path: str, target: Target) -> None:
    """Upload as the target says."""
    with source_of(path) as source:
        store.upload(source, target, checksum=source.checksum(), progress=lambda _: None)


def granted_to_everyone(backend: Backend, key: str) -> list[str]:
    """The permissions that the object's ACL gives to everybody."""
    if not backend.traits.knows_acls:
        pytest.skip(f"{backend.name} is not known to take ACLs")
    grants = backend.client.get_object_acl(Bucket=backend.bucket, Key=key)["Grants"]
    return [grant["Permission"] for grant in grants if grant["Grantee"].get("URI") == EVERYBODY]


def refuse_acls(request: Request, forward: Forward) -> Answer:
    has_acl = "x-amz-acl" in request.headers
    return s3_error(400, "AccessControlListNotSupported") if has_acl else forward()


@both_ways
def test_public_read_is_in_the_acl_and_everyone_can_read_the_object(
    backend: Backend, proxy: FaultProxy, key: str, path: str, size: int
) -> None:
    make_file(path, size)
    acl = "public-read" if backend.traits.knows_acls else None
    with ObjectStore(backend.config(proxy.url, acl=acl)) as store:
        send(store, path, Target(key, "video/mp4"))
        assert granted_to_everyone(backend, key) == ["READ"]
        assert store.is_public(key)


@both_ways
@pytest.mark.parametrize("acl", [None, "public-read"])
def test_without_an_acl_nothing_is_granted_to_everyone(
    backend: Backend, proxy: FaultProxy, key: str, path: str, size: int, acl: str | None
) -> None:
    """None is configured, or the bucket refuses it."""
    proxy.fault = refuse_acls
    make_file(path, size)
    is_private = backend.traits.keeps_strangers_out and (
        size < LARGE or backend.traits.knows_acls_of_multiparts
    )
    with ObjectStore(backend.config(proxy.url, acl=acl)) as store:
        if acl is None or not is_private:
            send(store, path, Target(key, "video/mp4"))
        else:
            with pytest.raises(StorageError, match="AccessControlListNotSupported"):
                send(store, path, Target(key, "video/mp4"))
        writing = [request for request in proxy.requests if request.action != "PutObjectAcl"]
        sent = [request for request in writing if "x-amz-acl" in request.headers]
        assert len(sent) == (acl is not None)
        if size >= LARGE and not backend.traits.knows_acls_of_multiparts:
            return
        assert granted_to_everyone(backend, key) == []
        if backend.traits.keeps_strangers_out:
            assert not store.is_public(key)


def test_what_is_not_there_is_not_public(store: ObjectStore, key: str) -> None:
    assert not store.is_public(key)


@both_ways
def test_type_metadata_and_options_are_kept(backend: Backend, key: str, path: str, size: int) -> None:
    """They go with the single PUT, and with the start of a multipart upload."""
    make_file(path, size)
    options: dict[str, Any] = {"cache_control": "public, max-age=60"}
    if backend.traits.knows_options:
        options |= {"storage_class": "STANDARD_IA", "sse": "AES256", "tags": TAGS}
    metadata = {"video-id": "0b7f2a3e-9d55-4b8e-8f0d-8c2f2b7d4a11", "quality": "720p", "source-mtime": "17"}
    with ObjectStore(backend.config(**options)) as store:
        send(store, path, Target(key, "video/webm", metadata))
    stored = backend.client.head_object(Bucket=backend.bucket, Key=key)
    assert stored["ContentType"] == "video/webm"
    assert stored["CacheControl"] == "public, max-age=60"
    assert {name.lower(): value for name, value in stored["Metadata"].items()} == metadata
    if backend.traits.knows_options:
        assert stored["StorageClass"] == "STANDARD_IA"
        assert stored["ServerSideEncryption"] == "AES256"
        tags = backend.client.get_object_tagging(Bucket=backend.bucket, Key=key)["TagSet"]
        assert {tag["Key"]: tag["Value"] for tag in tags} == TAGS
