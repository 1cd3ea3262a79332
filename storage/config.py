"""Where objects go and how they are to be stored: all that this package has to be told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """One bucket and the way into it. Values are used as they are; nothing else is looked up.

    Attributes:
        bucket: name of the bucket; it must exist.
        region: the bucket's region. A wrong one is an error, never followed to the right one, because the
            public URLs are made from it.
        prefix: what every object key starts with, without the '/' that joins it; may be empty.
        endpoint_url: an S3-compatible server instead of AWS; it is addressed with the bucket in the path.
        access_key_id, secret_access_key, session_token: credentials. Without them boto3's default chain
            (environment, shared files, container, instance) is asked, and asked again when they expire.
        acl: canned ACL for every object, or None to send none.
        cache_control: `Cache-Control` for every object, or None to send none.
        base_url: what public URLs start with, where it is not the bucket's own address (a CDN).
        connections: how many connections may be open at once.
        storage_class: for every object, or None for the bucket's default.
        sse: encryption at rest for every object, or None for the bucket's default.
        sse_kms_key_id: the key for `aws:kms`, or None for the account's own.
        tags: object tags for every object.
        expected_bucket_owner: AWS account that must own the bucket, or every request is refused.
        max_bandwidth: bytes per second over all uploads together, or None for no limit.
        stall_seconds: a request for which no byte has moved for so long is broken off.
        uploads: how many uploads the caller runs at once.
        parts_in_flight: how many requests with a body may be under way at once, over all uploads, at least;
            together they hold at most so many times 8 MiB, or one single larger part.
        cloudfront_domain: host name of a CloudFront distribution in front of the bucket; public URLs start
            with it whatever `base_url` says.
        cloudfront_distribution_id: that distribution, to be told when an object was replaced.
        cloudfront_endpoint_url: where CloudFront's API is, if not at AWS.

    """

    bucket: str
    region: str
    prefix: str = ""
    endpoint_url: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    acl: Literal["public-read"] | None = None
    cache_control: str | None = None
    base_url: str | None = None
    cloudfront_domain: str | None = None
    cloudfront_distribution_id: str | None = None
    cloudfront_endpoint_url: str | None = None
    connections: int = 10
    storage_class: str | None = None
    sse: Literal["AES256", "aws:kms"] | None = None
    sse_kms_key_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    expected_bucket_owner: str | None = None
    max_bandwidth: float | None = None
    stall_seconds: float = 60.0
    uploads: int = 1
    parts_in_flight: int = 5

    @property
    def public_base_url(self) -> str:
        """What a public URL is made of before the '/' and the key; never ends in '/'.

        Governed by https://docs.aws.amazon.com/AmazonS3/latest/userguide/VirtualHosting.html: virtual-hosted
        style on AWS, path style on any other server.
        """
        if self.cloudfront_domain is not None:
            return f"https://{self.cloudfront_domain}"
        if self.base_url is not None:
            return self.base_url.rstrip("/")
        if self.endpoint_url is not None:
            return f"{self.endpoint_url.rstrip('/')}/{self.bucket}"
        return f"https://{self.bucket}.s3.{self.region}.amazonaws.com"
