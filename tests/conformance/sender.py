"""A process that uploads one file with `storage` alone: it says which multipart it has begun, then sends.

`python -m tests.conformance.sender ENDPOINT REGION BUCKET KEY PATH`; credentials are found where boto3
finds them.
"""

from __future__ import annotations

import sys

from storage import Multipart, ObjectStore, StorageConfig, Target
from tests.conformance.files import source_of
from tests.conformance.uploads import VIDEO


def main(endpoint: str, region: str, bucket: str, key: str, path: str) -> None:
    """Upload the file."""
    config = StorageConfig(bucket=bucket, region=region, endpoint_url=endpoint)
    with ObjectStore(config) as store, source_of(path) as source:
        store.upload(
            source,
            Target(key, VIDEO),
            checksum=source.checksum(),
            progress=lambda _: None,
            on_multipart=_say,
        )


def _say(multipart: Multipart) -> None:
    print(multipart.upload_id, multipart.part_size, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
