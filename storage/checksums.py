"""The digests that S3 keeps of an object: CRC64NVME and ETag.

CRC64NVME is the checksum that AWS keeps of a whole object for single and multipart uploads alike. Its text
form is the base64 of its 8 bytes, most significant first, as in S3's `ChecksumCRC64NVME`. See
https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence

from awscrt.checksums import combine_crc64nvme, crc64nvme

CRC_BYTES = 8
"""Length of a CRC64NVME."""
MD5_BYTES = 16


def crc(data: bytes | bytearray | memoryview, previous: int = 0) -> int:
    """CRC64NVME of `data`, continued from `previous`, the value of the data before it."""
    return int(crc64nvme(data, previous))


def combine(first: int, second: int, second_length: int) -> int:
    """CRC64NVME of two parts joined, from that of each and the length of the second in bytes."""
    return int(combine_crc64nvme(first, second, second_length))


def encode(value: int) -> str:
    """S3's text form of a CRC64NVME."""
    return base64.b64encode(value.to_bytes(CRC_BYTES, "big")).decode("ascii")


def decode(text: str | None) -> int | None:
    """The CRC64NVME of S3's text form; None if it is missing or malformed.

    Some servers send 4 bytes, or a checksum of checksums with the suffix `-N`: neither is one of the object.
    """
    if text is None:
        return None
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return int.from_bytes(raw, "big") if len(raw) == CRC_BYTES else None


def md5(data: bytes | memoryview) -> bytes:
    """MD5 of `data`, which servers make ETags from and compare with Content-MD5 (RFC 1864)."""
    return hashlib.md5(data, usedforsecurity=False).digest()


def multipart_etag(part_digests: Sequence[bytes]) -> str:
    """The ETag, without quotes, of an object made of parts with these MD5 digests.

    The MD5 of the parts' MD5s, a hyphen, and their number: undocumented, but the same on all servers.
    """
    joined = hashlib.md5(b"".join(part_digests), usedforsecurity=False)
    return f"{joined.hexdigest()}-{len(part_digests)}"
