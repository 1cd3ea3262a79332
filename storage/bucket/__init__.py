"""The bucket itself: the documents that it needs, their administration, and the IAM policy of the daemon."""

from storage.bucket.admin import BucketAdmin, is_unsupported
from storage.bucket.documents import (
    NEW_ON_AWS,
    BucketDocument,
    DesiredBucket,
    Document,
    Documents,
    Transition,
    desired_documents,
)
from storage.bucket.iam_policy import minimal_policy

__all__ = [
    "NEW_ON_AWS",
    "BucketAdmin",
    "BucketDocument",
    "DesiredBucket",
    "Document",
    "Documents",
    "Transition",
    "desired_documents",
    "is_unsupported",
    "minimal_policy",
]
