"""Names of objects: rendition → key → public URL, and back.

A key is plain text and is never percent-encoded; its URL always is, one path segment at a time (RFC 3986,
section 2.1), so that '%', '#', '?', '+' and spaces in a filename reach the object they name.
"""

import os.path
import uuid
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote, unquote

from storage.errors import ErrorKind, KeyTooLongError, StorageError

MAX_KEY_BYTES = 1024
"""Limit of S3, https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html."""


class ParsedKey(NamedTuple):
    """The rendition that an object key names."""

    video_id: str
    filename: str
    quality: str


def object_key(prefix: str, video_id: str, filename: str, quality: str) -> str:
    """The key of a rendition: `{prefix}/{video_id}/{base}_{quality}{ext}`.

    Base and extension of `filename` are what `os.path.splitext` says: `my.cut.mp4` is `my.cut` and `.mp4`.
    Slashes around the prefix do not count, and an empty prefix adds none.

    Raises `KeyTooLongError` for a key over 1,024 bytes of UTF-8, `StorageError` of kind object for a filename
    that is not Unicode text (a name that was not valid UTF-8 on disk), and `ValueError` for one that is empty
    or holds a '/', which no file name can be.
    """
    if not filename or "/" in filename:
        raise ValueError(f"{filename!r} is not the name of a file")
    base, extension = os.path.splitext(filename)
    key = "/".join(filter(None, (prefix.strip("/"), video_id, f"{base}_{quality}{extension}")))
    try:
        length = len(key.encode())
    except UnicodeEncodeError as exc:
        raise StorageError(
            ErrorKind.OBJECT,
            "name object",
            key,
            "key-not-unicode",
            "The file's name is not valid UTF-8: rename the file.",
        ) from exc
    if length > MAX_KEY_BYTES:
        raise KeyTooLongError(key, length, MAX_KEY_BYTES)
    return key


def parse_object_key(prefix: str, key: str, qualities: Iterable[str]) -> ParsedKey | None:
    """The rendition that `key` names, or None if `object_key` would not have made it with this prefix.

    Where one quality word ends in another one (`hd_720p` and `720p`), the longer one is meant.
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
    """The address under which `key` can be fetched, percent-encoded per path segment."""
    return f"{base_url.rstrip('/')}/{'/'.join(quote(segment, safe='') for segment in key.split('/'))}"


def key_of_url(base_url: str, url: str) -> str | None:
    """The key that `url` fetches, in whatever way it is percent-encoded; None if it is not one of ours.

    A query or a fragment makes a URL somebody else's, and so do bytes that are not UTF-8.
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
