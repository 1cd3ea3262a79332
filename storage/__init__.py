"""S3: names of objects, uploading, confirming, the bucket's set-up, checks, the CDN. Knows no database.

All that the rest of the house may use is named here; nothing of the S3 library beneath shows through.
"""

from storage.acl_fallback import AclFallback
from storage.bucket.admin import BucketAdmin, is_unknown_to_server
from storage.bucket.documents import BucketDocument, DesiredBucket, Document, Documents, Transition, wanted
from storage.bucket.iam_policy import smallest_policy
from storage.checks.connectivity import check_storage
from storage.checks.public_reads import PublicCheck
from storage.checks.results import CheckResult, Outcome, failed, not_tried, ok, warning
from storage.cloudfront import MAX_PATHS, Distribution, invalidation_paths
from storage.config import StorageConfig
from storage.content_types import content_type
from storage.errors import (
    ErrorKind,
    KeyTooLongError,
    PreconditionError,
    SourceChangedError,
    StorageError,
    UploadCancelledError,
)
from storage.keys import ParsedKey, key_of_url, object_key, parse_object_key, public_url
from storage.object_store import ListedObject, ObjectStore
from storage.rendition_store import Placed, Renditions
from storage.s3_service import S3Service
from storage.source_file import FileIdentity, SourceFile
from storage.transfer.multipart import Multipart, OpenMultipart
from storage.transfer.part_layout import part_size_for
from storage.transfer.preconditions import WriteCondition
from storage.transfer.single_put import Sent, Target
from storage.verification import Confirmation, Receipt, Verdict

__all__ = [
    "MAX_PATHS",
    "AclFallback",
    "BucketAdmin",
    "BucketDocument",
    "CheckResult",
    "Confirmation",
    "DesiredBucket",
    "Distribution",
    "Document",
    "Documents",
    "ErrorKind",
    "FileIdentity",
    "KeyTooLongError",
    "ListedObject",
    "Multipart",
    "ObjectStore",
    "OpenMultipart",
    "Outcome",
    "ParsedKey",
    "Placed",
    "PreconditionError",
    "PublicCheck",
    "Receipt",
    "Renditions",
    "S3Service",
    "Sent",
    "SourceChangedError",
    "SourceFile",
    "StorageConfig",
    "StorageError",
    "Target",
    "Transition",
    "UploadCancelledError",
    "Verdict",
    "WriteCondition",
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
