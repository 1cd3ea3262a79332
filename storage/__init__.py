"""S3: names of objects, uploading, confirming. Knows no database and no file watching.

All that the rest of the house may use is named here; nothing of the S3 library beneath shows through.
"""

from storage.config import StorageConfig
from storage.confirmation import Confirmation, Receipt, Verdict
from storage.content_types import content_type
from storage.errors import (
    ErrorKind,
    KeyTooLongError,
    SourceChangedError,
    StorageError,
    UploadCancelledError,
)
from storage.keys import ParsedKey, key_of_url, object_key, parse_object_key, public_url
from storage.object_store import ObjectStore
from storage.parts import part_size_for
from storage.sending import Sent, Target
from storage.source import FileIdentity, Source

__all__ = [
    "Confirmation",
    "ErrorKind",
    "FileIdentity",
    "KeyTooLongError",
    "ObjectStore",
    "ParsedKey",
    "Receipt",
    "Sent",
    "Source",
    "SourceChangedError",
    "StorageConfig",
    "StorageError",
    "Target",
    "UploadCancelledError",
    "Verdict",
    "content_type",
    "key_of_url",
    "object_key",
    "parse_object_key",
    "part_size_for",
    "public_url",
]
