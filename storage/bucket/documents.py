"""The documents (policy, CORS, lifecycle, ...) that a bucket needs for uploads and players.

Pure functions over the documents' JSON, in the form that boto3 and `aws s3api` use. Statements and rules of
ours are found by their names and rewritten; the rest of a document stays as it is. See
https://docs.aws.amazon.com/AmazonS3/latest/userguide/access-management.html.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

NAME_PREFIX = "video-uploader"
"""The prefix of the names of our statements and rules."""

ABORT_MULTIPARTS_AFTER_DAYS = 7
PREFLIGHT_SECONDS = 3600
POLICY_VERSION = "2012-10-17"

Document = Mapping[str, Any]


class BucketDocument(StrEnum):
    """The managed documents of a bucket, in the order in which they can be written."""

    # S3 refuses a public policy as long as the public access block forbids it.
    PUBLIC_ACCESS_BLOCK = "public access block"
    OWNERSHIP = "object ownership"
    POLICY = "policy"
    CORS = "CORS"
    LIFECYCLE = "lifecycle"


Documents = Mapping[BucketDocument, Document | None]
"""The documents that the server supports; None where the bucket has none of that kind."""

NEW_ON_AWS: Documents = {
    BucketDocument.PUBLIC_ACCESS_BLOCK: {
        "BlockPublicAcls": True,
        "IgnorePublicAcls": True,
        "BlockPublicPolicy": True,
        "RestrictPublicBuckets": True,
    },
    BucketDocument.OWNERSHIP: {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
    BucketDocument.POLICY: None,
    BucketDocument.CORS: None,
    BucketDocument.LIFECYCLE: None,
}
"""The documents of a new bucket on AWS, in which nothing can be public."""

NEW_ELSEWHERE: Documents = dict.fromkeys(BucketDocument)
"""The documents of a new bucket on other servers."""


class PublicMode(StrEnum):
    """How players are allowed to read objects."""

    ACL = "ACL"
    """By the ACL of each object, and by the policy for the whole prefix as well."""
    POLICY = "policy"
    """By the bucket's policy, for everything under the prefix."""
    CDN = "CDN"
    """Through CloudFront, which alone may read the bucket, with an identity of its own."""


@dataclass(frozen=True, slots=True)
class Transition:
    """Moves objects to a storage class after a number of days."""

    days: int
    storage_class: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredBucket:
    """What the settings require of a bucket.

    Attributes:
        prefix: the keys that everyone may read, without a '/' at its ends; empty for all of them.
        region: the bucket's region, which determines the partition of its ARN.
        uses_acl: whether every object is uploaded with the ACL `public-read`.
        cdn_domain: the host of public URLs, if that is CloudFront's.
        cors_origins: the origins whose scripts may read the objects.
        transition, expire_days: the lifecycle of old objects; None to keep them as they are.

    """

    bucket: str
    prefix: str
    region: str
    uses_acl: bool
    cdn_domain: str | None = None
    cors_origins: tuple[str, ...] = ("*",)
    transition: Transition | None = None
    expire_days: int | None = None


def public_mode_of(desired: DesiredBucket, policy: Document | None) -> PublicMode:
    """How players are to read objects; a CDN alone only if the present `policy` lets CloudFront read."""
    if desired.uses_acl:
        return PublicMode.ACL
    if desired.cdn_domain is not None and _allows_cloudfront(policy):
        return PublicMode.CDN
    return PublicMode.POLICY


def desired_documents(present: Documents, desired: DesiredBucket) -> dict[BucketDocument, Document | None]:
    """The documents in `present` with our statements and rules merged in."""
    mode = public_mode_of(desired, present.get(BucketDocument.POLICY))
    merged: dict[BucketDocument, Document | None] = {}
    for kind, document in present.items():
        match kind:
            case BucketDocument.PUBLIC_ACCESS_BLOCK:
                merged[kind] = public_access_block(document, mode)
            case BucketDocument.OWNERSHIP:
                merged[kind] = ownership(document, mode)
            case BucketDocument.POLICY:
                merged[kind] = policy(document, desired, mode)
            case BucketDocument.CORS:
                merged[kind] = cors(document, desired)
            case BucketDocument.LIFECYCLE:
                merged[kind] = lifecycle(document, desired)
    return merged


def public_access_block(present: Document | None, mode: PublicMode) -> Document | None:
    """The block without the flags that forbid the mode; None where there is no block."""
    cleared: tuple[str, ...] = ()
    if mode is not PublicMode.CDN:
        cleared += ("BlockPublicPolicy", "RestrictPublicBuckets")
    if mode is PublicMode.ACL:
        cleared += ("BlockPublicAcls", "IgnorePublicAcls")
    if present is None or not any(present.get(flag) for flag in cleared):
        return present
    return {**present, **dict.fromkeys(cleared, False)}


def ownership(present: Document | None, mode: PublicMode) -> Document | None:
    """The ownership with ACLs enabled if the mode needs them; without the document they are enabled."""
    rules = present.get("Rules", []) if present is not None else []
    if mode is PublicMode.ACL and any(rule.get("ObjectOwnership") == "BucketOwnerEnforced" for rule in rules):
        return {"Rules": [{"ObjectOwnership": "BucketOwnerPreferred"}]}
    return present


def policy(present: Document | None, desired: DesiredBucket, mode: PublicMode) -> Document | None:
    """The policy with a statement that lets everyone read the objects under the prefix."""
    if mode is PublicMode.CDN:
        return present
    statement = {
        "Sid": entry_name("public-read", desired.prefix),
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": objects_arn(desired.bucket, desired.prefix, desired.region),
    }
    document = {"Version": POLICY_VERSION} if present is None else present
    return _with_entry(document, "Statement", statement, "Sid")


def cors(present: Document | None, desired: DesiredBucket) -> Document:
    """The CORS document with a rule that lets scripts of the origins read objects and ranges of them."""
    rule = {
        "ID": f"{NAME_PREFIX}-read",
        "AllowedMethods": ["GET", "HEAD"],
        "AllowedOrigins": list(desired.cors_origins),
        "AllowedHeaders": ["*"],
        "ExposeHeaders": ["Accept-Ranges", "Content-Length", "Content-Range", "ETag"],
        "MaxAgeSeconds": PREFLIGHT_SECONDS,
    }
    return _with_entry(present or {}, "CORSRules", rule, "ID")


def lifecycle(present: Document | None, desired: DesiredBucket) -> Document:
    """The lifecycle with a rule for the objects and the incomplete multipart uploads under the prefix."""
    rule: dict[str, Any] = {
        "ID": entry_name("lifecycle", desired.prefix),
        "Status": "Enabled",
        "Filter": {"Prefix": key_prefix(desired.prefix)},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABORT_MULTIPARTS_AFTER_DAYS},
    }
    if desired.transition is not None:
        rule["Transitions"] = [
            {"Days": desired.transition.days, "StorageClass": desired.transition.storage_class}
        ]
    if desired.expire_days is not None:
        rule["Expiration"] = {"Days": desired.expire_days}
    return _with_entry(present or {}, "Rules", rule, "ID")


def entry_name(purpose: str, prefix: str) -> str:
    """The name of our statement or rule for a prefix, distinct for each prefix of a bucket."""
    if not prefix:
        return f"{NAME_PREFIX}-{purpose}"
    plain = re.sub(r"[^A-Za-z0-9]+", "-", prefix)[:64]
    if plain != prefix:
        # Distinct prefixes must not share a name after normalization.
        plain += f"-{hashlib.sha256(prefix.encode()).hexdigest()[:8]}"
    return f"{NAME_PREFIX}-{purpose}-{plain}"


def key_prefix(prefix: str) -> str:
    """The beginning of every key under a prefix."""
    return f"{prefix}/" if prefix else ""


def partition(region: str) -> str:
    """The ARN partition of a region."""
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"


def bucket_arn(bucket: str, region: str) -> str:
    """The ARN of a bucket."""
    return f"arn:{partition(region)}:s3:::{bucket}"


def objects_arn(bucket: str, prefix: str, region: str) -> str:
    """The ARN pattern of every object under a prefix."""
    return f"{bucket_arn(bucket, region)}/{key_prefix(prefix)}*"


def _with_entry(document: Document, field: str, ours: Document, name: str) -> Document:
    """The document with our entry, named by its field `name`, in its place or at the end of the list."""
    entries = _as_list(document.get(field, []))
    nameless = _canonical({key: value for key, value in ours.items() if key != name})
    merged, is_there = [], False
    for entry in entries:
        # Some servers drop the names of rules; ours must not be added again each time.
        is_ours = entry.get(name) == ours[name] or _canonical(entry) == nameless
        if not is_ours:
            merged.append(entry)
        elif not is_there:
            merged.append(entry if _canonical(entry) in (nameless, _canonical(ours)) else ours)
            is_there = True
    if not is_there:
        merged.append(ours)
    return document if merged == entries else {**document, field: merged}


def _canonical(value: Any) -> Any:
    """A value with sorted lists, because servers do not keep their order."""
    match value:
        case Mapping():
            return {name: _canonical(inner) for name, inner in value.items()}
        case list():
            return sorted((_canonical(inner) for inner in value), key=repr)
        case _:
            return value


def _allows_cloudfront(present: Document | None) -> bool:
    """Whether a policy has a statement for CloudFront's own identity (origin access control)."""
    for statement in _as_list((present or {}).get("Statement", [])):
        principal = statement.get("Principal")
        services = _as_list(principal.get("Service", [])) if isinstance(principal, Mapping) else []
        if statement.get("Effect") == "Allow" and "cloudfront.amazonaws.com" in services:
            return True
    return False


def _as_list(value: Any) -> list[Any]:
    """A list of JSON, for which policies may have its only element."""
    return value if isinstance(value, list) else [value]
