"""The servers that the suite runs on, and their known differences."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config

from storage import StorageConfig
from tests.conformance.servers import running_server
from tests.conformance.suite_options import is_required
from tests.conformance.tool_venv import ServerUnavailableError
from tests.demo.processes import s3_server
from tests.support.fault_proxy import FaultProxy
from tests.support.s3_server import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True)
class Traits:
    """How a server behaves where servers may differ; None where it is not known and either will do.

    Attributes:
        refuses_corruption: it compares a checksum that goes along with the bytes that arrive.
        keeps_checksums: it keeps the CRC64NVME of whole objects, also of those sent in parts.
        knows_acls: canned ACLs are taken and read back as grants.
        compares_checksums: it does so with that of a single PUT and of parts, as small requests find out.
        knows_acls_of_multiparts: an object made of parts is kept from strangers even if no ACL was asked for.
        knows_options: it takes other storage classes, encryption at rest, and tags.
        pages_uploads: it lists open uploads in pages when it is asked to.
        keeps_strangers_out: what has no public ACL cannot be fetched without credentials.
        conditions_unheeded: requests whose condition is taken and not looked at: (operation, header).
        checks_signatures: a request that is changed on the way is refused for that.
        answers_etag: the answer to CompleteMultipartUpload has the ETag that HEAD requests get.
        etag_of_whole: the ETag of an object of parts is the MD5 of its content.
        replaces_parts: a part may be sent again with other content; otherwise the upload begins anew.

    """

    refuses_corruption: bool | None = None
    keeps_checksums: bool | None = None
    compares_checksums: bool | None = None
    knows_acls: bool | None = None
    knows_acls_of_multiparts: bool | None = None
    knows_options: bool | None = None
    pages_uploads: bool | None = None
    keeps_strangers_out: bool | None = None
    conditions_unheeded: frozenset[tuple[str, str]] = frozenset()
    checks_signatures: bool = True
    answers_etag: bool = True
    etag_of_whole: bool = False
    replaces_parts: bool = True


MOTO = Traits(
    keeps_checksums=True,
    compares_checksums=True,
    knows_acls=True,
    knows_acls_of_multiparts=False,
    knows_options=True,
    pages_uploads=False,
    keeps_strangers_out=True,
    conditions_unheeded=frozenset({("CompleteMultipartUpload", "If-Match")}),
    checks_signatures=False,
)
LOCALSTACK = Traits(
    refuses_corruption=True,
    keeps_checksums=True,
    compares_checksums=True,
    knows_acls=True,
    knows_acls_of_multiparts=True,
    knows_options=True,
    pages_uploads=True,
    keeps_strangers_out=False,
    checks_signatures=False,
)
RCLONE = Traits(
    compares_checksums=False,
    knows_acls=False,
    knows_acls_of_multiparts=True,
    knows_options=False,
    pages_uploads=False,
    keeps_strangers_out=True,
    answers_etag=False,
    etag_of_whole=True,
    replaces_parts=False,
    conditions_unheeded=frozenset(
        (operation, header)
        for operation in ("PutObject", "CompleteMultipartUpload")
        for header in ("If-None-Match", "If-Match")
    ),
)
CEPH = Traits(
    keeps_checksums=False,
    compares_checksums=False,
    knows_acls=True,
    knows_acls_of_multiparts=True,
    knows_options=False,
    pages_uploads=True,
    keeps_strangers_out=True,
    conditions_unheeded=frozenset(
        ("CompleteMultipartUpload", header) for header in ("If-None-Match", "If-Match")
    ),
    answers_etag=False,
)
ANY = Traits()
"""A server that nothing is known of but that it speaks S3."""


@dataclass(frozen=True)
class Backend:
    """A server with a bucket on it, and a plain client to look behind the back of what is tested."""

    name: str
    url: str
    bucket: str
    region: str
    access_key_id: str
    secret_access_key: str
    traits: Traits
    client: S3Client

    def config(self, url: str | None = None, **settings: object) -> StorageConfig:
        """The configuration of a store in the bucket, at the server or at the proxy in front of it."""
        values: dict[str, object] = {
            "bucket": self.bucket,
            "region": self.region,
            "endpoint_url": url or self.url,
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
        }
        return StorageConfig(**(values | settings))  # type: ignore[arg-type]  # by name, as tests give them

    def content(self, key: str) -> bytes | None:
        """The object as the server has it; None if there is none."""
        listed = self.client.list_objects_v2(Bucket=self.bucket, Prefix=key).get("Contents", [])
        if key not in [found.get("Key") for found in listed]:
            return None
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def clear(self, prefix: str) -> None:
        """Remove what a test has left below its prefix: objects, and uploads that are open.

        A request of the test that the server is still working on may abort an upload first. rclone answers
        NoSuchUpload where there are none to list.
        """
        uploads = self.client.get_paginator("list_multipart_uploads")
        with suppress(self.client.exceptions.NoSuchUpload):
            for page in uploads.paginate(Bucket=self.bucket, Prefix=prefix):
                for found in page.get("Uploads", []):
                    with suppress(self.client.exceptions.NoSuchUpload):
                        self.client.abort_multipart_upload(
                            Bucket=self.bucket, Key=found["Key"], UploadId=found["UploadId"]
                        )
        for listing in self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix
        ):
            for entry in listing.get("Contents", []):
                self.client.delete_object(Bucket=self.bucket, Key=entry["Key"])


@contextmanager
def open_backend(name: str) -> Iterator[Backend]:
    """Start the server, or find it, and make a bucket; both are gone after the block."""
    with ExitStack() as stack:
        match name:
            case "moto":
                # moto keeps its objects in its process, and other tests have it forget everything in theirs.
                directory = stack.enter_context(TemporaryDirectory(prefix="video-uploader-moto-"))
                url = stack.enter_context(s3_server(Path(directory, "log")))
                yield stack.enter_context(_bucket_on(name, url, MOTO))
            case "localstack":
                yield stack.enter_context(_bucket_on(name, _started(stack, name), LOCALSTACK))
            case "rclone":
                yield stack.enter_context(_bucket_on(name, _started(stack, name), RCLONE))
            case "ceph":
                # It knows no regions of AWS.
                region = {"CONFORMANCE_REGION": "us-east-1"}
                yield stack.enter_context(_bucket_on(name, _started(stack, name), CEPH, region))
            case _:
                url = os.environ["CONFORMANCE_ENDPOINT_URL"].rstrip("/")
                yield stack.enter_context(_bucket_on(name, url, ANY, os.environ))


def _started(stack: ExitStack, name: str) -> str:
    try:
        return stack.enter_context(running_server(name))
    except ServerUnavailableError as error:
        if is_required(name):
            pytest.fail(f"CONFORMANCE_REQUIRE_{name.upper()} is set, but: {error}")
        pytest.skip(str(error))


@contextmanager
def _bucket_on(
    name: str, url: str, traits: Traits, environ: Mapping[str, str] | None = None
) -> Iterator[Backend]:
    environ = environ or {}
    region = environ.get("CONFORMANCE_REGION", REGION)
    access_key_id = environ.get("CONFORMANCE_ACCESS_KEY_ID", ACCESS_KEY_ID)
    secret_access_key = environ.get("CONFORMANCE_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
    client = boto3.session.Session().client(
        "s3",
        region_name=region,
        endpoint_url=url,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret_access_key,
        config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
    )
    given = environ.get("CONFORMANCE_BUCKET")
    bucket = given or f"conformance-{uuid.uuid4()}"
    backend = Backend(name, url, bucket, region, access_key_id, secret_access_key, traits, client)
    try:
        if not given:
            # us-east-1 is the one region that must not be named.
            where = {} if region == "us-east-1" else {"LocationConstraint": region}
            extra = {"CreateBucketConfiguration": where} if where else {}
            client.create_bucket(Bucket=bucket, **extra)  # type: ignore[arg-type]  # any region's name
        yield backend
    finally:
        if not given:
            backend.clear("")
            # rclone keeps the directories of objects that are gone; they end with its server.
            if name != "rclone":
                client.delete_bucket(Bucket=bucket)
        client.close()


def proxy_before(backend: Backend) -> FaultProxy:
    """A proxy before a server; skips the test where there can be none."""
    if backend.url.startswith("https:"):
        pytest.skip(f"the proxy cannot stand before {backend.url}: it speaks plain http to the server")
    return FaultProxy(backend.url)
