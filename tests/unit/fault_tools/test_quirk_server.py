"""The server that plays other dialects: without a quirk it is S3, and each quirk does what its name says."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from storage import checksums
from tests.support.dialects import DIALECTS
from tests.support.harness import BUCKET
from tests.support.quirk_server import QuirkServer
from tests.support.quirks import (
    AWS,
    HEAD,
    PUT,
    SINGLE,
    Checksums,
    Etag,
    Oddity,
    Passing,
    Quirks,
    Refusal,
    refusing,
)
from tests.support.s3_server import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY

pytestmark = pytest.mark.long

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEY = "videos/a b&ü.mp4"
BODY = b"content"
PARTS = [b"first part", b"second part"]
WHOLE = b"".join(PARTS)
CRC = checksums.encode(checksums.crc(BODY))


@contextmanager
def client_of(server: QuirkServer) -> Iterator[S3Client]:
    """A client that sends nothing but what it is told to, and repeats nothing."""
    client = boto3.session.Session().client(
        "s3",
        region_name=REGION,
        endpoint_url=server.url,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=SECRET_ACCESS_KEY,
        config=Config(
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 1},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    with closing(client):
        yield client


@contextmanager
def serving(quirks: Quirks = AWS) -> Iterator[tuple[QuirkServer, S3Client]]:
    """A server with quirks, and its client."""
    with QuirkServer(quirks) as server, client_of(server) as client:
        yield server, client


def upload(client: S3Client, **options: Any) -> str:
    """Upload in two parts; returns the ETag by HEAD."""
    upload_id = client.create_multipart_upload(Bucket=BUCKET, Key=KEY, **options)["UploadId"]
    etags = [
        client.upload_part(Bucket=BUCKET, Key=KEY, UploadId=upload_id, PartNumber=number, Body=part)["ETag"]
        for number, part in enumerate(PARTS, start=1)
    ]
    client.complete_multipart_upload(
        Bucket=BUCKET,
        Key=KEY,
        UploadId=upload_id,
        MultipartUpload={"Parts": [{"PartNumber": at, "ETag": etag} for at, etag in enumerate(etags, 1)]},
    )
    return client.head_object(Bucket=BUCKET, Key=KEY)["ETag"].strip('"')


def code_of(error: pytest.ExceptionInfo[ClientError]) -> tuple[int, str]:
    response = error.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def test_without_quirks_it_is_an_s3_as_far_as_it_goes() -> None:
    with serving() as (server, client):
        client.put_object(Bucket=BUCKET, Key=KEY, Body=BODY, ChecksumCRC64NVME=CRC, ACL="public-read")
        head = client.head_object(Bucket=BUCKET, Key=KEY, ChecksumMode="ENABLED")
        assert (head["ContentLength"], head["ChecksumCRC64NVME"]) == (len(BODY), CRC)
        assert head["ETag"] == f'"{hashlib.md5(BODY).hexdigest()}"'
        read = client.get_object(Bucket=BUCKET, Key=KEY, Range="bytes=2-4")
        assert (read["Body"].read(), read["ContentRange"]) == (BODY[2:5], f"bytes 2-4/{len(BODY)}")
        assert [found["Key"] for found in client.list_objects_v2(Bucket=BUCKET)["Contents"]] == [KEY]
        digests = b"".join(hashlib.md5(part).digest() for part in PARTS)
        assert upload(client) == f"{hashlib.md5(digests).hexdigest()}-2"
        assert server.s3.objects[KEY].body == WHOLE
        assert [one.part_number for one in server.accepted("UploadPart")] == [1, 2]
        client.delete_object(Bucket=BUCKET, Key=KEY)
        with pytest.raises(ClientError) as missing:
            client.head_object(Bucket=BUCKET, Key=KEY)
        assert code_of(missing) == (404, "404")
        assert server.refused() == []


def test_open_uploads_and_their_parts_are_listed_until_they_are_aborted() -> None:
    with serving() as (_, client):
        upload_id = client.create_multipart_upload(Bucket=BUCKET, Key=KEY)["UploadId"]
        client.upload_part(Bucket=BUCKET, Key=KEY, UploadId=upload_id, PartNumber=3, Body=BODY)
        (open_upload,) = client.list_multipart_uploads(Bucket=BUCKET, Prefix="videos/")["Uploads"]
        assert (open_upload["Key"], open_upload["UploadId"]) == (KEY, upload_id)
        (part,) = client.list_parts(Bucket=BUCKET, Key=KEY, UploadId=upload_id)["Parts"]
        assert (part["PartNumber"], part["Size"]) == (3, len(BODY))
        client.abort_multipart_upload(Bucket=BUCKET, Key=KEY, UploadId=upload_id)
        with pytest.raises(ClientError) as gone:
            client.list_parts(Bucket=BUCKET, Key=KEY, UploadId=upload_id)
        assert code_of(gone) == (404, "NoSuchUpload")


@pytest.mark.parametrize(
    ("digest", "code"),
    [
        ({"ChecksumCRC64NVME": "AAAAAAAAAAA="}, "BadDigest"),
        ({"ContentMD5": base64.b64encode(bytes(16)).decode()}, "BadDigest"),
        ({"ContentMD5": "nonsense"}, "InvalidDigest"),
    ],
)
def test_a_body_that_is_not_that_of_its_digest_is_refused(digest: dict[str, Any], code: str) -> None:
    with serving() as (server, client):
        with pytest.raises(ClientError) as wrong:
            client.put_object(Bucket=BUCKET, Key=KEY, Body=BODY, **digest)
        assert code_of(wrong) == (400, code)
        assert server.s3.objects == {}
        assert server.refused() == []


def test_a_refusal_is_answered_and_kept_account_of_by_its_header() -> None:
    quirks = refusing(
        Refusal("x-amz-checksum-*", PUT, 501, "NotImplemented", "Header '{header}' with value '{value}'"),
        Refusal("x-amz-checksum-mode", HEAD),
    )
    with serving(quirks) as (server, client):
        with pytest.raises(ClientError, match=f"'x-amz-checksum-crc64nvme' with value '{CRC}'") as refused:
            client.put_object(Bucket=BUCKET, Key=KEY, Body=BODY, ChecksumCRC64NVME=CRC)
        assert code_of(refused) == (501, "NotImplemented")
        client.put_object(Bucket=BUCKET, Key=KEY, Body=BODY)
        with pytest.raises(ClientError) as silent:
            client.head_object(Bucket=BUCKET, Key=KEY, ChecksumMode="ENABLED")
        assert code_of(silent) == (400, "400")
        names = ["x-amz-checksum-crc64nvme", "x-amz-checksum-mode"]
        assert [one.refused for one in server.refused()] == names


@pytest.mark.parametrize(
    ("quirks", "pattern"),
    [
        (Quirks(etag=Etag.MD5_OF_WHOLE), hashlib.md5(WHOLE).hexdigest()),
        (Quirks(etag=Etag.OWN_RULE), r"[0-9a-f]{32}-2"),
        (Quirks(etag=Etag.OPAQUE, etag_of_part=False), r"[0-9A-Za-z+/]{22}=="),
        (Quirks(upper_case=True), r"[0-9A-F]{32}-2"),
    ],
)
def test_its_etags_are_what_the_quirk_says(quirks: Quirks, pattern: str) -> None:
    with serving(quirks) as (_, client):
        etag = upload(client)
    assert re.fullmatch(pattern, etag)


@pytest.mark.parametrize(
    ("kept", "suffix", "kind"),
    [
        (Checksums.KEPT, "=", "FULL_OBJECT"),
        (Checksums.COMPOSITE, "=-2", "COMPOSITE"),
        (Checksums.IGNORED, "", None),
    ],
)
def test_its_checksum_of_an_object_of_parts_is_what_the_quirk_says(
    kept: Checksums, suffix: str, kind: str | None
) -> None:
    with serving(Quirks(checksums=kept)) as (_, client):
        upload(client, ChecksumAlgorithm="CRC64NVME")
        head = client.head_object(Bucket=BUCKET, Key=KEY, ChecksumMode="ENABLED")
    assert head.get("ChecksumType") == kind
    assert head.get("ChecksumCRC64NVME", "").endswith(suffix)


def test_a_lagging_head_answers_what_was_there_before() -> None:
    with serving(Quirks(lag=1)) as (_, client):
        client.put_object(Bucket=BUCKET, Key=KEY, Body=BODY)
        with pytest.raises(ClientError):
            client.head_object(Bucket=BUCKET, Key=KEY)
        client.put_object(Bucket=BUCKET, Key=KEY, Body=WHOLE)
        sizes = [client.head_object(Bucket=BUCKET, Key=KEY)["ContentLength"] for _ in range(2)]
    assert sizes == [len(BODY), len(WHOLE)]


@pytest.mark.parametrize(
    ("quirks", "code"),
    [
        (Quirks(false_412=1), "PreconditionFailed"),
        (Quirks(conflicts=1), "ConditionalRequestConflict"),
    ],
)
def test_a_condition_that_is_met_may_be_refused_all_the_same(quirks: Quirks, code: str) -> None:
    with serving(quirks) as (server, client):
        with pytest.raises(ClientError) as refused:
            client.put_object(Bucket=BUCKET, Key=KEY, Body=BODY, IfNoneMatch="*")
        assert code_of(refused)[1] == code
        client.put_object(Bucket=BUCKET, Key=KEY, Body=BODY, IfNoneMatch="*")
        assert KEY in server.s3.objects


def test_a_condition_that_is_not_met_is_refused() -> None:
    with serving() as (_, client):
        client.put_object(Bucket=BUCKET, Key=KEY, Body=BODY)
        conditions: list[dict[str, Any]] = [{"IfNoneMatch": "*"}, {"IfMatch": '"0"'}]
        for condition in conditions:
            with pytest.raises(ClientError) as unmet:
                client.put_object(Bucket=BUCKET, Key=KEY, Body=BODY, **condition)
            assert code_of(unmet) == (412, "PreconditionFailed")


def test_an_addressing_style_is_refused() -> None:
    quirks = Quirks(refused_style=("path", "SecondLevelDomainForbidden"))
    with serving(quirks) as (server, client):
        with pytest.raises(ClientError) as refused:
            client.put_object(Bucket=BUCKET, Key=KEY, Body=BODY)
        assert code_of(refused) == (403, "SecondLevelDomainForbidden")
        assert server._address(f"{BUCKET}.localhost:1", f"/{KEY}") == ("virtual", BUCKET, KEY)


@pytest.mark.parametrize("oddity", Oddity)
def test_an_odd_answer_passes_after_so_many_requests(oddity: Oddity) -> None:
    with serving(Quirks(passing=(Passing("*", oddity, times=1),))) as (server, client):
        # What a client makes of it is its affair.
        with suppress(ClientError, BotoCoreError, ResponseParserError):
            client.put_object(Bucket=BUCKET, Key=KEY, Body=BODY)
        assert server.s3.objects == {}
        client.put_object(Bucket=BUCKET, Key=KEY, Body=BODY)
        assert KEY in server.s3.objects


def test_every_dialect_names_its_sources_and_every_quirk_is_one() -> None:
    assert all(dialect.sources for dialect in DIALECTS.values())
    assert AWS not in SINGLE.values()


def test_two_quirks_are_both_played() -> None:
    both = SINGLE["ETag is opaque"].plus(SINGLE["checksum on PUT"])
    assert (both.etag, both.checksums) == (Etag.OPAQUE, Checksums.IGNORED)
    assert both.refusals == SINGLE["checksum on PUT"].refusals
