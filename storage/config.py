"""The configuration of this package: where objects are stored, and how."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from storage.keys import QUALITIES


class AccessKey(NamedTuple):
    """An access key with its secret key and, if it is temporary, its session token."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageConfig:
    """A bucket and the access to it. Values are used as they are; none is read from anywhere else.

    Attributes:
        bucket: name of the bucket; it must exist.
        region: the bucket's region. A wrong one is an error and redirects are not followed, because public
            URLs are made from it.
        prefix: the beginning of every object key, without the '/' after it; may be empty.
        endpoint_url: an S3-compatible server instead of AWS.
        access_key_id, secret_access_key, session_token: credentials. Without them those of boto3's default
            chain (environment, shared files, container, instance) are used, and refreshed on expiry.
        acl: canned ACL for every object, or None to send none.
        cache_control: `Cache-Control` for every object, or None to send none.
        base_url: the beginning of public URLs, if not the bucket's own address (a CDN).
        connections: the most connections that are open at once.
        storage_class: for every object, or None for the bucket's default.
        sse: encryption at rest for every object, or None for the bucket's default.
        sse_kms_key_id: the key for `aws:kms`, or None for the account's own.
        tags: object tags for every object.
        expected_bucket_owner: AWS account that must own the bucket, or every request is refused.
        max_bandwidth: bytes per second over all uploads together, or None for no limit.
        stall_seconds: a request without progress for this long is cancelled.
        uploads: how many uploads the caller runs concurrently.
        parts_in_flight: the most requests with a body in flight, over all uploads, unless `uploads` is
            larger; together they hold at most this many times 8 MiB, or one larger part.
        checksum: what goes along with each body, so that the server refuses a difference: "crc64nvme", "md5",
            "none", or with "auto" the first where the server takes it, else the second.
        addressing: "path" or "virtual" style of URLs, or with "auto" that which the server takes.
        max_parts: how many parts of one upload the server takes, or None for what is known of it.
        prove_by_reading: whether an object is read back where the server gives no other proof of it.
        qualities: the qualities that `RenditionStore` and `S3Service` accept.
        cloudfront_domain: host name of a CloudFront distribution in front of the bucket; it takes precedence
            over `base_url`.
        cloudfront_distribution_id: that distribution, in which replaced objects are invalidated.
        cloudfront_endpoint_url: the endpoint of CloudFront's API, if not that of AWS.

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
    checksum: Literal["auto", "crc64nvme", "md5", "none"] = "auto"
    addressing: Literal["auto", "path", "virtual"] = "auto"
    max_parts: int | None = None
    prove_by_reading: bool = True
    qualities: tuple[str, ...] = QUALITIES
    uploads: int = 1
    parts_in_flight: int = 5

    @property
    def public_base_url(self) -> str:
        """The beginning of public URLs, before the '/' and the key; never ends in '/'.

        Virtual-hosted style on AWS, path style on any other server unless it is said to need the other; see
        https://docs.aws.amazon.com/AmazonS3/latest/userguide/VirtualHosting.html.
        """
        if self.cloudfront_domain is not None:
            return f"https://{self.cloudfront_domain}"
        if self.base_url is not None:
            return self.base_url.rstrip("/")
        if self.endpoint_url is not None:
            in_path = f"{self.endpoint_url.rstrip('/')}/{self.bucket}"
            return in_path if self.addressing != "virtual" else self.virtual_base_url or in_path
        # The certificate of the bucket's own name covers no dots.
        if self.addressing == "path" or "." in self.bucket:
            return f"https://s3.{self.region}.amazonaws.com/{self.bucket}"
        return f"https://{self.bucket}.s3.{self.region}.amazonaws.com"

    @property
    def virtual_base_url(self) -> str | None:
        """As `public_base_url`, for a server that refuses path style; None if that changes nothing."""
        if self.endpoint_url is None or self.base_url is not None or self.cloudfront_domain is not None:
            return None
        address = urlsplit(self.endpoint_url)
        return f"{address.scheme}://{self.bucket}.{address.netloc}{address.path.rstrip('/')}"
