"""Objects in a bucket: uploading, confirming, listing and deleting them."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import Any

import structlog
from botocore.exceptions import ClientError

from storage import checksums
from storage.acl_fallback import AclFallback
from storage.aws.clients import Closeable, Observer, expected_owner
from storage.aws.errors import http_status, translated
from storage.aws.response_parsing import present, required, unquoted, version, web_page
from storage.config import AccessKey, StorageConfig
from storage.dialect import COMPARISON, MODE, MULTIPART_ETAG, PATH_STYLE, PUT_ETAG, kept, names_of
from storage.errors import ErrorKind, PreconditionError, StorageError, UploadCancelledError
from storage.proof_by_reading import (
    Reader,
    compares_checksums,
    compares_checksums_of_parts,
    keeps_objects,
    makes_etags_of_md5s,
)
from storage.source_file import SourceFile, never_cancelled
from storage.transfer.crt_client import POLL_SECONDS, acquire_crt_client, release_crt_client
from storage.transfer.crt_request import Request
from storage.transfer.multipart import Multipart, MultipartSender, OpenMultipart, abort
from storage.transfer.part_layout import S3_MIN_PART_SIZE, part_size_for, part_size_of
from storage.transfer.part_sender import SlowLineError
from storage.transfer.preconditions import UnseenWrites, WriteCondition
from storage.transfer.single_put import (
    Content,
    Sent,
    Target,
    Transfer,
    ignore_completion,
    ignore_movement,
    ignore_progress,
    put_object,
)
from storage.upload_steps import UploadSteps
from storage.verification import (
    Confirmation,
    ObjectHead,
    Receipt,
    Verdict,
    compare,
    proven_by_reading,
)

_log: structlog.stdlib.BoundLogger = structlog.get_logger("storage")

_LISTING_FIELDS = frozenset({"Name", "Bucket", "IsTruncated", "KeyCount", "MaxKeys", "MaxUploads"})
"""Of these every listing has one, also an empty one."""

MAX_UNSEEN_BYTES = 1024 * 1024
"""A larger file is sent only after a look at its key: to send it in vain costs more than a request."""
LAG_SECONDS = 30.0
"""For how long a server may answer as if an object that it has accepted were not written."""
FIRST_LAG_SECONDS, LONGEST_LAG_SECONDS = 0.25, 4.0


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object as a listing describes it: its size in bytes, and when it was written, in UTC."""

    key: str
    size: int
    written_at: datetime


class ObjectStore(Closeable):
    """One bucket. Safe for any number of threads; close it at the end.

    Every method raises `StorageError`, never an exception of the underlying libraries. An unanswered request
    ends after 30 seconds, or if it has a body after `StorageConfig.stall_seconds` without progress.
    """

    def __init__(self, config: StorageConfig) -> None:
        self._config = config
        self._crt = acquire_crt_client(config)
        self._session = self._crt.session
        self.dialect = self._crt.dialect
        """What the server takes; shared by all stores with the same configuration."""
        self._acl_fallback = AclFallback(
            config.acl, self.dialect, is_public=self.is_public, set_acl=self._set_acl
        )
        self._unseen_writes = UnseenWrites(self.dialect)
        self._owner = expected_owner(config)
        self._closed = False

    def close(self) -> None:
        """Release the connections. No call may be in progress or follow."""
        if not self._closed:
            self._closed = True
            release_crt_client(self._config)

    @property
    def is_virtual(self) -> bool:
        """Whether the server turned out to refuse the bucket in the path of URLs."""
        return not self.dialect.takes(PATH_STYLE)

    @property
    def concurrency(self) -> int:
        """How many bodies may be in flight at present: fewer after the server asked to slow down."""
        return self._crt.buffers.limit

    @property
    def bytes_per_second(self) -> float | None:
        """What the line takes for all uploads together, as last measured; None while unknown."""
        return self._crt.rate

    @property
    def stall_seconds(self) -> float:
        """For how long a request may make no progress."""
        return self._crt.stall_seconds

    @property
    def slow_line(self) -> int | None:
        """The rate of the line in bytes per second while it is slow; None otherwise."""
        rate = self._crt.rate
        return round(rate) if rate is not None and self._crt.is_slow else None

    def observe(self, observer: Observer) -> None:
        """Have `observer` told of every request from now on, in any thread."""
        self._session.observer = observer

    def tell_of_waits(self, waiting: Callable[[], AbstractContextManager[None]]) -> None:
        """Have every thread that waits for an answer do so in the context that `waiting` makes."""
        self._crt.waiting = waiting

    def set_bandwidth(self, bytes_per_second: float | None) -> None:
        """Limit all uploads together from now on; None for no limit."""
        self._crt.set_bandwidth(bytes_per_second)

    def use_credentials(self, key: AccessKey | None) -> None:
        """Use these from now on, or where they are None those that boto3 finds."""
        self._session.credential_chain.use(key)

    def ensure(
        self,
        source: SourceFile,
        target: Target,
        *,
        checksum: str | None,
        steps: UploadSteps,
        resume: Multipart | None = None,
        part_size: int | None = None,
    ) -> Receipt:
        """Make the target's object hold the content of `source`, and return the proof that it does.

        An identical object is adopted; `part_size` is that of an earlier attempt to send it, if any.
        Otherwise the file is sent, on the condition that `steps` decides, and confirmed. A small one that was
        never sent is not looked for where the server has proven that it keeps an object that is there.
        `resume` is as for `upload`. Without a `checksum` a file that goes in parts is hashed as it is sent if
        there is no object; it must have reached the disk. Raises as `upload`; what a step raises; and
        `StorageError` for an object that is not confirmed afterwards: environment where the server does not
        say what it holds.
        """
        part_size = part_size or part_size_for(source.size, None, self._crt.max_parts)
        content = Content(checksum, partial(steps.hash_first, source), steps.hashed, steps.part_differs)

        def confirm(head: ObjectHead | Confirmation, part_size: int | None) -> Confirmation:
            if isinstance(head, Confirmation):
                return head
            known, moved, cancelled = content.checksum(), steps.moved, steps.is_cancelled
            return self._compare_file(
                target.key, source, known, head, part_size, moved=moved, cancelled=cancelled
            )

        def send(condition: WriteCondition, before: ObjectHead | None) -> Receipt:
            callbacks = _Callbacks(
                steps.progress, steps.moved, steps.is_cancelled, steps.on_multipart, steps.completing
            )
            with steps.sending():
                sent = self._upload(source, replace(target, condition=condition), content, resume, callbacks)
            steps.sent(sent)
            after = confirm(self._visible_head(target.key, before, steps), sent.part_size)
            if after.receipt is None:
                raise _unconfirmed(target.key, after)
            return after.receipt

        may_be_unseen = steps.is_first and resume is None and source.size <= MAX_UNSEEN_BYTES
        if may_be_unseen and self._unseen_writes.are_safe:
            # If there is one, it may be ours: the answer to a request that was repeated was lost.
            try:
                return send(WriteCondition.if_absent(is_required=True), None)
            except PreconditionError:
                self._unseen_writes.note_unmet()
        found = confirm(self._head_or_verdict(target.key), part_size)
        steps.moved()
        if found.receipt is not None:
            steps.adopted(found)
            return found.receipt
        receipt = send(steps.condition(found), found.head)
        if may_be_unseen and found.verdict is Verdict.MISSING and self._unseen_writes.note_absent():
            # Where that cannot be found out, each key goes on to be looked at.
            with suppress(StorageError):
                keeps_objects(self._crt, self._config)
        return receipt

    def upload(
        self,
        source: SourceFile,
        target: Target,
        *,
        checksum: str,
        progress: Callable[[int], None] = ignore_progress,
        moved: Callable[[], None] = ignore_movement,
        cancelled: Callable[[], bool] = never_cancelled,
        resume: Multipart | None = None,
        on_multipart: Callable[[Multipart], None] | None = None,
    ) -> Sent:
        """Store the whole of `source`, whose CRC64NVME in S3's text form is `checksum`, as `target`.

        The object appears complete or not at all. The bytes that are sent are verified against `checksum`,
        which is sent too, so that the server refuses any other content. `progress` is given the number of
        bytes that the server has accepted so far, and `moved` is called, about once a second, while bytes of
        any upload move; `cancelled` is called often. On a line that turns out to be slow the file is sent
        in smaller parts, at most beginning anew within the first seconds. On a bucket that has ACLs
        disabled the object is sent without the configured ACL and must be public nevertheless.

        `on_multipart` is given a new multipart upload before any part is sent. Passed to a later call as
        `resume`, its parts with the same content as the file are kept, and count as progress; if the server
        no longer has it, or does not let it go on, a new one is created and `on_multipart` called again.
        Without `on_multipart` an upload that fails or is cancelled is aborted.

        Raises `SourceChangedError` if `source` is not what was hashed (a multipart upload is aborted),
        `UploadCancelledError`, `PreconditionError` if the target's condition is not met, and any other
        `StorageError` for failures of the server or the network. Callbacks are called in this thread; what
        they raise ends the upload and is raised here.
        """
        callbacks = _Callbacks(progress, moved, cancelled, on_multipart, ignore_completion)
        content = Content(checksum, source.checksum, ignore_completion, ignore_movement)
        return self._upload(source, target, content, resume, callbacks)

    def _upload(
        self,
        source: SourceFile,
        target: Target,
        content: Content,
        resume: Multipart | None,
        callbacks: "_Callbacks",
    ) -> Sent:
        seen_at = time.monotonic()

        def is_cancelled() -> bool:
            nonlocal seen_at
            active_at = self._crt.last_activity()
            if active_at > seen_at:
                seen_at = active_at
                callbacks.moved()
            return callbacks.cancelled()

        def present_etag() -> str | None:
            head = self.head(target.key)
            return None if head is None else head.etag

        best_part_size = partial(self._best_part_size, source.size)

        def send(*, may_begin_anew: bool = True) -> Sent:
            part_size = best_part_size()

            def is_too_slow() -> bool:
                now = best_part_size() if may_begin_anew else None
                return now is not None and (part_size is None or now < part_size)

            transfer = Transfer(
                source, target, content, callbacks.progress, is_cancelled, is_too_slow, present_etag
            )
            transfer.ensure_not_cancelled()
            try:
                if part_size is None and resume is None:
                    content.checksum()
                    return put_object(self._crt, self._config, transfer)
                sender = MultipartSender(
                    self._crt, self._config, transfer, callbacks.on_multipart, callbacks.completing
                )
                return sender.send(resume, part_size or S3_MIN_PART_SIZE)
            except StorageError as exc:
                # A connection that breaks during a cancellation most likely breaks because of it.
                if callbacks.cancelled() and exc.code == "connection":
                    raise UploadCancelledError(key=target.key) from exc
                raise
            except SlowLineError:
                return send(may_begin_anew=False)

        sent = send()
        self._acl_fallback.after_upload(target.key)
        return sent

    def _best_part_size(self, size: int) -> int | None:
        return part_size_for(size, self._crt.rate, self._crt.max_parts)

    def makes_etags_of_md5s(self) -> bool:
        """Whether ETags of the server prove content, found out by storing small objects where unknown."""
        features = (PUT_ETAG, MULTIPART_ETAG)
        return all(makes_etags_of_md5s(self._crt, self._config, feature) for feature in features)

    def compares_checksums(self, head: ObjectHead | None = None) -> bool:
        """Whether the server compares a CRC64NVME with the content, found out by requests where unknown.

        That of an object which was sent in the way that `head` tells; without it in either way.
        """
        may_be_whole = head is None or "-" not in head.etag
        may_be_of_parts = head is None or not may_be_whole or head.size > S3_MIN_PART_SIZE
        return (not may_be_whole or compares_checksums(self._crt, self._config)) and (
            not may_be_of_parts or compares_checksums_of_parts(self._crt, self._config)
        )

    @property
    def is_known_to_compare(self) -> bool:
        """Whether the server was found to keep a CRC64NVME, and to have compared it with a PUT's content."""
        return self.dialect.sends_checksums and self.dialect.known(COMPARISON) is True

    def abort(self, key: str, upload_id: str) -> None:
        """Abort a multipart upload, whose parts cost storage. Does nothing if there is none with this id."""
        abort(self._crt, key, upload_id)

    def open_multiparts(self, prefix: str = "") -> Iterator[OpenMultipart]:
        """The multipart uploads to keys that start with `prefix` and are neither completed nor aborted.

        Those of every writer, fetched a page at a time.
        """
        purpose = "list the open uploads of"
        paginator = self._session.client.get_paginator("list_multipart_uploads")
        try:
            for found in self._listed(paginator, "Uploads", prefix, purpose):
                yield OpenMultipart(
                    required(found, "Key", purpose, None),
                    required(found, "UploadId", purpose, None),
                    present(found, "Initiated", purpose, None),
                )
        except StorageError as exc:
            # rclone's server answers so where there are none.
            if exc.code != "NoSuchUpload":
                raise

    def objects(self, prefix: str = "") -> Iterator[ListedObject]:
        """The objects whose keys start with `prefix`, in the order of keys, fetched a page at a time.

        On a bucket with versioning the current versions. A listing proves nothing about their content.
        """
        purpose = "list the objects of"
        paginator = self._session.client.get_paginator("list_objects_v2")
        for found in self._listed(paginator, "Contents", prefix, purpose):
            yield ListedObject(
                required(found, "Key", purpose, None),
                present(found, "Size", purpose, None),
                present(found, "LastModified", purpose, None),
            )

    def is_public(self, key: str) -> bool:
        """Whether everyone can fetch the object, by a HEAD without credentials. False for a missing one."""
        with translated("read without credentials", key, self._config):
            try:
                self._session.anonymous.head_object(Bucket=self._config.bucket, Key=key)
            except ClientError as exc:
                # rclone's server answers 400 to requests without credentials.
                if http_status(exc) in {400, 401, 403, 404}:
                    return False
                raise
        return True

    def ensure_public(self, key: str) -> None:
        """Make an object public if an ACL is configured and it is not.

        Raises `StorageError`; of kind environment, with what to do, if it cannot be made public.
        """
        self._acl_fallback.ensure_public(key)

    def head(self, key: str) -> ObjectHead | None:
        """What the server says about an object; None if there is none.

        Raises `StorageError`, of code `object-unknown` where the server does not say whether there is one.
        """
        try:
            return self._head(key, "look up")
        except StorageError as exc:
            if exc.status == 404:
                return None
            if exc.status == 403:
                kind, code = ErrorKind.ENVIRONMENT, "object-unknown"
                raise StorageError(kind, "look up", key, code, _forbidden(key), status=403) from exc
            raise

    def confirm(
        self,
        key: str,
        *,
        size: int,
        checksum: str,
        proven_etag: str | None,
        cancelled: Callable[[], bool] = never_cancelled,
    ) -> Confirmation:
        """Compare what the server holds under `key` with a file's size and CRC64NVME, by a HEAD request.

        `proven_etag` is the ETag that the object had when its content was proven. 404 is `MISSING` and 403
        `UNKNOWN`, not errors.
        """
        head = self._head_or_verdict(key, cancelled)
        if isinstance(head, Confirmation):
            return head
        return compare(
            head,
            size=size,
            checksum=checksum,
            compares_checksums=self.compares_checksums,
            proven_etag=proven_etag,
        )

    def confirm_file(
        self, key: str, source: SourceFile, *, checksum: str, part_size: int | None
    ) -> Confirmation:
        """As `confirm`, with an open file that was most likely sent in parts of `part_size` bytes.

        The object's ETag tells whether it was sent in others, because the line was slower or faster then. An
        object of the right size whose ETag proves nothing is read back, if the configuration allows that.
        Raises what `SourceFile.etags` raises.
        """
        return self._compare_file(key, source, checksum, self._head_or_verdict(key), part_size)

    def _compare_file(
        self,
        key: str,
        source: SourceFile,
        checksum: str,
        head: ObjectHead | Confirmation,
        part_size: int | None,
        *,
        moved: Callable[[], None] = ignore_movement,
        cancelled: Callable[[], bool] = never_cancelled,
    ) -> Confirmation:
        if isinstance(head, Confirmation):
            return head

        def etags() -> tuple[str, ...]:
            return source.etags(part_size_of(head.etag, source.size, part_size, self._crt.max_parts))

        found = compare(
            head,
            size=source.size,
            checksum=checksum,
            compares_checksums=self.compares_checksums,
            expected_etags=etags,
        )
        feature = PUT_ETAG if part_size is None and "-" not in head.etag else MULTIPART_ETAG
        if found.receipt is not None and found.receipt.confirmed_by == "etag":
            self.dialect.accept(feature)
        if found.receipt is not None or head.size != source.size or head.contradicts(checksum):
            return found
        if head.etag_is_digest and makes_etags_of_md5s(self._crt, self._config, feature):
            return found
        if not self._config.prove_by_reading:
            detail = f"{found.detail} Set AWS_S3_PROVE_BY_READING=true to have it read back."
            return Confirmation(Verdict.UNKNOWN, detail, head=head)
        read = self.read_checksum(key, head, moved=moved, cancelled=cancelled)
        if checksums.decode(read) == checksums.decode(checksum):
            return proven_by_reading(head)
        detail = f"The object was read back: its CRC64NVME is {read}, the local file's {checksum}."
        return Confirmation(Verdict.DIFFERS, detail, head=head)

    def read_checksum(
        self,
        key: str,
        head: ObjectHead,
        *,
        moved: Callable[[], None] = ignore_movement,
        cancelled: Callable[[], bool] = never_cancelled,
    ) -> str:
        """Read back the object that `head` describes, and return its CRC64NVME in S3's text form."""
        look = partial(self._head, key, "confirm")
        delays = partial(_delays, key, moved, cancelled)
        return Reader(self._crt, key, look, delays, cancelled, moved).checksum(head)

    def _head_or_verdict(
        self, key: str, cancelled: Callable[[], bool] = never_cancelled
    ) -> ObjectHead | Confirmation:
        try:
            return self._head(key, "confirm", cancelled)
        except StorageError as exc:
            if exc.status == HTTPStatus.NOT_FOUND:
                return Confirmation(Verdict.MISSING, f"There is no object {key!r}.")
            if exc.status == HTTPStatus.FORBIDDEN:
                return Confirmation(Verdict.UNKNOWN, _forbidden(key))
            raise

    def _visible_head(
        self, key: str, before: ObjectHead | None, steps: UploadSteps
    ) -> ObjectHead | Confirmation:
        """Ask until the server no longer answers as `before` the object was written, for `LAG_SECONDS`."""
        for delay in _delays(key, steps.moved, steps.is_cancelled):
            head = self._head_or_verdict(key)
            if not delay or not _is_as_before(head, before):
                break
            _log.info("object_not_visible_yet", key=key, retry_in_seconds=delay)
        return head

    def delete(self, key: str) -> None:
        """Delete an object, if there is one. On a bucket with versioning the older versions stay."""
        with translated("delete", key, self._config):
            self._session.client.delete_object(Bucket=self._config.bucket, Key=key, **self._owner)

    def _set_acl(self, key: str, acl: str) -> None:
        put_acl: Callable[..., object] = self._session.client.put_object_acl
        with translated("make public", key, self._config):
            put_acl(Bucket=self._config.bucket, Key=key, ACL=acl, **self._owner)

    def _listed(
        self, paginator: Any, field: str, prefix: str, purpose: str
    ) -> Iterator[Mapping[str, object]]:
        with translated(purpose, None, self._config):
            for page in paginator.paginate(Bucket=self._config.bucket, Prefix=prefix, **self._owner):
                if page.keys().isdisjoint(_LISTING_FIELDS | {field}):
                    raise web_page(purpose, None)
                yield from page.get(field, [])

    def _head(self, key: str, purpose: str, cancelled: Callable[[], bool] = never_cancelled) -> ObjectHead:
        headers = ((MODE, "ENABLED"),)

        def attempt(omit: frozenset[str]) -> Mapping[str, Any]:
            request = Request("HeadObject", "HEAD", key, purpose, headers=tuple(kept(headers, omit)))
            return self._crt.call(request, cancelled=cancelled)

        answer = self.dialect.negotiate("HeadObject", names_of(headers), attempt)
        return ObjectHead(
            size=present(answer, "ContentLength", purpose, key),
            checksum=answer.get("ChecksumCRC64NVME"),
            checksum_type=answer.get("ChecksumType"),
            etag=unquoted(answer.get("ETag")),
            etag_is_digest=not answer.get("SSECustomerAlgorithm")
            and answer.get("ServerSideEncryption", "AES256") == "AES256",
            version_id=version(answer.get("VersionId")),
            last_modified=answer.get("LastModified"),
            metadata={name.lower(): value for name, value in answer.get("Metadata", {}).items()},
        )


def _delays(key: str, moved: Callable[[], None], cancelled: Callable[[], bool]) -> Iterator[float]:
    """In how many seconds a server is asked again: waits for as long when resumed, and ends with 0.

    Raises `UploadCancelledError`.
    """
    deadline, delay = time.monotonic() + LAG_SECONDS, FIRST_LAG_SECONDS
    while time.monotonic() <= deadline:
        yield delay
        until = time.monotonic() + delay
        while (left := until - time.monotonic()) > 0:
            moved()
            if cancelled():
                raise UploadCancelledError(operation="confirm", key=key)
            time.sleep(min(left, POLL_SECONDS))
        delay = min(delay * 2, LONGEST_LAG_SECONDS)
    yield 0.0


def _is_as_before(head: ObjectHead | Confirmation, before: ObjectHead | None) -> bool:
    """Whether an answer is that of a server which does not know yet that the object was written."""
    if isinstance(head, Confirmation):
        return head.verdict is Verdict.MISSING
    seen = (head.etag, head.last_modified)
    return before is not None and seen == (before.etag, before.last_modified)


@dataclass(frozen=True, slots=True)
class _Callbacks:
    """What an upload tells its caller; see `UploadSteps`."""

    progress: Callable[[int], None]
    moved: Callable[[], None]
    cancelled: Callable[[], bool]
    on_multipart: Callable[[Multipart], None] | None
    completing: Callable[[str | None], None]


def _forbidden(key: str) -> str:
    return (
        f"The server answered 403 when asked about {key!r}: allow these credentials s3:GetObject and "
        "s3:ListBucket; check that they are valid and the clock is right."
    )


def _unconfirmed(key: str, confirmation: Confirmation) -> StorageError:
    if confirmation.verdict is Verdict.UNKNOWN:
        detail = confirmation.detail
        return StorageError(ErrorKind.ENVIRONMENT, "confirm", key, "object-unknown", detail)
    hint = f"After it was sent: {confirmation.detail} Upload it again."
    return StorageError(ErrorKind.TRANSIENT, "confirm", key, f"object-{confirmation.verdict}", hint)
