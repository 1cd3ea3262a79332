"""What the bucket of the tests holds, read with a client of its own."""

from __future__ import annotations

from tests.support.harness import BUCKET
from tests.support.s3_server import S3Server


def keys(server: S3Server) -> set[str]:
    """The objects in the bucket."""
    listed = server.client().list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return {entry["Key"] for entry in listed}


def open_multiparts(server: S3Server) -> list[str]:
    """The keys of the multipart uploads that are neither completed nor aborted."""
    return [
        found["Key"] for found in server.client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    ]
