"""Renditions by name: uploads a file as one, looks one up, deletes it. For `S3Service` and the command line.

It knows no ledger: a daemon that manages the object notices the change when it next asks S3.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from storage.aws.clients import Closeable
from storage.config import StorageConfig
from storage.content_types import content_type
from storage.dialect import ServerTrait
from storage.keys import canonical_video_id, object_key, public_url, rendition_filename
from storage.object_store import ObjectStore
from storage.source_file import SourceFile
from storage.transfer.preconditions import WriteCondition
from storage.transfer.single_put import Target
from storage.upload_steps import UploadSteps
from storage.verification import Confirmation, Verdict


@dataclass(frozen=True, slots=True)
class UploadedRendition:
    """A rendition whose object is confirmed.

    Attributes:
        key: the object's key.
        url: its public URL.
        replaced: whether the key had other content before.

    """

    key: str
    url: str
    replaced: bool


class _Replace(UploadSteps):
    replaced = False

    def condition(self, found: Confirmation) -> WriteCondition:
        self.replaced = found.verdict is Verdict.DIFFERS
        return super().condition(found)


class RenditionStore(Closeable):
    """The renditions in the bucket of `config`. Safe for threads; close it at the end.

    `known` is what was found out about the server before.

    A rendition is named by `video_id`, `filename` and `quality`. As for `object_key`, `filename` is that of
    the rendition's own file, without the quality. Every method raises `StorageError`.
    """

    def __init__(self, config: StorageConfig, known: Iterable[ServerTrait] = ()) -> None:
        self._prefix = config.prefix
        self._public_base = config.public_base_url
        self._qualities = config.qualities
        self._store = ObjectStore(config)
        self._store.dialect.restore(known)

    def close(self) -> None:
        """Release the connections. No call may be in progress or follow."""
        self._store.close()

    def key(self, video_id: uuid.UUID | str, filename: str, quality: str) -> str:
        """The object key of a rendition."""
        return object_key(self._prefix, video_id, filename, quality, qualities=self._qualities)

    def keys_of_source(self, video_id: uuid.UUID | str, source: str, quality: str) -> tuple[str, ...]:
        """The keys that a rendition of a file named `source` may have, the documented one first.

        The compressor's own uploads, and renditions that it did not make, have the extension of the source.
        """
        by_source = self.key(video_id, source, quality)
        documented = self.key(video_id, rendition_filename(source, quality), quality)
        return tuple(dict.fromkeys((documented, by_source)))

    def url(self, key: str) -> str:
        """The public URL of an object."""
        return public_url(self._public_base, key)

    def upload(self, fd: int, video_id: uuid.UUID | str, filename: str, quality: str) -> UploadedRendition:
        """Make a rendition's object hold the content of the open regular file `fd`, which stays open.

        An identical object is adopted; any other is replaced. On return the object is confirmed. Raises
        `ValueError` for a file that is not a regular one.
        """
        key = self.key(video_id, filename, quality)
        source = SourceFile(fd)
        metadata = {
            "video-id": canonical_video_id(video_id),
            "quality": quality,
            "source-mtime": str(source.identity.mtime_ns),
        }
        target = Target(key, content_type(filename), metadata)
        steps = _Replace()
        self._store.ensure(source, target, checksum=source.checksum(), steps=steps)
        return UploadedRendition(key, self.url(key), steps.replaced)

    def exists(self, key: str) -> bool:
        """Whether there is an object under the key, with any content."""
        return self._store.head(key) is not None

    def delete(self, key: str) -> None:
        """Delete the object under the key, if there is one."""
        self._store.delete(key)
