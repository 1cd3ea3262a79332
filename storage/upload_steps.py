"""What an upload asks its caller, and what it tells it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from storage.source_file import SourceFile
from storage.transfer.multipart import Multipart
from storage.transfer.preconditions import WriteCondition
from storage.transfer.single_put import Sent
from storage.verification import Confirmation


class UploadSteps:
    """What the caller of `ObjectStore.ensure` decides and learns, in the order of the calls.

    All are called in the caller's thread; what one raises ends the upload. By default any other object is
    replaced, and a multipart upload that does not complete is aborted.
    """

    on_multipart: Callable[[Multipart], None] | None = None
    """See `ObjectStore.upload`."""
    is_first = False
    """Whether this is the first attempt to send the file, so that an object under the key is unlikely."""

    def hash_first(self, source: SourceFile) -> str:
        """The CRC64NVME of a file of which `ObjectStore.ensure` was given none, and has to know it now."""
        return source.checksum()

    def adopted(self, found: Confirmation) -> None:
        """The object is identical already: nothing is sent."""

    def condition(self, found: Confirmation) -> WriteCondition:  # noqa: ARG002 - subclasses use it
        """The condition on which to write, given what the server holds instead."""
        return WriteCondition.unconditional()

    def sending(self) -> AbstractContextManager[None]:
        """The context in which the file is sent."""
        return nullcontext()

    def part_differs(self) -> None:
        """The server has a part from an earlier attempt that is not what the file has there.

        Not called where the CRC64NVME of the file is known.
        """

    def progress(self, accepted: int) -> None:
        """The server has accepted this many bytes."""

    def hashed(self, checksum: str) -> None:
        """Every part of a file was read, which was not hashed before; no object was made of them yet."""

    def completing(self, expected_etag: str | None) -> None:
        """The object is about to be made of its parts.

        `expected_etag` is what a server gives it that makes ETags from MD5s; None if those of the parts are
        none.
        """

    def moved(self) -> None:
        """Bytes have moved to or from the server, of this upload or of those that it waits for."""

    def is_cancelled(self) -> bool:
        """Whether to stop sending; called often."""
        return False

    def sent(self, sent: Sent) -> None:
        """The object was written and is about to be confirmed."""
