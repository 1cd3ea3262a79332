"""What the compressor does when its AWS keys are filled in: it uploads by itself, by rules of its own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

KEY_ID_VARIABLE, SECRET_VARIABLE = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"


@dataclass(frozen=True)
class OwnUploads:
    """Puts outputs into a bucket. The local file stays where it is."""

    client: S3Client
    bucket: str
    base_url: str

    @classmethod
    def to(cls, endpoint_url: str, region: str, bucket: str, base_url: str) -> Self:
        """Uploads to a server, with the keys of this process's environment."""
        client = boto3.session.Session().client(
            "s3",
            region_name=region,
            endpoint_url=endpoint_url,
            aws_access_key_id=os.environ[KEY_ID_VARIABLE],
            aws_secret_access_key=os.environ[SECRET_VARIABLE],
            config=Config(s3={"addressing_style": "path"}),
        )
        return cls(client, bucket, base_url)

    def put(self, video_id: str, source: Path, quality: str, output: Path) -> str:
        """Upload one output; returns its URL.

        The key has the extension of the source, whatever the output is, and the URL is not percent-encoded.
        """
        key = f"videos/{video_id}/{source.stem}_{quality}{source.suffix}"
        self.client.upload_file(str(output), self.bucket, key, ExtraArgs={"ACL": "public-read"})
        return f"{self.base_url}/{key}"
