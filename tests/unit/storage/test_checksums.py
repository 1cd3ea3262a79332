"""CRC64NVME and ETags against known values."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import checksums


def test_the_checksum_is_crc64_nvme_in_the_form_of_s3() -> None:
    """The check value of the CRC catalogue for `123456789`, most significant byte first."""
    assert checksums.crc(b"123456789") == 0xAE8B14860A799888
    assert checksums.encode(0xAE8B14860A799888) == "rosUhgp5mIg="
    assert checksums.encode(checksums.crc(b"")) == "AAAAAAAAAAA="


@given(st.integers(0, 2**64 - 1))
def test_text_form_leads_there_and_back(value: int) -> None:
    assert checksums.decode(checksums.encode(value)) == value


@given(st.binary(), st.binary())
def test_joined_parts_have_the_checksum_of_the_whole(first: bytes, second: bytes) -> None:
    joined = checksums.combine(checksums.crc(first), checksums.crc(second), len(second))
    assert joined == checksums.crc(first + second) == checksums.crc(second, checksums.crc(first))


@pytest.mark.parametrize(
    "text", [None, "", "AAAAAA==", "AAAAAAAAAAA=-3", "AAAAAAAAAAAA", "not base64!", "é", "AAAAAAAAAAA"]
)
def test_a_malformed_checksum_is_no_checksum(text: str | None) -> None:
    assert checksums.decode(text) is None


def test_the_etag_of_parts_is_the_digest_of_their_digests_and_their_number() -> None:
    digests = [hashlib.md5(part).digest() for part in (b"one", b"two")]
    assert checksums.multipart_etag(digests) == f"{hashlib.md5(b''.join(digests)).hexdigest()}-2"
