"""The face of this package: objects in a bucket, to send, to confirm and to delete."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

from botocore.exceptions import ClientError

from storage.aws.clients import expected_owner
from storage.aws.errors import http_status, translated
from storage.aws.response_parsing import present, required, unquoted, version
from storage.config import StorageConfig
from storage.errors import StorageError, UploadCancelledError
from storage.source_file import SourceFile, never
from storage.transfer.crt_client import borrow_crt_client, return_crt_client
from storage.transfer.crt_request import Request
from storage.transfer.multipart import Multipart, MultipartSender, OpenMultipart, abort
from storage.transfer.part_layout import part_size_for
from storage.transfer.single_put import Sent, Target, Transfer, put
from storage.verification import Confirmation, ObjectHead, Verdict, judge


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object as a listing tells of it: its size in bytes and when it was written, in UTC."""

    key: str
    size: int
    written_at: datetime


class ObjectStore:
    """One bucket. Safe for any number of threads; close it at the end.

    Every method raises `StorageError` and nothing of the libraries beneath it. A server that falls silent
    holds a request for 30 seconds, or `StorageConfig.stall_seconds` if it is one with a body.
    """

    def __init__(self, config: StorageConfig) -> None:
        self._config = config
        self._engine = borrow_crt_client(config)
        self._owner = expected_owner(config)
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back the connections. No call may be under way or follow."""
        if not self._closed:
            self._closed = True
            return_crt_client(self._config)

    @property
    def concurrency(self) -> int:
        """How many bodies may be under way at present: fewer after the server asked to slow down."""
        return self._engine.slots.limit

    def set_bandwidth(self, bytes_per_second: float | None) -> None:
        """Change what all uploads together may send a second, from now on; None for no limit."""
        self._engine.set_bandwidth(bytes_per_second)

    def upload(
        self,
        source: SourceFile,
        target: Target,
        *,
        checksum: str,
        progress: Callable[[int], None],
        cancelled: Callable[[], bool] = never,
        resume: Multipart | None = None,
        on_multipart: Callable[[Multipart], None] | None = None,
    ) -> Sent:
        """Store the whole of `source`, whose CRC64NVME in S3's text form is `checksum`, as `target`.

        The object appears complete or not at all. The bytes that are sent are themselves checked against
        `checksum`, which goes along so that the server refuses any other content. `progress` is given the
        number of bytes the server has accepted so far, growing; `cancelled` is asked often.

        `on_multipart` is called as soon as there is a multipart upload, before any part is sent; given to a
        later call as `resume`, the parts are kept that equal the local bytes, and count as progress. If the
        server does not know it any more, a new one is begun and `on_multipart` called again. Without
        `on_multipart` an upload that fails or is cancelled is aborted, because nobody could resume it.

        Raises `SourceChangedError` if `source` is not what was hashed (the multipart is aborted),
        `UploadCancelledError`, `PreconditionError` if the target's condition is not met, and any other
        `StorageError` for what the server or the network did. Callbacks are called in this thread; what
        they raise ends the upload and comes through.
        """
        transfer = Transfer(source, target, checksum, progress, cancelled)
        transfer.ensure_wanted()
        part_size = part_size_for(source.size)
        try:
            if part_size is None:
                return put(self._engine, self._config, transfer)
            return MultipartSender(self._engine, self._config, transfer, on_multipart).send(resume, part_size)
        except StorageError as exc:
            # What breaks in the moment of a cancellation is most likely its doing, and not worth a retry.
            if cancelled() and exc.code == "connection":
                raise UploadCancelledError(key=target.key) from exc
            raise

    def abort(self, key: str, upload_id: str) -> None:
        """Abort a multipart upload, so that its parts are not paid for; one that is not there is fine."""
        abort(self._engine, key, upload_id)

    def open_multiparts(self, prefix: str = "") -> Iterator[OpenMultipart]:
        """The multipart uploads of keys that start with `prefix` which are neither completed nor aborted.

        Anybody's, not only ours. They are fetched as they are asked for.
        """
        doing = "list the open uploads of"
        with translated(doing, None):
            pages = self._engine.access.client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._config.bucket, Prefix=prefix, **self._owner
            )
            for page in pages:
                for found in page.get("Uploads", []):
                    yield OpenMultipart(
                        required(found, "Key", doing, None),
                        required(found, "UploadId", doing, None),
                        present(found, "Initiated", doing, None),
                    )

    def objects(self, prefix: str = "") -> Iterator[ListedObject]:
        """The objects of keys that start with `prefix`, by key; a page at a time, as they are asked for.

        On a bucket with versions those that can be fetched now. It says that they are there, and proves
        nothing of their content.
        """
        doing = "list the objects of"
        with translated(doing, None):
            pages = self._engine.access.client.get_paginator("list_objects_v2").paginate(
                Bucket=self._config.bucket, Prefix=prefix, **self._owner
            )
            for page in pages:
                for found in page.get("Contents", []):
                    yield ListedObject(
                        required(found, "Key", doing, None),
                        present(found, "Size", doing, None),
                        present(found, "LastModified", doing, None),
                    )

    def is_public(self, key: str) -> bool:
        """Whether anybody can fetch the object: a HEAD without credentials. False if it is not there, too."""
        with translated("look as a stranger at", key):
            try:
                self._engine.access.anonymous.head_object(Bucket=self._config.bucket, Key=key)
            except ClientError as exc:
                if http_status(exc) in {401, 403, 404}:
                    return False
                raise
        return True

    def confirm(
        self,
        key: str,
        *,
        size: int,
        checksum: str,
        expected_etag: Callable[[], str] | None,
    ) -> Confirmation:
        """Ask the server what it holds under `key` and compare it with a file's size and CRC64NVME.

        `expected_etag` (see `SourceFile.etag`) reads the whole file and is called only if the server keeps
        no such checksum; what it raises is raised here. 404 is `MISSING` and 403 `UNKNOWN`, not errors.
        """
        request = Request(
            operation="HeadObject",
            method="HEAD",
            doing="confirm",
            key=key,
            headers=(("x-amz-checksum-mode", "ENABLED"),),
        )
        try:
            answer = self._engine.call(request)
        except StorageError as exc:
            match exc.status:
                case 404:
                    return Confirmation(Verdict.MISSING, f"There is no object {key!r}.")
                case 403:
                    return Confirmation(
                        Verdict.UNKNOWN,
                        f"The server answered 403 when asked about {key!r}: allow these credentials "
                        "s3:GetObject and s3:ListBucket; check that they are valid and the clock is right.",
                    )
            raise
        head = ObjectHead(
            size=present(answer, "ContentLength", request.doing, key),
            checksum=answer.get("ChecksumCRC64NVME"),
            checksum_type=answer.get("ChecksumType"),
            etag=unquoted(answer.get("ETag")),
            etag_is_digest=not answer.get("SSECustomerAlgorithm")
            and answer.get("ServerSideEncryption", "AES256") == "AES256",
            version_id=version(answer.get("VersionId")),
            last_modified=answer.get("LastModified"),
        )
        return judge(head, size=size, checksum=checksum, expected_etag=expected_etag)

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is fine. On a bucket with versions the old ones stay."""
        with translated("delete", key):
            self._engine.access.client.delete_object(Bucket=self._config.bucket, Key=key, **self._owner)
