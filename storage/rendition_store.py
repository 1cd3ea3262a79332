"""Renditions by name: uploads a file as one, looks one up, deletes it. For `S3Service` and the command line.

It knows no ledger: a daemon that manages the object notices the change when it next asks S3.
"""

from dataclasses import dataclass

from storage.aws.clients import Closeable
from storage.config import StorageConfig
from storage.content_types import content_type
from storage.keys import object_key, public_url
from storage.object_store import ObjectStore, UploadSteps
from storage.source_file import SourceFile
from storage.transfer.preconditions import WriteCondition
from storage.transfer.single_put import Target
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

    A rendition is named by `video_id`, `filename` (the source's name, without the quality) and `quality`.
    Every method raises `StorageError`, and `ValueError` for an impossible filename.
    """

    def __init__(self, config: StorageConfig) -> None:
        self._prefix = config.prefix
        self._public_base = config.public_base_url
        self._store = ObjectStore(config)

    def close(self) -> None:
        """Release the connections. No call may be in progress or follow."""
        self._store.close()

    def key(self, video_id: str, filename: str, quality: str) -> str:
        """The object key of a rendition."""
        return object_key(self._prefix, video_id, filename, quality)

    def url(self, video_id: str, filename: str, quality: str) -> str:
        """The public URL of a rendition."""
        return public_url(self._public_base, self.key(video_id, filename, quality))

    def upload(self, fd: int, video_id: str, filename: str, quality: str) -> UploadedRendition:
        """Make a rendition's object hold the content of the open regular file `fd`, which stays open.

        An identical object is adopted; any other is replaced. On return the object is confirmed.
        """
        source = SourceFile(fd)
        target = Target(
            self.key(video_id, filename, quality),
            content_type(filename),
            {"video-id": video_id, "quality": quality, "source-mtime": str(source.identity.mtime_ns)},
        )
        steps = _Replace()
        self._store.ensure(source, target, checksum=source.checksum(), steps=steps)
        return UploadedRendition(target.key, public_url(self._public_base, target.key), steps.replaced)

    def exists(self, video_id: str, filename: str, quality: str) -> bool:
        """Whether there is an object of that name, with any content."""
        return self._store.head(self.key(video_id, filename, quality)) is not None

    def delete(self, video_id: str, filename: str, quality: str) -> None:
        """Delete the object of that name, if there is one."""
        self._store.delete(self.key(video_id, filename, quality))
