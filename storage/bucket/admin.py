"""Reads and writes the bucket's documents; `storage.bucket.documents` says what they should be."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any, Self

from botocore.exceptions import ClientError

from storage.aws.clients import Access
from storage.aws.errors import http_status, translated
from storage.bucket.documents import NEW_ELSEWHERE, NEW_ON_AWS, BucketDocument, Document, Documents
from storage.config import StorageConfig
from storage.errors import ErrorKind, StorageError

_WITHOUT_LOCATION = "us-east-1"
"""The one region that must not be named when a bucket is created in it."""

_UNKNOWN_TO_SERVER = frozenset({"NotImplemented", "MethodNotAllowed", "http-405", "http-501"})


@dataclass(frozen=True, slots=True)
class _Access:
    """How one kind of document is asked for and handed over."""

    get: str
    put: str
    unwrap: Callable[[Mapping[str, Any]], Document | None]
    wrap: Callable[[Document], Mapping[str, Any]]
    if_absent: str
    """The error code of a bucket that has no such document."""
    permissions: str


_ACCESS: Mapping[BucketDocument, _Access] = MappingProxyType(
    {
        BucketDocument.PUBLIC_ACCESS_BLOCK: _Access(
            "get_public_access_block",
            "put_public_access_block",
            lambda answer: answer.get("PublicAccessBlockConfiguration"),
            lambda document: {"PublicAccessBlockConfiguration": document},
            "NoSuchPublicAccessBlockConfiguration",
            "s3:GetBucketPublicAccessBlock and s3:PutBucketPublicAccessBlock",
        ),
        BucketDocument.OWNERSHIP: _Access(
            "get_bucket_ownership_controls",
            "put_bucket_ownership_controls",
            lambda answer: answer.get("OwnershipControls"),
            lambda document: {"OwnershipControls": document},
            "OwnershipControlsNotFoundError",
            "s3:GetBucketOwnershipControls and s3:PutBucketOwnershipControls",
        ),
        BucketDocument.POLICY: _Access(
            "get_bucket_policy",
            "put_bucket_policy",
            lambda answer: json.loads(answer["Policy"]) if answer.get("Policy") else None,
            lambda document: {"Policy": json.dumps(document)},
            "NoSuchBucketPolicy",
            "s3:GetBucketPolicy and s3:PutBucketPolicy",
        ),
        BucketDocument.CORS: _Access(
            "get_bucket_cors",
            "put_bucket_cors",
            lambda answer: {"CORSRules": answer["CORSRules"]} if answer.get("CORSRules") else None,
            lambda document: {"CORSConfiguration": document},
            "NoSuchCORSConfiguration",
            "s3:GetBucketCORS and s3:PutBucketCORS",
        ),
        BucketDocument.LIFECYCLE: _Access(
            "get_bucket_lifecycle_configuration",
            "put_bucket_lifecycle_configuration",
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
"""A setting of the whole lifecycle, which a write that does not repeat it would reset."""


class BucketAdmin:
    """The bucket that a configuration names. Close it at the end. Every method raises `StorageError`."""

    def __init__(self, config: StorageConfig) -> None:
        self._config = config
        self._access = Access(config)
        self._client = self._access.client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._access.close()

    @property
    def new_bucket(self) -> Documents:
        """The documents that a bucket made by `create` is expected to have."""
        return NEW_ON_AWS if self._config.endpoint_url is None else NEW_ELSEWHERE

    def exists(self) -> bool:
        """Whether there is such a bucket. One in another region than the configured one is an error."""
        with _administering("look for the bucket", "s3:ListBucket; or the bucket is somebody else's"):
            try:
                told = self._client.head_bucket(Bucket=self._config.bucket).get("BucketRegion")
            except ClientError as exc:
                if http_status(exc) == 404:
                    return False
                raise
        if told is not None and told != self._config.region:
            hint = f"The bucket is in {told}: set AWS_REGION to that, for public URLs are made from it."
            raise StorageError(ErrorKind.ENVIRONMENT, "look for the bucket", None, "wrong-region", hint)
        return True

    def create(self) -> None:
        """Make the bucket in the configured region."""
        region = self._config.region
        where: dict[str, Any] = (
            {}
            if region == _WITHOUT_LOCATION
            else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        )
        with _administering("create the bucket", "s3:CreateBucket"):
            self._client.create_bucket(Bucket=self._config.bucket, **where)

    def read(self) -> Documents:
        """The bucket's documents; those that the server does not know at all are left out."""
        documents: dict[BucketDocument, Document | None] = {}
        for part, access in _ACCESS.items():
            try:
                documents[part] = self._read(part, access)
            except StorageError as exc:
                if not is_unknown_to_server(exc):
                    raise
        return documents

    def write(self, part: BucketDocument, document: Document) -> None:
        """Replace one of the bucket's documents."""
        access = _ACCESS[part]
        with _administering(f"write the bucket's {part}", access.permissions):
            getattr(self._client, access.put)(Bucket=self._config.bucket, **access.wrap(document))

    def _read(self, part: BucketDocument, access: _Access) -> Document | None:
        with _administering(f"read the bucket's {part}", access.permissions):
            try:
                answer = getattr(self._client, access.get)(Bucket=self._config.bucket)
            except ClientError as exc:
                if exc.response.get("Error", {}).get("Code") == access.if_absent:
                    return None
                raise
            return access.unwrap(answer)


def is_unknown_to_server(error: StorageError) -> bool:
    """Whether an error says that the server has no such kind of document."""
    return error.code in _UNKNOWN_TO_SERVER


@contextmanager
def _administering(operation: str, permissions: str) -> Iterator[None]:
    """As `translated`, in the words of somebody who sets a bucket up: here a refusal is never waited out."""
    try:
        with translated(operation, None):
            yield
    except StorageError as exc:
        if exc.code in ("AccessDenied", "http-403"):
            hint = (
                f"Allow these credentials {permissions}. Where it is a policy that makes objects public, "
                "the account's own public access block may forbid it."
            )
            raise StorageError(ErrorKind.ENVIRONMENT, operation, None, exc.code, hint) from exc
        cause = exc.__cause__
        if exc.kind is ErrorKind.TRANSIENT and isinstance(cause, ClientError) and http_status(cause) < 500:
            said = cause.response.get("Error", {}).get("Message", "no reason")
            hint = f"The server said: {said.rstrip('.')}. Correct the settings that this comes from."
            raise StorageError(ErrorKind.ENVIRONMENT, operation, None, exc.code, hint) from exc
        raise


def _only(mapping: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: mapping[name] for name in names if name in mapping}
