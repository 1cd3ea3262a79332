"""Object keys and public URLs of renditions.

A key is plain text, never percent-encoded. Its URL is percent-encoded segment by segment (RFC 3986, section
2.1), so that '%', '#', '?', '+' and spaces in a filename reach the object that they name.
"""

import os.path
import uuid
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote, unquote

from storage.errors import ErrorKind, KeyTooLongError, StorageError

MAX_KEY_BYTES = 1024
"""S3's limit, https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html."""


class ParsedKey(NamedTuple):
    """The rendition of an object key."""

    video_id: str
    filename: str
    quality: str


def object_key(prefix: str, video_id: str, filename: str, quality: str) -> str:
    """The key of a rendition: `{prefix}/{video_id}/{base}_{quality}{ext}`.

    Base and extension are those of `os.path.splitext`: `my.cut.mp4` is `my.cut` and `.mp4`. Slashes around
    the prefix are ignored, and an empty prefix adds none.

    Raises `KeyTooLongError` for a key over 1,024 bytes of UTF-8, `StorageError` of kind object for a filename
    that is not valid UTF-8 on disk, and `ValueError` for one that is empty or contains a '/'.
    """
    if not filename or "/" in filename:
        raise ValueError(f"{filename!r} is not the name of a file")
    base, extension = os.path.splitext(filename)
    key = "/".join(filter(None, (prefix.strip("/"), video_id, f"{base}_{quality}{extension}")))
    try:
        length = len(key.encode())
    except UnicodeEncodeError as exc:
        hint = "The file's name is not valid UTF-8: rename the file."
        raise StorageError(ErrorKind.OBJECT, "name object", key, "key-not-unicode", hint) from exc
    if length > MAX_KEY_BYTES:
        raise KeyTooLongError(key, length, MAX_KEY_BYTES)
    return key


def parse_object_key(prefix: str, key: str, qualities: Iterable[str]) -> ParsedKey | None:
    """The rendition of `key`; None for a key that `object_key` does not make with this prefix.

    Of two qualities of which one ends in the other (`hd_720p` and `720p`), the longer one matches.
    """
    folder = prefix.strip("/")
    if folder and not key.startswith(f"{folder}/"):
        return None
    video_id, slash, name = key[len(folder) + 1 if folder else 0 :].partition("/")
    if not slash or "/" in name or not _is_canonical_uuid(video_id):
        return None
    stem, extension = os.path.splitext(name)
    for quality in sorted(qualities, key=len, reverse=True):
        base = stem.removesuffix(f"_{quality}")
        if base and base != stem:
            return ParsedKey(video_id, base + extension, quality)
    return None


def public_url(base_url: str, key: str) -> str:
    """The URL of `key`, percent-encoded per path segment."""
    return f"{base_url.rstrip('/')}/{'/'.join(quote(segment, safe='') for segment in key.split('/'))}"


def key_of_url(base_url: str, url: str) -> str | None:
    """The key of `url`, in any percent-encoding; None if it is not a URL of `public_url`.

    A URL with a query, a fragment or bytes that are not UTF-8 is none.
    """
    start = f"{base_url.rstrip('/')}/"
    path = url.removeprefix(start)
    if path == url or not path or "?" in path or "#" in path:
        return None
    try:
        return unquote(path, errors="strict")
    except UnicodeDecodeError:
        return None


def _is_canonical_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
