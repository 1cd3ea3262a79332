"""Renditions by name: uploading a file as one, asking for it, deleting it.

What `S3Service` and the command line share. It knows no ledger: what it does to an object that a daemon
looks after, the daemon finds out when it next looks at the object.
"""

from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from storage.acl_fallback import AclFallback
from storage.config import StorageConfig
from storage.content_types import content_type
from storage.errors import ErrorKind, StorageError
from storage.keys import object_key, public_url
from storage.object_store import ObjectStore
from storage.source_file import SourceFile
from storage.transfer.part_layout import part_size_for
from storage.transfer.single_put import Sent, Target
from storage.verification import Confirmation, Verdict

_SIZE_OF_NOTHING = -1
"""No object has this size: whatever is there differs from it."""


@dataclass(frozen=True, slots=True)
class Placed:
    """An object that is confirmed to be in place.

    Attributes:
        key: its key.
        url: where everybody finds it.
        replaced: whether other content was under that key before.

    """

    key: str
    url: str
    replaced: bool


class Renditions:
    """The renditions in the bucket of `config`. Safe for threads; close it at the end.

    `video_id`, `filename` (the source's name, without the quality) and `quality` name one. Every method
    raises `StorageError`, and `ValueError` for a filename that can be none.
    """

    def __init__(self, config: StorageConfig) -> None:
        self._prefix = config.prefix
        self._public_base = config.public_base_url
        self._store = ObjectStore(config)
        self._acl_fallback = AclFallback(self._store, is_wanted=config.acl is not None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back the connections. No call may be under way or follow."""
        self._store.close()

    def key(self, video_id: str, filename: str, quality: str) -> str:
        """The object key of a rendition."""
        return object_key(self._prefix, video_id, filename, quality)

    def url(self, video_id: str, filename: str, quality: str) -> str:
        """Where everybody finds a rendition."""
        return public_url(self._public_base, self.key(video_id, filename, quality))

    def upload(self, fd: int, video_id: str, filename: str, quality: str) -> Placed:
        """See to it that the object of a rendition is the open regular file `fd`, which stays open.

        An object that is it already is taken as it is. What is sent is confirmed afterwards, so that a return
        means that S3 has what is on disk.
        """
        key = self.key(video_id, filename, quality)
        source = SourceFile(fd)
        checksum = source.checksum()
        part_size = part_size_for(source.size)
        before = self._confirm(key, source, checksum, part_size)
        if before.verdict is not Verdict.AGREES:
            target = Target(
                key,
                content_type(filename),
                {"video-id": video_id, "quality": quality, "source-mtime": str(source.identity.mtime_ns)},
            )

            def send(with_acl: bool) -> Sent:
                chosen = replace(target, with_acl=with_acl)
                return self._store.upload(source, chosen, checksum=checksum, progress=_untold)

            sent = self._acl_fallback.upload(key, send)
            _require_agreement(self._confirm(key, source, checksum, sent.part_size), key)
        url = public_url(self._public_base, key)
        return Placed(key, url, replaced=before.verdict is Verdict.DIFFERS)

    def exists(self, video_id: str, filename: str, quality: str) -> bool:
        """Whether there is an object of that name, whatever its content."""
        key = self.key(video_id, filename, quality)
        found = self._store.confirm(key, size=_SIZE_OF_NOTHING, checksum="", expected_etag=None)
        if found.verdict is Verdict.UNKNOWN:
            raise StorageError(ErrorKind.ENVIRONMENT, "look for", key, "object-unknown", found.detail)
        return found.verdict is not Verdict.MISSING

    def delete(self, video_id: str, filename: str, quality: str) -> None:
        """Delete the object of that name; one that is not there is fine."""
        self._store.delete(self.key(video_id, filename, quality))

    def _confirm(self, key: str, source: SourceFile, checksum: str, part_size: int | None) -> Confirmation:
        return self._store.confirm(
            key, size=source.size, checksum=checksum, expected_etag=lambda: source.etag(part_size)
        )


def _untold(_sent: int) -> None:
    """Progress that nobody wants to know."""


def _require_agreement(after: Confirmation, key: str) -> None:
    match after.verdict:
        case Verdict.AGREES:
            return
        case Verdict.UNKNOWN:
            raise StorageError(ErrorKind.ENVIRONMENT, "confirm", key, "object-unknown", after.detail)
        case _:
            hint = f"After it was sent: {after.detail} Upload it again."
            raise StorageError(ErrorKind.TRANSIENT, "confirm", key, f"object-{after.verdict}", hint)
