"""Checks by means of a small object under the prefix: stores, reads and deletes it."""

import base64
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

from storage import checksums
from storage.aws.clients import expected_owner
from storage.aws.errors import PUBLIC_MODES, translated
from storage.aws.response_parsing import required, version
from storage.bucket.documents import bucket_arn, key_prefix, objects_arn
from storage.checks.public_reads import PublicReads
from storage.checks.results import CheckResult, Outcome, failed, not_tried, ok, warning
from storage.config import StorageConfig
from storage.dialect import (
    ACL,
    ALGORITHM,
    COMPARISON,
    CONTENT_MD5,
    CRC,
    MODE,
    PART_COMPARISON,
    STORAGE_CLASS,
    TAGGING,
    TYPE,
)
from storage.errors import ErrorKind, StorageError
from storage.object_store import ObjectStore
from storage.proof_by_reading import PROBE_NAME

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

CONTENT = b"video-uploader tries whether it may store objects here, and removes this one again.\n"
CHECKSUM = checksums.encode(checksums.crc(CONTENT))
MD5 = base64.b64encode(checksums.md5(CONTENT)).decode("ascii")

_T = TypeVar("_T")

_PERMISSION_CODES = frozenset({"AccessDenied", "http-403"})


class ProbeObject:
    """One round of checks with an object of its own, whose name begins with '.', unlike a video's directory.

    It is stored with `Cache-Control: no-store`, so that no cache keeps it after its deletion.
    """

    NAMES = (
        *("PutObject", "PutObjectAcl", "GetObject", "HeadObject", "public URL", "ACL", "CORS", "CDN"),
        *("multipart", "checksums", "dialect", "DeleteObject"),
    )
    """The names of the checks, in order."""

    def __init__(
        self,
        client: "S3Client",
        config: StorageConfig,
        store: ObjectStore,
        *,
        cors_origins: tuple[str, ...],
        cdn_domain: str | None,
    ) -> None:
        self._client = client
        self._config = config
        self._store = store
        self._dialect = store.dialect
        self._key = f"{key_prefix(config.prefix)}{PROBE_NAME}{uuid.uuid4()}"
        self._target: Any = {"Bucket": config.bucket, "Key": self._key, **expected_owner(config)}
        self._public_reads = PublicReads(
            config, self._key, CONTENT, cors_origins=cors_origins, cdn_domain=cdn_domain
        )
        self._versions: list[str] = []

    def checks(self) -> Iterator[CheckResult]:
        """Make every check, and yield each result. The object is deleted also if this is closed early."""
        put = self._try("PutObject", "s3:PutObject", self._put_plainly)
        yield put
        if put.outcome is Outcome.FAILED:
            yield from (not_tried(name, "PutObject") for name in self.NAMES if name != "PutObject")
            return
        try:
            yield from self._checks_of_object()
        finally:
            removal = self._removal()
        yield removal

    def _checks_of_object(self) -> Iterator[CheckResult]:
        acl = self._try_acl()
        yield acl
        yield self._try("GetObject", "s3:GetObject", self._get)
        yield self._try("HeadObject", "s3:GetObject", self._head)
        public = self._public_reads.url()
        yield public
        yield self._public_reads.acl(
            is_accepted=acl.outcome is Outcome.OK, is_public=public.outcome is Outcome.OK
        )
        yield self._public_reads.cors()
        yield self._public_reads.cdn()
        yield self._try("multipart", _MULTIPART_ACTIONS, self._multipart)
        yield self._checksums()
        yield self._findings()

    def _put_plainly(self) -> str:
        self._put(CONTENT)
        return "Objects can be stored."

    def _put(self, content: bytes, **more: Any) -> None:
        """Store `content` with the checksum of `CONTENT`, and without what the server refuses."""
        optional = {
            CRC: {"ChecksumCRC64NVME": CHECKSUM, "ChecksumAlgorithm": "CRC64NVME"},
            CONTENT_MD5: {"ContentMD5": MD5},
            ACL: {name: more[name] for name in ("ACL",) if name in more},
            **_options(self._config),
        }

        def attempt(omit: frozenset[str]) -> Mapping[str, Any]:
            omit |= {CONTENT_MD5} if CRC not in omit and self._dialect.sends_checksums else set()
            kept = {
                name: value
                for header, given in optional.items()
                if header not in omit
                for name, value in given.items()
            }
            return self._client.put_object(
                **self._target, Body=content, ContentType="text/plain", CacheControl="no-store", **kept
            )

        answer = self._negotiate("PutObject", optional, attempt)
        if version_id := version(answer.get("VersionId")):
            self._versions.append(version_id)

    def _negotiate(
        self, operation: str, optional: Mapping[str, Any], attempt: Callable[[frozenset[str]], _T]
    ) -> _T:
        """Make a request without what the server refuses; see `ServerDialect.negotiate`."""

        def translating(omit: frozenset[str]) -> _T:
            with translated(operation, self._key, self._config):
                return attempt(omit)

        names = {header for header, given in optional.items() if given}
        return self._dialect.negotiate(operation, names, translating)

    def _try_acl(self) -> CheckResult:
        if self._config.acl is None:
            return ok("PutObjectAcl", "It is not needed: AWS_S3_ACL is none.")
        try:
            self._put(CONTENT, ACL=self._config.acl)
        except StorageError as exc:
            return failed(
                "PutObjectAcl", f"It is refused ({exc.said}).", self._remedy(exc, "s3:PutObjectAcl")
            )
        if not self._dialect.takes(ACL):
            said = self._dialect.said_about(ACL)
            if said.partition(":")[0] in _PERMISSION_CODES:
                remedy = self._permission("s3:PutObjectAcl")
                return failed("PutObjectAcl", f"It is refused ({said}).", remedy)
            return warning(
                "PutObjectAcl",
                f"ACLs are refused ({said}).",
                f"Set AWS_S3_ACL=none. {PUBLIC_MODES}",
            )
        return ok("PutObjectAcl", f"Objects can be stored with the ACL {self._config.acl}.")

    def _get(self) -> str:
        answer = self._client.get_object(**self._target)
        with answer["Body"] as body:
            if body.read() != CONTENT:
                hint = "The object read is not the one stored: check which server AWS_ENDPOINT_URL names."
                raise StorageError(ErrorKind.ENVIRONMENT, "GetObject", self._key, "other-content", hint)
        return "Objects can be read."

    def _head(self) -> str:
        self._client.head_object(**self._target)
        return "Objects can be looked up."

    def _multipart(self) -> str:
        with self._open_multipart() as upload_id:
            target = {**self._target, "UploadId": upload_id}
            self._client.upload_part(**target, PartNumber=1, Body=CONTENT)
            self._client.list_parts(**target)
            self._client.list_multipart_uploads(
                Bucket=self._config.bucket, Prefix=self._key, **expected_owner(self._config)
            )
        return "Multipart uploads can be created, listed and aborted."

    @contextmanager
    def _open_multipart(self) -> Iterator[str]:
        optional = {
            ALGORITHM: {"ChecksumAlgorithm": "CRC64NVME"},
            TYPE: {"ChecksumType": "FULL_OBJECT"},
            **_options(self._config),
        }
        if not self._dialect.sends_checksums:
            optional[ALGORITHM] = optional[TYPE] = {}

        def attempt(omit: frozenset[str]) -> Mapping[str, Any]:
            kept = {
                name: value
                for header, given in optional.items()
                if header not in omit
                for name, value in given.items()
            }
            return self._client.create_multipart_upload(**self._target, **kept)

        answer = self._negotiate("CreateMultipartUpload", optional, attempt)
        upload_id = required(answer, "UploadId", "multipart", self._key)
        try:
            yield upload_id
        finally:
            self._client.abort_multipart_upload(**self._target, UploadId=upload_id)

    def _checksums(self) -> CheckResult:
        """Which proof of an object's content the server gives, and whether it verifies ours."""
        try:
            with translated("checksums", self._key, self._config):
                head = self._negotiate(
                    "HeadObject", {MODE: {"ChecksumMode": "ENABLED"}}, self._head_with_checksum
                )
                keeps = checksums.decode(head.get("ChecksumCRC64NVME")) is not None
                compares = keeps and self._store.compares_checksums()
                is_digest = not compares and self._store.makes_etags_of_md5s()
        except StorageError as exc:
            return failed("checksums", f"The check failed ({exc.said}).", self._remedy(exc, "s3:GetObject"))
        if compares:
            return ok(
                "checksums",
                "The server keeps the CRC64NVME of an object, and refuses content that does not match.",
            )
        detail = "The server keeps no CRC64NVME"
        if keeps:
            features = (COMPARISON, f"PutObject {CRC}", PART_COMPARISON, f"UploadPart {CRC}")
            said = next(filter(None, map(self._dialect.said_about, features)), "it was not asked")
            detail = f"The server keeps a CRC64NVME that it is not known to compare with the content ({said})"
        if is_digest:
            return ok("checksums", f"{detail}; the ETag proves the content.")
        detail += "; its ETags are not made of MD5s."
        if self._config.prove_by_reading:
            remedy = (
                "Each object is read back once after it was sent; a server that keeps checksums avoids that."
            )
            return warning("checksums", detail, remedy)
        remedy = (
            "Set AWS_S3_PROVE_BY_READING=true, so that each object is read back once: nothing else proves it."
        )
        return failed("checksums", f"{detail} No upload can be confirmed.", remedy)

    def _findings(self) -> CheckResult:
        """What the server refuses or does otherwise, and so is done without."""
        found = self._dialect.unsupported
        if not found:
            return ok("dialect", "The server takes everything that is sent.")
        detail = "Done without, because the server refuses it: "
        detail += "; ".join(f"{each.feature} ({each.said})" for each in found) + "."
        if missed := [name for name in (TAGGING, STORAGE_CLASS) if not self._dialect.takes(name)]:
            return warning("dialect", detail, f"Nothing replaces {' and '.join(missed)}: unset the setting.")
        return ok("dialect", detail)

    def _head_with_checksum(self, omit: frozenset[str]) -> Mapping[str, Any]:
        mode: dict[str, Any] = {} if MODE in omit else {"ChecksumMode": "ENABLED"}
        return self._client.head_object(**self._target, **mode)

    def _removal(self) -> CheckResult:
        removal = self._try("DeleteObject", "s3:DeleteObject", self._remove)
        return removal if removal.outcome is Outcome.FAILED else self._remove_versions() or removal

    def _remove(self) -> str:
        answer = self._client.delete_object(**self._target)
        if marker := version(answer.get("VersionId")):
            self._versions.append(marker)
        return "Objects can be deleted; the probe object is deleted."

    def _remove_versions(self) -> CheckResult | None:
        """On a bucket with versioning delete every version too, as far as that is allowed."""
        try:
            with translated("DeleteObjectVersion", self._key):
                while self._versions:
                    self._client.delete_object(**self._target, VersionId=self._versions[-1])
                    self._versions.pop()
        except StorageError as exc:
            return warning(
                "DeleteObject",
                f"Objects can be deleted; old versions of {self._key} remain ({exc.code}).",
                "Delete them by hand; the daemon itself does not need s3:DeleteObjectVersion.",
            )
        return None

    def _try(self, name: str, actions: str, action: Callable[[], str]) -> CheckResult:
        try:
            with translated(name, self._key):
                return ok(name, action())
        except StorageError as exc:
            rest = f" {self._key} remains." if name == "DeleteObject" else ""
            return failed(name, f"It is refused ({exc.said}).{rest}", self._remedy(exc, actions))

    def _remedy(self, error: StorageError, actions: str) -> str:
        if error.kind is ErrorKind.TRANSIENT:
            return "Run the check again; if the error persists, see the server's log."
        return self._permission(actions) if error.code in _PERMISSION_CODES else error.hint

    def _permission(self, actions: str) -> str:
        config = self._config
        objects = objects_arn(config.bucket, config.prefix, config.region)
        if actions == _MULTIPART_ACTIONS:
            objects += f" and s3:ListBucketMultipartUploads on {bucket_arn(config.bucket, config.region)}"
        return f"Allow these credentials {actions} on {objects}; `doctor --iam` prints the policy."


_MULTIPART_ACTIONS = "s3:PutObject, s3:AbortMultipartUpload and s3:ListMultipartUploadParts"


def _options(config: StorageConfig) -> dict[str, dict[str, Any]]:
    """By header, the options of every object, which may need permissions of their own."""
    options: dict[str, dict[str, Any]] = {
        STORAGE_CLASS: {"StorageClass": config.storage_class},
        "x-amz-server-side-encryption": {"ServerSideEncryption": config.sse},
        "x-amz-server-side-encryption-aws-kms-key-id": {"SSEKMSKeyId": config.sse_kms_key_id},
        TAGGING: {"Tagging": urlencode(config.tags, quote_via=quote) or None},
    }
    return {
        header: {name: value for name, value in given.items() if value is not None}
        for header, given in options.items()
    }
