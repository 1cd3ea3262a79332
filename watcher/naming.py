"""The names one rendition has: its object's key, its public URL and its local URL."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from db import Upload
from storage import content_type, object_key, public_url
from watcher.template import Rendition


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
        return public_url(self.public_base, upload.object_key)

    def local_url(self, upload: Upload) -> str:
        """Where players find the local copy."""
        return f"{self.local_base}/{quote(upload.path)}"

    @staticmethod
    def content_type(upload: Upload) -> str:
        """The object's media type, by the extension of its name."""
        return content_type(upload.filename)
