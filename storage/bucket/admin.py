"""Creates the bucket, and reads and writes its documents; `storage.bucket.documents` merges them."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from storage.aws.clients import AwsSession, Closeable
from storage.aws.errors import http_status, translated
from storage.bucket.documents import NEW_ELSEWHERE, NEW_ON_AWS, BucketDocument, Document, Documents
from storage.config import StorageConfig
from storage.errors import ErrorKind, StorageError

_AWS_DOMAINS = (".amazonaws.com", ".amazonaws.com.cn")

_WITHOUT_LOCATION = "us-east-1"
"""The region that must not be given as a location constraint."""

_UNSUPPORTED = frozenset({"NotImplemented", "MethodNotAllowed", "http-405", "http-501"})


@dataclass(frozen=True, slots=True)
class _Api:
    """How boto3 reads and writes one kind of document: by `get_{name}` and `put_{name}`."""

    name: str
    unwrap: Callable[[Mapping[str, Any]], Document | None]
    wrap: Callable[[Document], Mapping[str, Any]]
    if_absent: str
    """The error code for a bucket without such a document."""
    permissions: str


_APIS: Mapping[BucketDocument, _Api] = MappingProxyType(
    {
        BucketDocument.PUBLIC_ACCESS_BLOCK: _Api(
            "public_access_block",
            lambda answer: answer.get("PublicAccessBlockConfiguration"),
            lambda document: {"PublicAccessBlockConfiguration": document},
            "NoSuchPublicAccessBlockConfiguration",
            "s3:GetBucketPublicAccessBlock and s3:PutBucketPublicAccessBlock",
        ),
        BucketDocument.OWNERSHIP: _Api(
            "bucket_ownership_controls",
            lambda answer: answer.get("OwnershipControls"),
            lambda document: {"OwnershipControls": document},
            "OwnershipControlsNotFoundError",
            "s3:GetBucketOwnershipControls and s3:PutBucketOwnershipControls",
        ),
        BucketDocument.POLICY: _Api(
            "bucket_policy",
            lambda answer: json.loads(answer["Policy"]) if answer.get("Policy") else None,
            lambda document: {"Policy": json.dumps(document)},
            "NoSuchBucketPolicy",
            "s3:GetBucketPolicy and s3:PutBucketPolicy",
        ),
        BucketDocument.CORS: _Api(
            "bucket_cors",
            lambda answer: {"CORSRules": answer["CORSRules"]} if answer.get("CORSRules") else None,
            lambda document: {"CORSConfiguration": document},
            "NoSuchCORSConfiguration",
            "s3:GetBucketCORS and s3:PutBucketCORS",
        ),
        BucketDocument.LIFECYCLE: _Api(
            "bucket_lifecycle_configuration",
            lambda answer: _only(answer, "Rules", _MINIMUM_SIZE) if answer.get("Rules") else None,
            lambda document: {
                "LifecycleConfiguration": _only(document, "Rules"),
                **_only(document, _MINIMUM_SIZE),
            },
            "NoSuchLifecycleConfiguration",
            "s3:GetLifecycleConfiguration and s3:PutLifecycleConfiguration",
        ),
    }
)

_MINIMUM_SIZE = "TransitionDefaultMinimumObjectSize"
"""A setting of the whole lifecycle, which a write without it resets."""


class BucketAdmin(Closeable):
    """Administers the bucket of a configuration. Close it at the end. Every method raises `StorageError`."""

    def __init__(self, config: StorageConfig) -> None:
        self._config = config
        self._session = AwsSession(config)
        self._client = self._session.client

    def close(self) -> None:
        """Release the connections. No call may be in progress or follow."""
        self._session.close()

    @property
    def new_bucket(self) -> Documents:
        """The documents that a bucket has after `create`: on other servers than AWS a guess."""
        endpoint = self._config.endpoint_url
        host = urlsplit(endpoint).hostname or "" if endpoint is not None else _AWS_DOMAINS[0]
        return NEW_ON_AWS if host.endswith(_AWS_DOMAINS) else NEW_ELSEWHERE

    def exists(self) -> bool:
        """Whether the bucket exists. One in another region than the configured one raises `StorageError`."""
        with _administering("look for the bucket", "s3:ListBucket, if the bucket is not another account's"):
            try:
                region = self._client.head_bucket(Bucket=self._config.bucket).get("BucketRegion")
            except ClientError as exc:
                if http_status(exc) == 404:
                    return False
                raise
        if region is not None and region != self._config.region:
            hint = f"The bucket is in {region}: set AWS_REGION to that, because public URLs are made from it."
            raise StorageError(ErrorKind.ENVIRONMENT, "look for the bucket", None, "wrong-region", hint)
        return True

    def create(self) -> None:
        """Create the bucket in the configured region."""
        region = self._config.region
        location: dict[str, Any] = (
            {}
            if region == _WITHOUT_LOCATION
            else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        )
        with _administering("create the bucket", "s3:CreateBucket"):
            self._client.create_bucket(Bucket=self._config.bucket, **location)

    def read(self) -> Documents:
        """The bucket's documents, without those that the server does not support."""
        documents: dict[BucketDocument, Document | None] = {}
        for kind, api in _APIS.items():
            try:
                documents[kind] = self._read(kind, api)
            except StorageError as exc:
                if not is_unsupported(exc):
                    raise
        return documents

    def write(self, kind: BucketDocument, document: Document) -> None:
        """Replace one of the bucket's documents."""
        api = _APIS[kind]
        with _administering(f"write the bucket's {kind}", api.permissions):
            getattr(self._client, f"put_{api.name}")(Bucket=self._config.bucket, **api.wrap(document))

    def _read(self, kind: BucketDocument, api: _Api) -> Document | None:
        with _administering(f"read the bucket's {kind}", api.permissions):
            try:
                answer = getattr(self._client, f"get_{api.name}")(Bucket=self._config.bucket)
            except ClientError as exc:
                if exc.response.get("Error", {}).get("Code") == api.if_absent:
                    return None
                raise
            return api.unwrap(answer)


def is_unsupported(error: StorageError) -> bool:
    """Whether an error says that the server does not support a kind of document."""
    return error.code in _UNSUPPORTED


@contextmanager
def _administering(operation: str, permissions: str) -> Iterator[None]:
    """As `translated`, with hints for the set-up of a bucket, where every refusal is of kind environment."""
    try:
        with translated(operation, None):
            yield
    except StorageError as exc:
        if exc.code in ("AccessDenied", "http-403"):
            hint = (
                f"Allow these credentials {permissions}. The account's public access block may also forbid a "
                "public policy."
            )
            raise StorageError(ErrorKind.ENVIRONMENT, operation, None, exc.code, hint) from exc
        cause = exc.__cause__
        if exc.kind is ErrorKind.TRANSIENT and isinstance(cause, ClientError) and http_status(cause) < 500:
            hint = f"The server said: {exc.said}. Correct the settings that are at fault."
            raise StorageError(ErrorKind.ENVIRONMENT, operation, None, exc.code, hint) from exc
        raise


def _only(mapping: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: mapping[name] for name in names if name in mapping}
