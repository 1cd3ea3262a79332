"""A small S3 in memory, with what its dialect makes of objects, ETags, checksums and conditions.

It follows Amazon S3's API reference (https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations.html) as
far as this project asks for it. It checks no signatures, and has one bucket, which is there.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final
from urllib.parse import quote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from storage import checksums
from tests.support.fault_proxy import Answer, s3_error
from tests.support.quirks import Checksums, Etag, Quirks

CRC: Final = "x-amz-checksum-crc64nvme"
PART_NUMBER_REFUSED = "Part number must be an integer between 1 and {}, inclusive"


@dataclass(frozen=True)
class Asked:
    """A request for an operation; header names in lower case, arguments of the query by name."""

    operation: str
    key: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class StoredObject:
    """An object, its ETag without quotes, and its other headers as HEAD answers them."""

    body: bytes
    etag: str
    headers: Mapping[str, str]
    is_public: bool
    written_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass
class OpenUpload:
    """A multipart upload that is neither completed nor aborted."""

    key: str
    headers: Mapping[str, str]
    parts: dict[int, bytes] = field(default_factory=dict)
    told: dict[int, str | None] = field(default_factory=dict)
    """By part, the CRC64NVME that came with it."""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))


class SmallS3:
    """Its `objects` by key, and its open `uploads` by id."""

    def __init__(self, quirks: Quirks, bucket: str) -> None:
        self.objects: dict[str, StoredObject] = {}
        self.uploads: dict[str, OpenUpload] = {}
        self._quirks = quirks
        self._bucket = bucket
        self._before: dict[str, tuple[int, StoredObject | None]] = {}
        self._false_412, self._conflicts = quirks.false_412, quirks.conflicts
        self._operations: Mapping[str, Callable[[Asked], Answer]] = {
            "HeadBucket": lambda _: Answer(200),
            "PutObject": self._put,
            "HeadObject": self._get,
            "GetObject": self._get,
            "DeleteObject": self._delete,
            "PutObjectAcl": self._put_acl,
            "CreateMultipartUpload": self._create,
            "UploadPart": self._take_part,
            "CompleteMultipartUpload": self._complete,
            "AbortMultipartUpload": self._abort,
            "ListParts": self._list_parts,
            "ListMultipartUploads": self._list_uploads,
            "ListObjectsV2": self._list_objects,
        }

    def perform(self, asked: Asked) -> Answer:
        """Do what is asked, and answer it."""
        if asked.operation not in self._operations:
            return s3_error(501, "NotImplemented", f"{asked.operation} is not implemented.")
        upload_id = asked.query.get("uploadId")
        if upload_id is not None and (
            upload_id not in self.uploads or self.uploads[upload_id].key != asked.key
        ):
            return s3_error(404, "NoSuchUpload")
        return self._operations[asked.operation](asked)

    def is_public(self, key: str) -> bool:
        """Whether everyone may read what is, or is not, under a key."""
        return self._quirks.public or (key in self.objects and self.objects[key].is_public)

    def _put(self, asked: Asked) -> Answer:
        wrong = self._wrong_digest(asked.headers, asked.body) or self._unmet(asked)
        if wrong is not None:
            return wrong
        etag = hashlib.md5(asked.body).hexdigest() if self._quirks.etag_of_put else _opaque()
        stored = self._store(
            asked.key, asked.headers, asked.body, etag, asked.headers.get(CRC), "FULL_OBJECT"
        )
        return Answer(200, {"etag": f'"{stored.etag}"'})

    def _create(self, asked: Asked) -> Answer:
        upload_id = uuid.uuid4().hex
        self.uploads[upload_id] = OpenUpload(asked.key, asked.headers)
        return _xml("InitiateMultipartUploadResult", Bucket=self._bucket, Key=asked.key, UploadId=upload_id)

    def _take_part(self, asked: Asked) -> Answer:
        is_believed = self._quirks.checksums is Checksums.PARTS_BELIEVED
        if (wrong := self._wrong_digest(asked.headers, asked.body, is_believed)) is not None:
            return wrong
        number = int(asked.query["partNumber"])
        if number > self._quirks.max_parts:
            return s3_error(400, "InvalidArgument", PART_NUMBER_REFUSED.format(self._quirks.max_parts))
        upload = self.uploads[asked.query["uploadId"]]
        upload.parts[number] = asked.body
        upload.told[number] = asked.headers.get(CRC)
        kept = {CRC: asked.headers[CRC]} if CRC in asked.headers and self._keeps_checksums else {}
        return Answer(200, {"etag": f'"{self._etag_of_part(number, asked.body)}"', **kept})

    def _complete(self, asked: Asked) -> Answer:
        if (unmet := self._unmet(asked)) is not None:
            return unmet
        upload_id = asked.query["uploadId"]
        upload = self.uploads[upload_id]
        named = [
            (int(part.findtext("{*}PartNumber") or 0), (part.findtext("{*}ETag") or "").strip('"'))
            for part in ET.fromstring(asked.body).iter()
            if part.tag.endswith("Part")
        ]
        if not named or any(
            number not in upload.parts or etag != self._etag_of_part(number, upload.parts[number])
            for number, etag in named
        ):
            return s3_error(400, "InvalidPart")
        parts = [upload.parts[number] for number, _ in named]
        whole = b"".join(parts)
        size = asked.headers.get("x-amz-mp-object-size", str(len(whole)))
        if self._keeps_checksums and size != str(len(whole)):
            return s3_error(400, "InvalidRequest")
        is_believed = self._quirks.checksums in {Checksums.PARTS_BELIEVED, Checksums.WHOLE_BELIEVED}
        if (wrong := self._wrong_digest(asked.headers, whole, is_believed)) is not None:
            return wrong
        checksum, kind = checksums.encode(checksums.crc(whole)), "FULL_OBJECT"
        if self._quirks.checksums is Checksums.COMPOSITE:
            joined = b"".join(checksums.crc(part).to_bytes(8) for part in parts)
            checksum, kind = f"{checksums.encode(checksums.crc(joined))}-{len(parts)}", "COMPOSITE"
        if is_believed:
            combined = _combined(upload, [number for number, _ in named])
            checksum = asked.headers.get(CRC, combined)
            if checksum != combined and self._quirks.checksums is Checksums.PARTS_BELIEVED:
                return s3_error(400, "BadDigest")
        asked_for = self._keeps_checksums and "x-amz-checksum-algorithm" in upload.headers
        kept = checksum if asked_for else None
        del self.uploads[upload_id]
        stored = self._store(upload.key, upload.headers, whole, self._etag_of(parts), kept, kind)
        told = "" if self._quirks.empty_etag else f'"{stored.etag}"'
        return _xml("CompleteMultipartUploadResult", Bucket=self._bucket, Key=upload.key, ETag=told)

    def _abort(self, asked: Asked) -> Answer:
        del self.uploads[asked.query["uploadId"]]
        return Answer(204)

    def _get(self, asked: Asked) -> Answer:
        is_head = asked.operation == "HeadObject"
        found = self.objects.get(asked.key)
        lag, earlier = self._before.get(asked.key, (0, None))
        if is_head and lag > 0:
            self._before[asked.key], found = (lag - 1, earlier), earlier
        if found is None:
            return s3_error(404, "NoSuchKey")
        if self._quirks.etag_of_get and not is_head:
            found = replace(found, etag=hashlib.sha1(found.etag.encode()).hexdigest())
        tells_checksum = asked.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED"
        described = {
            "etag": f'"{found.etag}"',
            "last-modified": format_datetime(found.written_at, usegmt=True),
            "accept-ranges": "bytes",
            **{
                name: value
                for name, value in found.headers.items()
                if tells_checksum or "checksum" not in name
            },
        }
        if is_head:
            return Answer(200, {**described, "content-length": str(len(found.body))})
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("range", ""))
        if wanted is None:
            return Answer(200, described, found.body)
        first, last = int(wanted[1]), min(int(wanted[2] or len(found.body)), len(found.body) - 1)
        described["content-range"] = f"bytes {first}-{last}/{len(found.body)}"
        return Answer(206, described, found.body[first : last + 1])

    def _delete(self, asked: Asked) -> Answer:
        self.objects.pop(asked.key, None)
        return Answer(204)

    def _put_acl(self, asked: Asked) -> Answer:
        if asked.key not in self.objects:
            return s3_error(404, "NoSuchKey")
        is_public = self._makes_public(asked.headers)
        self.objects[asked.key] = replace(self.objects[asked.key], is_public=is_public)
        return Answer(200)

    def _list_parts(self, asked: Asked) -> Answer:
        parts = self.uploads[asked.query["uploadId"]].parts
        listed = "".join(
            f"<Part><PartNumber>{number}</PartNumber><Size>{len(body)}</Size>"
            f"<ETag>&quot;{self._etag_of_part(number, body)}&quot;</ETag></Part>"
            for number, body in sorted(parts.items())
        )
        return _xml("ListPartsResult", listed, IsTruncated="false")

    def _list_uploads(self, asked: Asked) -> Answer:
        if self._quirks.no_uploads and not self.uploads:
            return s3_error(404, "NoSuchUpload")
        listed = "".join(
            f"<Upload><Key>{_listed(upload.key, asked)}</Key><UploadId>{upload_id}</UploadId>"
            f"<Initiated>{upload.started_at:%Y-%m-%dT%H:%M:%S.000Z}</Initiated></Upload>"
            for upload_id, upload in sorted(self.uploads.items(), key=lambda item: item[1].key)
            if upload.key.startswith(asked.query.get("prefix", ""))
        )
        return _xml("ListMultipartUploadsResult", listed, IsTruncated="false", **_encoding(asked))

    def _list_objects(self, asked: Asked) -> Answer:
        listed = "".join(
            f"<Contents><Key>{_listed(key, asked)}</Key><Size>{len(found.body)}</Size>"
            f"<ETag>&quot;{found.etag}&quot;</ETag>"
            f"<LastModified>{found.written_at:%Y-%m-%dT%H:%M:%S.000Z}</LastModified></Contents>"
            for key, found in sorted(self.objects.items())
            if key.startswith(asked.query.get("prefix", ""))
        )
        return _xml("ListBucketResult", listed, IsTruncated="false", **_encoding(asked))

    @property
    def _keeps_checksums(self) -> bool:
        return self._quirks.checksums not in {Checksums.IGNORED, Checksums.BELIEVED}

    def _store(
        self,
        key: str,
        headers: Mapping[str, str],
        body: bytes,
        etag: str,
        checksum: str | None,
        checksum_type: str,
    ) -> StoredObject:
        kept = {
            name: value
            for name, value in headers.items()
            if name.startswith("x-amz-meta-")
            or name in {"content-type", "cache-control", "x-amz-server-side-encryption"}
        }
        if checksum is not None and self._quirks.checksums is not Checksums.IGNORED:
            kept |= {CRC: checksum, "x-amz-checksum-type": checksum_type}
        self._before[key] = (self._quirks.lag, self.objects.get(key))
        told = etag.upper() if self._quirks.upper_case else etag
        self.objects[key] = StoredObject(body, told, kept, self._makes_public(headers))
        return self.objects[key]

    def _makes_public(self, headers: Mapping[str, str]) -> bool:
        return self._quirks.acl_heeded and headers.get("x-amz-acl") == "public-read"

    def _unmet(self, asked: Asked) -> Answer | None:
        condition = next((name for name in ("if-none-match", "if-match") if name in asked.headers), None)
        if condition is None or not self._quirks.conditions:
            return None
        if self._conflicts:
            self._conflicts -= 1
            return s3_error(409, "ConditionalRequestConflict")
        found = self.objects.get(asked.key)
        if condition == "if-none-match":
            is_met = found is None
        else:
            given = asked.headers[condition]
            wanted = given if self._quirks.unquoted_match else given.strip('"')
            is_met = found is not None and found.etag == wanted
        if is_met and self._false_412:
            self._false_412 -= 1
            is_met = False
        return None if is_met else s3_error(412, "PreconditionFailed")

    def _wrong_digest(
        self, headers: Mapping[str, str], body: bytes, is_believed: bool = False
    ) -> Answer | None:
        if (claimed := headers.get("content-md5")) is not None and claimed != _md5(body):
            return s3_error(400, "BadDigest" if _is_md5(claimed) else "InvalidDigest")
        is_compared = self._keeps_checksums and not is_believed and CRC in headers
        crc = checksums.encode(checksums.crc(body)) if is_compared else None
        return None if crc in {None, headers.get(CRC)} else s3_error(400, "BadDigest")

    def _etag_of_part(self, number: int, body: bytes) -> str:
        digest = hashlib.md5(body).hexdigest()
        return digest if self._quirks.etag_of_part else f"part {number} {hashlib.sha1(body).hexdigest()[:20]}"

    def _etag_of(self, parts: list[bytes]) -> str:
        match self._quirks.etag:
            case Etag.MD5_OF_PARTS:
                joined = b"".join(hashlib.md5(part).digest() for part in parts)
                return f"{hashlib.md5(joined).hexdigest()}-{len(parts)}"
            case Etag.MD5_OF_WHOLE:
                return hashlib.md5(b"".join(parts)).hexdigest()
            case Etag.OWN_RULE:
                return f"{uuid.uuid4().hex}-{len(parts)}"
            case Etag.OPAQUE:
                return _opaque()


def _combined(upload: OpenUpload, numbers: list[int]) -> str:
    """The CRC64NVME of the whole, made of those that came with the parts."""
    value = 0
    for number in numbers:
        told = checksums.decode(upload.told[number]) or 0
        value = checksums.combine(value, told, len(upload.parts[number]))
    return checksums.encode(value)


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body).digest()).decode()


def _is_md5(value: str) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == hashlib.md5().digest_size
    except binascii.Error:
        return False


def _opaque() -> str:
    return base64.b64encode(uuid.uuid4().bytes).decode()


def _listed(key: str, asked: Asked) -> str:
    return quote(key) if "encoding-type" in asked.query else escape(key)


def _encoding(asked: Asked) -> dict[str, str]:
    return {"EncodingType": "url"} if "encoding-type" in asked.query else {}


def _xml(root: str, inner: str = "", **texts: str) -> Answer:
    fields = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in texts.items())
    return Answer(200, {"content-type": "application/xml"}, f"<{root}>{fields}{inner}</{root}>".encode())
