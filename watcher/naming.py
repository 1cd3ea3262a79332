"""The names one rendition has: its object's key, its public URL and its local URL."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from urllib.parse import quote

from db import Upload
from storage import content_type, key_of_url, object_key, public_url
from watcher.renditions import ORIGINAL, Rendition


@dataclass(frozen=True, slots=True)
class Naming:
    """Knows where renditions go: `prefix` of the keys, `public_base` and `local_base` of the URLs."""

    prefix: str
    public_base: str
    local_base: str

    def key(self, rendition: Rendition) -> str:
        """The object key; raises `storage.KeyTooLongError` over S3's 1,024 bytes."""
        return object_key(self.prefix, rendition.video_id, rendition.filename, rendition.quality)

    def public_url(self, upload: Upload) -> str:
        """Where players find the object."""
        return self.public_url_of(upload.object_key)

    def public_url_of(self, key: str) -> str:
        """Where players find the object of a key."""
        return public_url(self.public_base, key)

    def key_of(self, url: str) -> str | None:
        """The key that a public URL leads to, however it is percent-encoded; None if it is no such URL."""
        return key_of_url(self.public_base, url)

    def local_url(self, upload: Upload) -> str:
        """Where players find the local copy."""
        return f"{self.local_base}/{quote(upload.path)}"

    @staticmethod
    def content_type(upload: Upload) -> str:
        """The object's media type, by the extension of its name."""
        return content_type(upload.filename)


def rendition_of(video_id: str, path: str, quality: str) -> Rendition:
    """What a file is if its quality is known, and not merely read from a name that can mean two things.

    `clip_720p.mp4` is a rendition of `clip.mp4`, or the original that somebody called so.
    """
    name = posixpath.basename(path)
    stem, extension = posixpath.splitext(name)
    base = stem.removesuffix(f"_{quality}")
    if quality == ORIGINAL or not base:
        return Rendition(video_id, name, quality)
    return Rendition(video_id, base + extension, quality)
