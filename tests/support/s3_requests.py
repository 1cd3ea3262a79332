"""The S3 action of an HTTP request, from its method and target."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs, urlsplit

BODIES: Final = frozenset({"PutObject", "UploadPart"})
"""The actions whose bodies are the content of a file."""
WRITES: Final = BODIES | {
    "CreateMultipartUpload",
    "CompleteMultipartUpload",
    "AbortMultipartUpload",
    "DeleteObject",
}


def action_of(method: str, target: str) -> str:
    """What a request does, in words of S3's API reference; the method where this project sends only one."""
    query = parse_qs(urlsplit(target).query, keep_blank_values=True)
    match method:
        case "PUT" if "acl" in query:
            return "PutObjectAcl"
        case "PUT":
            return "UploadPart" if "partNumber" in query else "PutObject"
        case "POST":
            return "CreateMultipartUpload" if "uploads" in query else "CompleteMultipartUpload"
        case "DELETE":
            return "AbortMultipartUpload" if "uploadId" in query else "DeleteObject"
        case "HEAD":
            return "HeadObject"
    return method
