"""Media types of videos by extension: the formats that ffmpeg reads (ffmpeg -demuxers).

The types are IANA's, or in common use where there is none (RFC 4539 for MXF, RFC 6381 for MP4).
Python's `mimetypes` is not used, because its results depend on files of the machine.
"""

import os.path
from collections.abc import Mapping
from types import MappingProxyType

FALLBACK = "application/octet-stream"

CONTENT_TYPES: Mapping[str, str] = MappingProxyType(
    {
        ".3g2": "video/3gpp2",
        ".3gp": "video/3gpp",
        ".asf": "video/x-ms-asf",
        ".avi": "video/x-msvideo",
        ".divx": "video/x-msvideo",
        ".dv": "video/dv",
        # Adobe's video/x-f4v and Apple's video/x-m4v are registered nowhere and some browsers refuse to play
        # them; both formats are MP4.
        ".f4v": "video/mp4",
        ".flv": "video/x-flv",
        ".m2t": "video/mp2t",
        ".m2ts": "video/mp2t",
        ".m2v": "video/mpeg",
        ".m4v": "video/mp4",
        ".mkv": "video/x-matroska",
        ".mov": "video/quicktime",
        ".mp4": "video/mp4",
        ".mpe": "video/mpeg",
        ".mpeg": "video/mpeg",
        ".mpg": "video/mpeg",
        ".mts": "video/mp2t",
        ".mxf": "application/mxf",
        ".ogm": "video/ogg",
        ".ogv": "video/ogg",
        ".qt": "video/quicktime",
        ".rm": "application/vnd.rn-realmedia",
        ".rmvb": "application/vnd.rn-realmedia-vbr",
        ".ts": "video/mp2t",
        ".vob": "video/mpeg",
        ".webm": "video/webm",
        ".wmv": "video/x-ms-wmv",
    }
)


def content_type(name: str) -> str:
    """The media type of a file name or key; `application/octet-stream` for an unknown extension."""
    return CONTENT_TYPES.get(os.path.splitext(name)[1].lower(), FALLBACK)
