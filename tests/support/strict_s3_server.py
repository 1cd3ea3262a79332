"""A stricter moto, which refuses a body with a wrong checksum, as S3 does."""

from __future__ import annotations

from storage import checksums
from tests.support.fault_proxy import Answer, Forward, Request, s3_error
from tests.support.s3_requests import BODIES

CHECKSUM_HEADER = "x-amz-checksum-crc64nvme"


def refuse_wrong_checksums(request: Request, forward: Forward) -> Answer:
    """For a `FaultProxy`: https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html, BadDigest."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    claimed = headers.get(CHECKSUM_HEADER)
    if request.action in BODIES and claimed != checksums.encode(checksums.crc(request.body)):
        return s3_error(400, "BadDigest", f"The {CHECKSUM_HEADER} you specified did not match.")
    return forward()
