"""The two digests S3 tells us about an object: its CRC64NVME and its ETag.

CRC64NVME is the one that AWS keeps for a whole object however it was sent. In text it is the base64 of its
8 bytes, most significant first, as in S3's `ChecksumCRC64NVME`. Governing source:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence

from awscrt.checksums import combine_crc64nvme, crc64nvme

CRC_BYTES = 8
"""Length of a CRC64NVME; what decodes to another length is no checksum, whatever the server calls it."""


def crc(data: bytes | bytearray | memoryview, previous: int = 0) -> int:
    """CRC64NVME of `data`, or of all data so far when `previous` is the value for what came before."""
    return int(crc64nvme(data, previous))


def combine(first: int, second: int, second_length: int) -> int:
    """CRC64NVME of two pieces joined, from that of each and the length of the second in bytes."""
    return int(combine_crc64nvme(first, second, second_length))


def encode(value: int) -> str:
    """A CRC64NVME as S3 writes it."""
    return base64.b64encode(value.to_bytes(CRC_BYTES, "big")).decode("ascii")


def decode(text: str | None) -> int | None:
    """The CRC64NVME that S3 wrote as `text`; None where there is none or it is malformed.

    Some servers answer with 4 bytes, or with the `-N` suffix of a checksum of checksums: neither says
    anything about the object.
    """
    if text is None:
        return None
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return int.from_bytes(raw, "big") if len(raw) == CRC_BYTES else None


def multipart_etag(part_digests: Sequence[bytes]) -> str:
    """The ETag, without quotes, of an object made of parts with these MD5 digests.

    Not promised by AWS but kept by every S3 server: the MD5 of the parts' MD5s, a hyphen, their number.
    """
    joined = hashlib.md5(b"".join(part_digests), usedforsecurity=False)
    return f"{joined.hexdigest()}-{len(part_digests)}"
