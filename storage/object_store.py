"""The face of this package: objects in a bucket, to send, to confirm and to delete."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from botocore.exceptions import ClientError

from storage.answers import unquoted, version
from storage.client import make_client
from storage.config import StorageConfig
from storage.confirmation import Confirmation, ObjectHead, Verdict, judge
from storage.errors import ErrorKind, StorageError, UploadCancelledError
from storage.sending import Sender, Sent, Target, Transfer
from storage.source import Source, never
from storage.translation import http_status, translated


class ObjectStore:
    """One bucket. Safe for any number of threads; close it at the end.

    Every method raises `StorageError` and nothing of the library beneath it. A server that falls silent holds
    a request for at most 30 seconds an attempt, and there are two.
    """

    def __init__(self, config: StorageConfig) -> None:
        self._bucket = config.bucket
        self._client = make_client(config)
        self._sender = Sender(self._client, config)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back the connections. No call may be under way or follow."""
        self._client.close()

    def upload(
        self,
        source: Source,
        target: Target,
        *,
        checksum: str,
        progress: Callable[[int], None],
        cancelled: Callable[[], bool] = never,
    ) -> Sent:
        """Store the whole of `source`, whose CRC64NVME in S3's text form is `checksum`, as `target`.

        The object appears complete or not at all. The bytes that are sent are themselves checked against
        `checksum`, which goes along so that the server refuses any other content. `progress` is given the
        number of bytes the server has accepted so far, growing; `cancelled` is asked often.

        Raises `SourceChangedError` if `source` is not what was hashed, `UploadCancelledError`, and any other
        `StorageError` for what the server or the network did.
        """
        try:
            with translated("upload", target.key):
                return self._sender.send(Transfer(source, target, checksum, progress, cancelled))
        except StorageError as exc:
            # A body that is cancelled in the middle looks like a broken connection to the library beneath.
            if cancelled() and exc.kind is ErrorKind.TRANSIENT and not isinstance(exc, UploadCancelledError):
                raise UploadCancelledError(key=target.key) from exc
            raise

    def confirm(
        self,
        key: str,
        *,
        size: int,
        checksum: str,
        expected_etag: Callable[[], str] | None,
    ) -> Confirmation:
        """Ask the server what it holds under `key` and compare it with a file's size and CRC64NVME.

        `expected_etag` (see `Source.etag`) costs a pass over the file and is called only for a server that
        keeps no such checksum; what it raises is raised here. 404 is `MISSING` and 403 `UNKNOWN`, not errors.
        """
        with translated("confirm", key):
            try:
                answer = self._client.head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
            except ClientError as exc:
                status = http_status(exc)
                if status == 404:
                    return Confirmation(Verdict.MISSING, f"There is no object {key!r}.")
                if status == 403:
                    return Confirmation(
                        Verdict.UNKNOWN,
                        f"The server answered 403 when asked about {key!r}: allow these credentials "
                        "s3:GetObject and s3:ListBucket; check that they are valid and the clock is right.",
                    )
                raise
        head = ObjectHead(
            size=answer.get("ContentLength"),
            checksum=answer.get("ChecksumCRC64NVME"),
            checksum_type=answer.get("ChecksumType"),
            etag=unquoted(answer.get("ETag")),
            etag_is_digest=not answer.get("SSECustomerAlgorithm")
            and answer.get("ServerSideEncryption", "AES256") == "AES256",
            version_id=version(answer.get("VersionId")),
        )
        return judge(head, size=size, checksum=checksum, expected_etag=expected_etag)

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is fine. On a bucket with versions the old ones stay."""
        with translated("delete", key):
            self._client.delete_object(Bucket=self._bucket, Key=key)
