"""The documents of a bucket, written and read back as the server keeps them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from storage import BucketAdmin, BucketDocument, DesiredBucket, StorageConfig, Transition, desired_documents
from tests.conformance.backends import Backend

PREFIX = "videos"


@pytest.fixture
def config(backend: Backend) -> Iterator[StorageConfig]:
    """A bucket that is not there yet; it is removed afterwards."""
    if backend.name not in {"moto", "localstack"}:
        pytest.skip("only a server of our own may have its buckets made and changed")
    name = f"conformance-{uuid.uuid4()}"
    yield replace(backend.config(backend.url), bucket=name, prefix=PREFIX)
    backend.client.delete_bucket(Bucket=name)


def desired_bucket(config: StorageConfig) -> DesiredBucket:
    return DesiredBucket(
        bucket=config.bucket,
        prefix=PREFIX,
        region=config.region,
        uses_acl=False,
        cors_origins=("https://player.example",),
        transition=Transition(30, "STANDARD_IA"),
        expire_days=365,
    )


def test_a_bucket_is_made_and_its_documents_are_read_back_as_they_were_written(config: StorageConfig) -> None:
    """Public access block, ownership, policy, CORS and lifecycle; a second round finds nothing to change."""
    desired = desired_bucket(config)
    with BucketAdmin(config) as admin:
        assert not admin.exists()
        admin.create()
        assert admin.exists()
        present = admin.read()
        assert {BucketDocument.POLICY, BucketDocument.CORS, BucketDocument.LIFECYCLE} <= set(present)
        for part, document in desired_documents(present, desired).items():
            if document is not None and document != present[part]:
                admin.write(part, document)
        after = admin.read()
        again = desired_documents(after, desired)
        assert {part: again[part] for part in after if again[part] is not None} == {
            part: after[part] for part in after if again[part] is not None
        }
    policy, cors, lifecycle = (
        str(after[part]) for part in (BucketDocument.POLICY, BucketDocument.CORS, BucketDocument.LIFECYCLE)
    )
    assert "s3:GetObject" in policy
    assert f"{config.bucket}/{PREFIX}/" in policy
    assert "https://player.example" in cors
    assert "AbortIncompleteMultipartUpload" in lifecycle
    assert "STANDARD_IA" in lifecycle
