"""Object keys and public URLs of renditions.

A key is plain text, never percent-encoded. Its URL is percent-encoded segment by segment (RFC 3986, section
2.1), so that '%', '#', '?', '+' and spaces in a filename reach the object that they name.
"""

import os.path
import re
import uuid
from collections.abc import Collection, Iterable
from typing import NamedTuple
from urllib.parse import quote, unquote

from storage.errors import ErrorKind, KeyTooLongError, StorageError

MAX_KEY_BYTES = 1024
"""S3's limit, https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html."""

QUALITIES = ("144p", "240p", "360p", "480p", "720p", "1080p", "1440p", "2160p", "original")
"""The qualities of the compressor's table `video_qualities`."""

ORIGINAL = "original"
"""The quality of a source that is published as it is."""

_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


class ParsedKey(NamedTuple):
    """The rendition of an object key."""

    video_id: str
    filename: str
    quality: str


def object_key(
    prefix: str,
    video_id: uuid.UUID | str,
    filename: str,
    quality: str,
    *,
    qualities: Collection[str] = QUALITIES,
) -> str:
    """The key of a rendition: `{prefix}/{video_id}/{base}_{quality}{ext}`.

    Base and extension are those of `os.path.splitext`: `my.cut.mp4` is `my.cut` and `.mp4`. The video's id is
    written in lower case. Slashes around the prefix are ignored, and an empty prefix adds none.

    Raises `StorageError` of kind object for an id that is no UUID, a quality that is not in `qualities`, a
    filename that is empty, `.` or `..`, or contains a '/' or control characters, a prefix with such a
    component, and a filename that is not valid UTF-8 on disk; `KeyTooLongError` for a key over 1,024 bytes of
    UTF-8. The arguments may be of any type: they come from other programs.
    """
    video = canonical_video_id(video_id)
    if not _is_any_of(quality, qualities):
        raise _invalid("quality", quality, f"a quality: pass one of {', '.join(qualities)}")
    if not _is_file_name(filename):
        raise _invalid("filename", filename, "the name of a file: pass one without a directory")
    folder = prefix.strip("/")
    if has_control_characters(folder) or {".", ".."} & set(folder.split("/")):
        raise _invalid(
            "prefix", prefix, "a prefix of keys: use a path without '.', '..' and control characters"
        )
    base, extension = os.path.splitext(filename)
    key = "/".join(filter(None, (folder, video, f"{base}_{quality}{extension}")))
    try:
        length = len(key.encode())
    except UnicodeEncodeError as exc:
        hint = "The file's name is not valid UTF-8: rename the file."
        raise StorageError(ErrorKind.OBJECT, "name object", key, "key-not-unicode", hint) from exc
    if length > MAX_KEY_BYTES:
        raise KeyTooLongError(key, length, MAX_KEY_BYTES)
    return key


def rendition_filename(source: str, quality: str, local_path: str = "") -> str:
    """The filename for `object_key` of a rendition that was made of a file named `source`.

    The compressor writes every rendition as `.mp4`, whatever the source is, and copies the original. Another
    program may have kept the extension of the source: then the file at `local_path` has it.
    """
    base, extension = os.path.splitext(source)
    if quality == ORIGINAL or (extension and os.path.splitext(local_path)[1] == extension):
        return source
    return f"{base}.mp4"


def canonical_video_id(video_id: object) -> str:
    """The text of a UUID, or of a text that has its form (RFC 9562, section 4), in lower case.

    Raises `StorageError` of kind object for anything else.
    """
    if isinstance(video_id, uuid.UUID):
        return str(video_id)
    if isinstance(video_id, str) and _UUID.fullmatch(video_id):
        return video_id.lower()
    raise _invalid("video-id", video_id, "a UUID: pass the id of a video")


def has_control_characters(text: str) -> bool:
    """Whether a text has characters of Unicode's category Cc, which act on terminals and HTTP headers."""
    return _CONTROL_CHARACTER.search(text) is not None


def _is_any_of(value: object, qualities: Collection[str]) -> bool:
    return isinstance(value, str) and value in qualities


def _is_file_name(value: object) -> bool:
    return (
        isinstance(value, str)
        and value not in {"", ".", ".."}
        and "/" not in value
        and not has_control_characters(value)
    )


def _invalid(argument: str, value: object, expected: str) -> StorageError:
    # The representation of an unknown object may raise.
    shown = repr(value) if isinstance(value, str) else f"A value of type {type(value).__name__}"
    hint = f"{shown} is not {expected}."
    return StorageError(ErrorKind.OBJECT, "name object", None, f"invalid-{argument}", hint)


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
        if base and base != stem and _is_file_name(base + extension):
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
    return _UUID.fullmatch(text) is not None and text == text.lower()
