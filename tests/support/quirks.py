"""What S3 servers refuse, make and say differently, as values that a `QuirkServer` plays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum, auto
from fnmatch import fnmatchcase
from typing import Final

from tests.support.fault_proxy import Answer, s3_error

PUT: Final = frozenset({"PutObject"})
CREATE: Final = frozenset({"CreateMultipartUpload"})
PART: Final = frozenset({"UploadPart"})
COMPLETE: Final = frozenset({"CompleteMultipartUpload"})
HEAD: Final = frozenset({"HeadObject"})
ACL: Final = frozenset({"PutObjectAcl"})
MAKES_OBJECT: Final = PUT | COMPLETE
DESCRIBES_OBJECT: Final = PUT | CREATE
PART_CHECKSUM: Final = "ChecksumCRC64NVME"
"""An element of the body of CompleteMultipartUpload, which a refusal may name in place of a header."""
NOT_IMPLEMENTED: Final = "A header you provided implies functionality that is not implemented"
"""What S3 says of a header, without its name."""
ALWAYS: Final = -1
"""As a number of times."""


@dataclass(frozen=True)
class Refusal:
    """A server's refusal of a header, or of a family of them (`x-amz-checksum-*`), on some operations.

    `message` may contain `{header}` and `{value}`. Only headers with a `value`, if one is given, are refused.
    Without a `code` the answer has no body.
    """

    header: str
    operations: frozenset[str]
    status: int = 400
    code: str = "InvalidArgument"
    message: str = "Unsupported header '{header}' received for this API call."
    value: str | None = None

    @property
    def is_nameless(self) -> bool:
        """Whether the answer tells nothing about the header."""
        return not self.code or "{header}" not in self.message

    def header_in(self, operation: str, headers: Mapping[str, str]) -> str | None:
        """The header of a request that is refused; None if there is none. Names are in lower case."""
        if operation not in self.operations:
            return None
        return next(
            (
                name
                for name, value in headers.items()
                if fnmatchcase(name, self.header) and self.value in (None, value)
            ),
            None,
        )

    def answer(self, operation: str, header: str, value: str) -> Answer:
        """The answer, which has no body for a HEAD request (RFC 9110, section 9.3.2)."""
        if operation in HEAD or not self.code:
            return Answer(self.status)
        return s3_error(self.status, self.code, self.message.format(header=header, value=value))


class Etag(Enum):
    """What the ETag of an object that was made of parts is."""

    MD5_OF_PARTS = auto()
    """The MD5 of the parts' MD5s and `-N`, as AWS makes it."""
    MD5_OF_WHOLE = auto()
    OWN_RULE = auto()
    """It looks like AWS's, and is made by another rule."""
    OPAQUE = auto()


class Checksums(Enum):
    """What becomes of a CRC64NVME that goes along."""

    KEPT = auto()
    """It is compared with the content and returned, as AWS does."""
    IGNORED = auto()
    BELIEVED = auto()
    """That of a single PUT is returned, and not compared with anything."""
    PARTS_BELIEVED = auto()
    """As `KEPT`, but those of parts are not compared with contents; that of the whole is, with theirs."""
    WHOLE_BELIEVED = auto()
    """As `KEPT`, but that of an object of parts is what it was told at its completion."""
    COMPOSITE = auto()
    """As `KEPT`; for an object of parts a checksum of the parts' checksums and `-N` is returned."""


class Oddity(Enum):
    """An answer that is none of S3's."""

    LATE_ERROR = auto()
    """200 with an error document in its body."""
    HTML = auto()
    """200 with a page of a captive portal."""
    REDIRECT = auto()
    """A redirect to the same address."""
    TRUNCATED = auto()
    """Less than the announced length."""


@dataclass(frozen=True)
class Passing:
    """An answer in place of the real one to the first `times` requests of an operation (`*`: any)."""

    operation: str
    answer: Answer | Oddity
    times: int = ALWAYS


@dataclass(frozen=True, kw_only=True)
class Quirks:
    """How a server differs from AWS; without arguments it does not.

    Attributes:
        refusals: what it refuses; one answer for each request, the first that applies.
        etag: of objects that were made of parts.
        etag_of_put: whether the ETag of a single PUT is the MD5 of the content; otherwise it is opaque.
        etag_of_part: the same for a part.
        upper_case: its ETags have upper-case digits.
        empty_etag: its answer to CompleteMultipartUpload has an empty ETag.
        checksums: what becomes of CRC64NVME.
        needs_checksum: it refuses `x-amz-sdk-checksum-algorithm` without a checksum, as AWS does.
        etag_of_get: its GET requests name another ETag than its HEAD requests, always the same.
        lag: so many HEAD requests after a write see what was there before it.
        refused_style: the addressing style that it refuses, and the code with which it does.
        conditions: it looks at the conditions of writes.
        unquoted_match: it compares `If-Match` with the ETag without quotes.
        false_412, conflicts: so many conditional writes get 412 PreconditionFailed although the condition
            is met, or 409 ConditionalRequestConflict.
        acl_heeded: `public-read` makes an object public; otherwise it is taken and changes nothing.
        public: everyone may read, whatever the ACL.
        anonymous_status: of its answers to requests without credentials for what is not public.
        no_uploads: it answers 404 NoSuchUpload where there are no open uploads to list.
        passing: answers that are not its own.
        max_parts: it refuses parts with a higher number.
        make: what it calls itself in the header Server; nothing by default.

    """

    refusals: tuple[Refusal, ...] = ()
    etag: Etag = Etag.MD5_OF_PARTS
    etag_of_put: bool = True
    etag_of_part: bool = True
    upper_case: bool = False
    empty_etag: bool = False
    checksums: Checksums = Checksums.KEPT
    needs_checksum: bool = False
    etag_of_get: bool = False
    lag: int = 0
    refused_style: tuple[str, str] | None = None
    conditions: bool = True
    unquoted_match: bool = False
    false_412: int = 0
    conflicts: int = 0
    acl_heeded: bool = True
    public: bool = False
    anonymous_status: int = 403
    no_uploads: bool = False
    passing: tuple[Passing, ...] = ()
    max_parts: int = 10_000
    make: str | None = None

    def plus(self, other: Quirks) -> Quirks:
        """Both at once; where both say something other than AWS does, the other one wins."""
        own = {
            field.name: getattr(other, field.name)
            for field in fields(other)
            if getattr(other, field.name) != getattr(AWS, field.name)
        }
        own["refusals"] = self.refusals + other.refusals
        own["passing"] = self.passing + other.passing
        return replace(self, **own)


AWS: Final = Quirks()


def refusing(*refusals: Refusal | Iterable[Refusal]) -> Quirks:
    """A server whose only quirks are refusals."""
    flat = [[one] if isinstance(one, Refusal) else one for one in refusals]
    return Quirks(refusals=tuple(refusal for some in flat for refusal in some))


SINGLE: Final[Mapping[str, Quirks]] = {
    "checksum on PUT": refusing(Refusal("x-amz-checksum-crc64nvme", PUT)),
    "checksum on PUT, 501": refusing(
        Refusal("x-amz-checksum-crc64nvme", PUT, 501, "NotImplemented", NOT_IMPLEMENTED)
    ),
    "SDK algorithm on PUT": refusing(Refusal("x-amz-sdk-checksum-algorithm", PUT, 400, "InvalidRequest")),
    "checksum algorithm on Create": refusing(
        Refusal(
            "x-amz-checksum-algorithm",
            CREATE,
            501,
            "NotImplemented",
            "Header '{header}' with value '{value}' not implemented",
        )
    ),
    "checksum type on Create": refusing(Refusal("x-amz-checksum-type", CREATE)),
    "checksum on UploadPart": refusing(Refusal("x-amz-checksum-crc64nvme", PART)),
    "SDK algorithm on UploadPart": refusing(Refusal("x-amz-sdk-checksum-algorithm", PART)),
    "checksum on Complete": refusing(Refusal("x-amz-checksum-crc64nvme", COMPLETE, 400, "InvalidRequest")),
    "object size on Complete": refusing(
        Refusal("x-amz-mp-object-size", COMPLETE, 501, "NotImplemented", NOT_IMPLEMENTED)
    ),
    "checksums of the parts in Complete": refusing(
        Refusal(PART_CHECKSUM, COMPLETE, 400, "MalformedXML", "The element {header} is unknown.")
    ),
    "checksum mode on HEAD": refusing(Refusal("x-amz-checksum-mode", HEAD)),
    "checksum mode on HEAD, 403": refusing(Refusal("x-amz-checksum-mode", HEAD, 403)),
    "checksum mode on HEAD, 405": refusing(Refusal("x-amz-checksum-mode", HEAD, 405)),
    "checksum on PUT, 403": refusing(
        Refusal("x-amz-checksum-crc64nvme", PUT, 403, "AccessDenied", "The header {header} is not allowed.")
    ),
    "checksum on UploadPart, 411": refusing(
        Refusal("x-amz-checksum-crc64nvme", PART, 411, "MissingContentLength", "Length required.")
    ),
    "checksum on PUT, 501 without a body": refusing(Refusal("x-amz-checksum-crc64nvme", PUT, 501, "")),
    "If-None-Match on PUT": refusing(Refusal("if-none-match", PUT, 501, "NotImplemented", NOT_IMPLEMENTED)),
    "If-None-Match on Complete": refusing(Refusal("if-none-match", COMPLETE, 400, "InvalidArgument")),
    "no conditions": refusing(Refusal("if-*", MAKES_OBJECT, 400, "NotImplemented", NOT_IMPLEMENTED)),
    "ACL, 400 NotImplemented": refusing(
        Refusal("x-amz-acl", DESCRIBES_OBJECT | ACL, 400, "NotImplemented", NOT_IMPLEMENTED)
    ).plus(Quirks(public=True)),
    "ACL, 400 InvalidRequest": refusing(
        Refusal("x-amz-acl", DESCRIBES_OBJECT | ACL, 400, "InvalidRequest", "ACLs are disabled.")
    ).plus(Quirks(public=True)),
    "ACL, 501": refusing(
        Refusal("x-amz-acl", DESCRIBES_OBJECT | ACL, 501, "NotImplemented", NOT_IMPLEMENTED)
    ).plus(Quirks(public=True)),
    "ACL, 403": refusing(
        Refusal("x-amz-acl", DESCRIBES_OBJECT | ACL, 403, "AccessDenied", "ACLs are set on the bucket.")
    ).plus(Quirks(public=True)),
    "ETag is the MD5 of the whole": Quirks(etag=Etag.MD5_OF_WHOLE, checksums=Checksums.IGNORED),
    "ETag is opaque": Quirks(etag=Etag.OPAQUE, checksums=Checksums.IGNORED),
    "ETag of a rule of its own": Quirks(etag=Etag.OWN_RULE, checksums=Checksums.IGNORED),
    "ETag of any upload is opaque": Quirks(
        etag=Etag.OPAQUE, etag_of_put=False, etag_of_part=False, checksums=Checksums.IGNORED
    ),
    "ETag in upper case": Quirks(upper_case=True, checksums=Checksums.IGNORED),
    "composite checksum": Quirks(checksums=Checksums.COMPOSITE),
    "checksums ignored": Quirks(checksums=Checksums.IGNORED),
    "SDK algorithm needs a checksum": Quirks(needs_checksum=True),
    "checksums believed": Quirks(checksums=Checksums.BELIEVED),
    "checksums of parts believed": Quirks(checksums=Checksums.PARTS_BELIEVED),
    "checksum of the whole believed": Quirks(checksums=Checksums.WHOLE_BELIEVED),
    "no list of uploads where there are none": Quirks(no_uploads=True),
    "HEAD lags": Quirks(lag=2),
    "412 although nothing is there": Quirks(false_412=ALWAYS),
    "409 ConditionalRequestConflict": Quirks(conflicts=ALWAYS),
}
"""Each quirk alone, by its name, at a server on which every file ends `released` all the same."""

IN_VAIN: Final[Mapping[str, int]] = {
    "checksum on PUT, 501": 3,
    "checksum on PUT, 501 without a body": 3,
    "checksum on UploadPart, 411": 1,
    "ACL, 400 NotImplemented": 1,
    "ACL, 501": 1,
    "tagging": 2,
    "storage class": 2,
}
"""By quirk, how many requests are refused in vain, because the answer does not say for which header it is."""

OF_A_SETTING: Final[Mapping[str, tuple[Quirks, Mapping[str, str]]]] = {
    "tagging": (
        refusing(Refusal("x-amz-tagging", DESCRIBES_OBJECT, 501, "NotImplemented", NOT_IMPLEMENTED)),
        {"AWS_S3_TAGS": "team=video"},
    ),
    "storage class": (
        refusing(Refusal("x-amz-storage-class", DESCRIBES_OBJECT, 501, "NotImplemented", NOT_IMPLEMENTED)),
        {"AWS_S3_STORAGE_CLASS": "STANDARD_IA"},
    ),
    "Content-MD5": (
        refusing(Refusal("content-md5", PUT | PART, 400, "InvalidArgument")),
        {"AWS_S3_CHECKSUM": "md5"},
    ),
}
"""Refusals of a header that is sent only because of a setting, and that an upload can do without."""

NO_ENCRYPTION: Final = refusing(
    Refusal("x-amz-server-side-encryption", DESCRIBES_OBJECT, 501, "NotImplemented", NOT_IMPLEMENTED)
)
"""An upload never does without encryption that the settings ask for."""
