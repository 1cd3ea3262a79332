"""A moto server for tests, in a thread, on a free port of the loopback interface.

It compares the CRC64NVME of a single PUT with the content, as S3 does; moto repeats what it is told.
"""

import os
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.request import ProxyHandler, Request, build_opener

import boto3
import pytest
from botocore.config import Config
from moto.s3.exceptions import S3ClientError
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer

from storage import StorageConfig, checksums

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION: Final = "ap-south-1"
ACCESS_KEY_ID = "test-access-key"
SECRET_ACCESS_KEY = "tests/Distinctive+secret/access=key"
"""A unique text, so that every disclosure of it is found."""


_get_checksum = S3Response._get_checksum


def _compared_checksum(self: S3Response, response_headers: dict[str, Any]) -> tuple[str, str | None]:
    claimed = self.headers.get("x-amz-checksum-crc64nvme")
    if claimed is not None and claimed != checksums.encode(checksums.crc(self.raw_body)):
        raise S3ClientError("BadDigest", "The CRC64NVME you specified did not match what arrived.")
    return _get_checksum(self, response_headers)


S3Response._get_checksum = _compared_checksum  # type: ignore[method-assign]  # moto offers no other way


class S3Server:
    """Runs while it is a context, on an address of this machine; `url` is its endpoint."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self._server = ThreadedMotoServer(ip_address=address, port=0, verbose=False)
        self.url = ""

    def __enter__(self) -> Self:
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        self._client = boto3.session.Session().client(
            "s3",
            region_name=REGION,
            endpoint_url=self.url,
            aws_access_key_id=ACCESS_KEY_ID,
            aws_secret_access_key=SECRET_ACCESS_KEY,
            config=Config(s3={"addressing_style": "path"}),
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self._server.stop()
        listening = self._server._server
        assert listening is not None
        listening.server_close()

    def client(self) -> "S3Client":
        """The server's boto3 client, to inspect it independently of what is tested."""
        return self._client

    def create_bucket(self, name: str, *, versioned: bool = False) -> str:
        """Create an empty bucket and return its name."""
        self._client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        if versioned:
            self._client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name

    def forget_everything(self) -> None:
        """Delete all buckets; moto keeps objects in memory."""
        direct = build_opener(ProxyHandler({}))
        with direct.open(Request(f"{self.url}/moto-api/reset", method="POST")):
            pass


def config_for(url: str, bucket: str, **settings: object) -> StorageConfig:
    """The configuration of a store in `bucket` at the server (or the proxy in front of it) at `url`."""
    values: dict[str, object] = {
        "bucket": bucket,
        "region": REGION,
        "prefix": "videos",
        "endpoint_url": url,
        "access_key_id": ACCESS_KEY_ID,
        "secret_access_key": SECRET_ACCESS_KEY,
    }
    return StorageConfig(**(values | settings))  # type: ignore[arg-type]  # tests may try wrong ones, too


def forget_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the AWS settings, credentials, proxies and authorities of this machine."""
    for name in os.environ:
        if name.startswith("AWS_") or name.lower().endswith("_proxy") or name == "REQUESTS_CA_BUNDLE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
