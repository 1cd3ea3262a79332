from .admin import BucketAdmin, is_unsupported
from .documents import (
    NEW_ON_AWS,
    BucketDocument,
    DesiredBucket,
    Document,
    Documents,
    Transition,
    desired_documents,
)
from .iam_policy import minimal_policy

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
