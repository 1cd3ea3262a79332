"""S3: names of objects, uploading, confirming, the bucket's set-up, checks, the CDN. Knows no database.

All that the rest of the house may use is named here; nothing of the S3 library beneath shows through.
"""

from storage.bucket import BucketWishes, Document, Documents, Part, Transition, wanted
from storage.bucket_admin import BucketAdmin, is_unknown_to_server
from storage.checks import check_storage
from storage.cloudfront import MAX_PATHS, Distribution, invalidation_paths
from storage.conditions import OnlyIf
from storage.config import StorageConfig
from storage.confirmation import Confirmation, Receipt, Verdict
from storage.content_types import content_type
from storage.errors import (
    ErrorKind,
    KeyTooLongError,
    PreconditionError,
    SourceChangedError,
    StorageError,
    UploadCancelledError,
)
from storage.iam import smallest_policy
from storage.keys import ParsedKey, key_of_url, object_key, parse_object_key, public_url
from storage.multipart import Multipart, OpenMultipart
from storage.object_store import ListedObject, ObjectStore
from storage.outcomes import CheckResult, Outcome, failed, not_tried, ok, warning
from storage.parts import part_size_for
from storage.public_access import PublicAccess
from storage.public_check import PublicCheck
from storage.renditions import Placed, Renditions
from storage.sending import Sent, Target
from storage.service import S3Service
from storage.source import FileIdentity, Source

__all__ = [
    "MAX_PATHS",
    "BucketAdmin",
    "BucketWishes",
    "CheckResult",
    "Confirmation",
    "Distribution",
    "Document",
    "Documents",
    "ErrorKind",
    "FileIdentity",
    "KeyTooLongError",
    "ListedObject",
    "Multipart",
    "ObjectStore",
    "OnlyIf",
    "OpenMultipart",
    "Outcome",
    "ParsedKey",
    "Part",
    "Placed",
    "PreconditionError",
    "PublicAccess",
    "PublicCheck",
    "Receipt",
    "Renditions",
    "S3Service",
    "Sent",
    "Source",
    "SourceChangedError",
    "StorageConfig",
    "StorageError",
    "Target",
    "Transition",
    "UploadCancelledError",
    "Verdict",
    "check_storage",
    "content_type",
    "failed",
    "invalidation_paths",
    "is_unknown_to_server",
    "key_of_url",
    "not_tried",
    "object_key",
    "ok",
    "parse_object_key",
    "part_size_for",
    "public_url",
    "smallest_policy",
    "wanted",
    "warning",
]
