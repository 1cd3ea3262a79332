"""Media types of videos by extension.

Python's `mimetypes` is not used, because its results depend on files of the machine.
"""

import os.path
from collections.abc import Mapping
from types import MappingProxyType

FALLBACK = "application/octet-stream"

CONTENT_TYPES: Mapping[str, str] = MappingProxyType(
    {
        ".3gp": "video/3gpp",
        ".avi": "video/x-msvideo",
        ".flv": "video/x-flv",
        ".m2ts": "video/mp2t",
        # Apple's video/x-m4v is registered nowhere and some browsers refuse to play it; the format is MP4.
        ".m4v": "video/mp4",
        ".mkv": "video/x-matroska",
        ".mov": "video/quicktime",
        ".mp4": "video/mp4",
        ".mpeg": "video/mpeg",
        ".mpg": "video/mpeg",
        ".ogv": "video/ogg",
        ".ts": "video/mp2t",
        ".webm": "video/webm",
        ".wmv": "video/x-ms-wmv",
    }
)


def content_type(name: str) -> str:
    """The media type of a file name or key; `application/octet-stream` for an unknown extension."""
    return CONTENT_TYPES.get(os.path.splitext(name)[1].lower(), FALLBACK)
