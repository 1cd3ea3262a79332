"""What a bucket has to say about itself so that players can read from it: documents, merged, never replaced.

Pure functions over the documents' JSON, in the form that boto3 and `aws s3api` use. What is ours in a
document is found by a name of ours and rewritten; everything else in it stays as it is. Governing source:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/access-management.html.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

OURS = "video-uploader"
"""What the names of our statements and rules begin with."""

ABORT_MULTIPARTS_AFTER_DAYS = 7
PREFLIGHT_SECONDS = 3600
POLICY_VERSION = "2012-10-17"

Document = Mapping[str, Any]


class BucketDocument(StrEnum):
    """The documents of a bucket that are looked after, in the order in which they can be written."""

    # A policy that makes anything public is refused while the public access block stands.
    PUBLIC_ACCESS_BLOCK = "public access block"
    OWNERSHIP = "object ownership"
    POLICY = "policy"
    CORS = "CORS"
    LIFECYCLE = "lifecycle"


Documents = Mapping[BucketDocument, Document | None]
"""The documents that a server knows, each as it is; None where the bucket has none of that kind."""

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
"""What AWS gives a new bucket: nothing in it can be public, by whatever way."""

NEW_ELSEWHERE: Documents = dict.fromkeys(BucketDocument)
"""What other servers give a new bucket."""


class PublicMode(StrEnum):
    """How players get to read an object."""

    ACL = "ACL"
    """Each object says so itself, by its ACL; the policy says it for the whole prefix as well."""
    POLICY = "policy"
    """The bucket's policy says so for everything under the prefix."""
    CDN = "CDN"
    """CloudFront reads the bucket with an identity of its own, and nobody else does."""


@dataclass(frozen=True, slots=True)
class Transition:
    """After how many days an object moves to which storage class."""

    days: int
    storage_class: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredBucket:
    """What is wanted of a bucket.

    Attributes:
        prefix: which keys may be read by everybody, without a '/' at its ends; empty for all of them.
        region: the bucket's region, which tells the partition of its ARN.
        by_acl: whether every object is uploaded with the ACL `public-read`.
        cdn_domain: the host that public URLs lead to, if that is CloudFront's.
        cors_origins: the origins whose scripts may read the objects.
        transition, expire_days: what becomes of objects when they grow old; None: nothing.

    """

    bucket: str
    prefix: str
    region: str
    by_acl: bool
    cdn_domain: str | None = None
    cors_origins: tuple[str, ...] = ("*",)
    transition: Transition | None = None
    expire_days: int | None = None


def public_mode_of(wishes: DesiredBucket, policy: Document | None) -> PublicMode:
    """How objects are to be read, of which `policy` tells whether CloudFront may do so by itself."""
    if wishes.by_acl:
        return PublicMode.ACL
    if wishes.cdn_domain is not None and _lets_cloudfront_in(policy):
        return PublicMode.CDN
    return PublicMode.POLICY


def wanted(present: Documents, wishes: DesiredBucket) -> dict[BucketDocument, Document | None]:
    """The documents as they should be, for each in `present`: what is ours merged into what is there."""
    way = public_mode_of(wishes, present.get(BucketDocument.POLICY))
    merged: dict[BucketDocument, Document | None] = {}
    for part, document in present.items():
        match part:
            case BucketDocument.PUBLIC_ACCESS_BLOCK:
                merged[part] = public_access_block(document, way)
            case BucketDocument.OWNERSHIP:
                merged[part] = ownership(document, way)
            case BucketDocument.POLICY:
                merged[part] = policy(document, wishes, way)
            case BucketDocument.CORS:
                merged[part] = cors(document, wishes)
            case BucketDocument.LIFECYCLE:
                merged[part] = lifecycle(document, wishes)
    return merged


def public_access_block(present: Document | None, way: PublicMode) -> Document | None:
    """The block without what stands in the way; where there is no block there is nothing to lift."""
    lifted: tuple[str, ...] = ()
    if way is not PublicMode.CDN:
        lifted += ("BlockPublicPolicy", "RestrictPublicBuckets")
    if way is PublicMode.ACL:
        lifted += ("BlockPublicAcls", "IgnorePublicAcls")
    if present is None or not any(present.get(flag) for flag in lifted):
        return present
    return {**present, **dict.fromkeys(lifted, False)}


def ownership(present: Document | None, way: PublicMode) -> Document | None:
    """ACLs enabled if objects are to be public by theirs; a bucket without the document has them enabled."""
    rules = present.get("Rules", []) if present is not None else []
    if way is PublicMode.ACL and any(rule.get("ObjectOwnership") == "BucketOwnerEnforced" for rule in rules):
        return {"Rules": [{"ObjectOwnership": "BucketOwnerPreferred"}]}
    return present


def policy(present: Document | None, wishes: DesiredBucket, way: PublicMode) -> Document | None:
    """The policy with the statement that lets everybody read what is under the prefix, and nothing else."""
    if way is PublicMode.CDN:
        return present
    statement = {
        "Sid": named("public-read", wishes.prefix),
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": objects_arn(wishes.bucket, wishes.prefix, wishes.region),
    }
    if present is None:
        return {"Version": POLICY_VERSION, "Statement": [statement]}
    merged = _merged(_statements(present), statement, "Sid")
    return present if merged is None else {**present, "Statement": merged}


def cors(present: Document | None, wishes: DesiredBucket) -> Document:
    """The CORS document with the rule that lets scripts of the wanted origins read objects, by ranges too."""
    rule = {
        "ID": f"{OURS}-read",
        "AllowedMethods": ["GET", "HEAD"],
        "AllowedOrigins": list(wishes.cors_origins),
        "AllowedHeaders": ["*"],
        "ExposeHeaders": ["Accept-Ranges", "Content-Length", "Content-Range", "ETag"],
        "MaxAgeSeconds": PREFLIGHT_SECONDS,
    }
    return _with_rule(present, "CORSRules", rule)


def lifecycle(present: Document | None, wishes: DesiredBucket) -> Document:
    """The lifecycle with the rule for objects under the prefix and for multipart uploads nobody completed."""
    rule: dict[str, Any] = {
        "ID": named("lifecycle", wishes.prefix),
        "Status": "Enabled",
        "Filter": {"Prefix": folder(wishes.prefix)},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABORT_MULTIPARTS_AFTER_DAYS},
    }
    if wishes.transition is not None:
        rule["Transitions"] = [
            {"Days": wishes.transition.days, "StorageClass": wishes.transition.storage_class}
        ]
    if wishes.expire_days is not None:
        rule["Expiration"] = {"Days": wishes.expire_days}
    return _with_rule(present, "Rules", rule)


def named(purpose: str, prefix: str) -> str:
    """The name of what is ours for this prefix: another prefix of the same bucket has one of its own."""
    if not prefix:
        return f"{OURS}-{purpose}"
    plain = re.sub(r"[^A-Za-z0-9]+", "-", prefix)[:64]
    if plain != prefix:
        # Prefixes that look alike once they are made plain and short must not share a name.
        plain += f"-{hashlib.sha256(prefix.encode()).hexdigest()[:8]}"
    return f"{OURS}-{purpose}-{plain}"


def folder(prefix: str) -> str:
    """What the keys under a prefix begin with."""
    return f"{prefix}/" if prefix else ""


def partition(region: str) -> str:
    """The partition that a region belongs to, as ARNs name it."""
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"


def bucket_arn(bucket: str, region: str) -> str:
    """The ARN of a bucket."""
    return f"arn:{partition(region)}:s3:::{bucket}"


def objects_arn(bucket: str, prefix: str, region: str) -> str:
    """The ARN pattern of every object under a prefix."""
    return f"{bucket_arn(bucket, region)}/{folder(prefix)}*"


def _with_rule(present: Document | None, field: str, rule: Document) -> Document:
    if present is None:
        return {field: [rule]}
    merged = _merged(present.get(field, []), rule, "ID")
    return present if merged is None else {**present, field: merged}


def _merged(entries: list[Document], ours: Document, name: str) -> list[Document] | None:
    """The entries with ours in its place, or at their end; None if that changes nothing."""
    nameless = _canonical({field: value for field, value in ours.items() if field != name})
    merged, is_there = [], False
    for entry in entries:
        # Some servers forget the names of rules, and would get ours once more each time.
        is_ours = entry.get(name) == ours[name] or _canonical(entry) == nameless
        if not is_ours:
            merged.append(entry)
        elif not is_there:
            merged.append(entry if _canonical(entry) in (nameless, _canonical(ours)) else ours)
            is_there = True
    if not is_there:
        merged.append(ours)
    return None if merged == entries else merged


def _canonical(value: Any) -> Any:
    """A value in which the order of a list does not count, for servers do not keep it."""
    match value:
        case Mapping():
            return {name: _canonical(inner) for name, inner in value.items()}
        case list():
            return sorted((_canonical(inner) for inner in value), key=repr)
        case _:
            return value


def _statements(present: Document) -> list[Document]:
    statements = present.get("Statement", [])
    return [statements] if isinstance(statements, Mapping) else list(statements)


def _lets_cloudfront_in(present: Document | None) -> bool:
    """Whether a policy has a statement for CloudFront's own identity (origin access control)."""
    for statement in _statements(present or {}):
        principal = statement.get("Principal")
        services = principal.get("Service", []) if isinstance(principal, Mapping) else []
        if statement.get("Effect") == "Allow" and "cloudfront.amazonaws.com" in (
            [services] if isinstance(services, str) else services
        ):
            return True
    return False
