"""Reading what a server answered, as botocore hands it over: a mapping that may lack anything."""

from collections.abc import Mapping
from typing import Any

from storage.errors import ErrorKind, StorageError


def required(answer: Mapping[str, object], field: str, operation: str, key: str | None) -> str:
    """A text that every S3 server sends; without it this is none, and a transient `StorageError` says so."""
    value = present(answer, field, operation, key)
    if not isinstance(value, str) or not value:
        raise _lacking(field, operation, key)
    return value


def present(answer: Mapping[str, Any], field: str, operation: str, key: str | None) -> Any:
    """A field of any type that every S3 server sends; raises as `required`."""
    value = answer.get(field)
    if value is None:
        raise _lacking(field, operation, key)
    return value


def unquoted(etag: str | None) -> str:
    """An ETag without the quotes that HTTP puts around it; empty if the server gave none."""
    return (etag or "").strip('"')


def version(version_id: str | None) -> str | None:
    """A version's id; None for "null", which is how S3 calls what it keeps on a bucket without versions."""
    return None if version_id == "null" else version_id


def _lacking(field: str, operation: str, key: str | None) -> StorageError:
    return StorageError(
        ErrorKind.TRANSIENT,
        operation,
        key,
        "incomplete-answer",
        f"The answer lacks {field}: check that AWS_ENDPOINT_URL is an S3 server. It is tried again.",
    )
