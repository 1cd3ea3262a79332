from .anonymous_http import AnonymousHttp
from .aws.proxies import proxy_passwords
from .bucket import (
    NEW_ON_AWS,
    BucketAdmin,
    BucketDocument,
    DesiredBucket,
    Document,
    Documents,
    Transition,
    desired_documents,
    is_unsupported,
    minimal_policy,
)
from .checks import CheckResult, Outcome, PublicCheck, check_storage, failed, not_tried, ok, warning
from .cloudfront import MAX_INVALIDATION_PATHS, Distribution, invalidation_paths
from .config import AccessKey, StorageConfig
from .content_types import CONTENT_TYPES, content_type
from .dialect import ServerDialect, ServerTrait
from .errors import (
    NO_ANSWER_CODES,
    UNUSABLE_CODES,
    ErrorKind,
    KeyTooLongError,
    PreconditionError,
    SourceChangedError,
    StorageError,
    UploadCancelledError,
)
from .keys import (
    QUALITIES,
    ParsedKey,
    has_control_characters,
    key_of_url,
    object_key,
    parse_object_key,
    public_url,
    rendition_filename,
)
from .object_store import ListedObject, ObjectStore
from .proof_by_reading import PROBE_NAME
from .rendition_store import RenditionStore, UploadedRendition
from .s3_service import S3Service
from .source_file import PartialChecksum, SourceFile
from .transfer import Multipart, OpenMultipart, Sent, Target, WriteCondition, part_size_for
from .upload_steps import UploadSteps
from .verification import Confirmation, ObjectHead, Receipt, Verdict, compare

__all__ = [
    "CONTENT_TYPES",
    "MAX_INVALIDATION_PATHS",
    "NEW_ON_AWS",
    "NO_ANSWER_CODES",
    "PROBE_NAME",
    "QUALITIES",
    "UNUSABLE_CODES",
    "AccessKey",
    "AnonymousHttp",
    "BucketAdmin",
    "BucketDocument",
    "CheckResult",
    "Confirmation",
    "DesiredBucket",
    "Distribution",
    "Document",
    "Documents",
    "ErrorKind",
    "KeyTooLongError",
    "ListedObject",
    "Multipart",
    "ObjectHead",
    "ObjectStore",
    "OpenMultipart",
    "Outcome",
    "ParsedKey",
    "PartialChecksum",
    "PreconditionError",
    "PublicCheck",
    "Receipt",
    "RenditionStore",
    "S3Service",
    "Sent",
    "ServerDialect",
    "ServerTrait",
    "SourceChangedError",
    "SourceFile",
    "StorageConfig",
    "StorageError",
    "Target",
    "Transition",
    "UploadCancelledError",
    "UploadSteps",
    "UploadedRendition",
    "Verdict",
    "WriteCondition",
    "check_storage",
    "compare",
    "content_type",
    "desired_documents",
    "failed",
    "has_control_characters",
    "invalidation_paths",
    "is_unsupported",
    "key_of_url",
    "minimal_policy",
    "not_tried",
    "object_key",
    "ok",
    "parse_object_key",
    "part_size_for",
    "proxy_passwords",
    "public_url",
    "rendition_filename",
    "warning",
]
