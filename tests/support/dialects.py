"""The dialects of S3 providers and servers that the `QuirkServer` plays, each with its sources.

A source is a page of the provider's documentation, or a public report, as `owner/repository#issue`. Providers
change; what is played here is what was documented or reported, and `assumed` says what is neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from tests.support.quirks import (
    ACL,
    CREATE,
    DESCRIBES_OBJECT,
    HEAD,
    MAKES_OBJECT,
    NOT_IMPLEMENTED,
    PART,
    PUT,
    Checksums,
    Etag,
    Quirks,
    Refusal,
)

_UPLOADS: Final = PUT | CREATE | PART | MAKES_OBJECT
_IMPLIES: Final = (501, "NotImplemented", NOT_IMPLEMENTED)


@dataclass(frozen=True)
class Dialect:
    """A provider's name as in docs/s3.md, its quirks, their sources, and what is only assumed."""

    provider: str
    quirks: Quirks
    sources: tuple[str, ...]
    assumed: str = ""


DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType(
    {
        "b2": Dialect(
            "Backblaze B2",
            Quirks(
                refusals=(
                    Refusal("x-amz-checksum-*", _UPLOADS | HEAD),
                    Refusal("x-amz-sdk-checksum-algorithm", _UPLOADS),
                    Refusal("x-amz-mp-object-size", _UPLOADS),
                    Refusal("if-*", MAKES_OBJECT, *_IMPLIES),
                    Refusal(
                        "x-amz-acl",
                        DESCRIBES_OBJECT | ACL,
                        403,
                        "AccessDenied",
                        "The ACL of an object must be that of its bucket.",
                    ),
                ),
                checksums=Checksums.IGNORED,
                public=True,
            ),
            (
                "Backblaze: S3-Compatible API, Unsupported Features and ACLs",
                "iterate-ch/cyberduck#16107",
                "home-assistant/core#143995",
                "vatesfr/xen-orchestra#8358",
                "sathinduga/obsidian-s3-sync-and-backup#78",
                "goauthentik/authentik#9529",
            ),
            "x-amz-mp-object-size is refused like the other headers about checksums; the text of the 403",
        ),
        "b2-canned-acl": Dialect(
            "Backblaze B2",
            Quirks(
                refusals=(
                    Refusal(
                        "x-amz-acl",
                        DESCRIBES_OBJECT | ACL,
                        message="Unsupported value for canned acl '{value}'",
                    ),
                ),
                checksums=Checksums.IGNORED,
                public=True,
            ),
            ("owncast/owncast#1183", "AzuraCast/AzuraCast#7322"),
        ),
        "r2": Dialect(
            "Cloudflare R2",
            Quirks(
                refusals=(
                    Refusal(
                        "x-amz-*checksum-*",
                        _UPLOADS,
                        501,
                        "NotImplemented",
                        "Header '{header}' with value '{value}' not implemented",
                    ),
                    Refusal("x-amz-acl", DESCRIBES_OBJECT | ACL, 501, ""),
                ),
                etag=Etag.OWN_RULE,
                etag_of_part=False,
                checksums=Checksums.IGNORED,
                public=True,
            ),
            (
                "Cloudflare: R2, S3 API compatibility",
                "cloudflare/cloudflare-docs#4508",
                "cloudflare/cloudflare-docs#19236",
                "cortexproject/cortex#5829",
                "s3tools/s3cmd#1273",
                "saltbo/zpan#199",
            ),
            "the rule of its ETags; since July 2025 it keeps CRC64NVME (cloudflare/cloudflare-docs#23443)",
        ),
        "r2-named-acl": Dialect(
            "Cloudflare R2",
            Quirks(
                refusals=(
                    Refusal(
                        "x-amz-acl",
                        DESCRIBES_OBJECT | ACL,
                        501,
                        "NotImplemented",
                        "Header '{header}' with value '{value}' not implemented",
                    ),
                ),
                etag=Etag.OWN_RULE,
                etag_of_part=False,
                public=True,
            ),
            ("pixelfed/pixelfed#3775", "Chocobozzz/PeerTube#5333"),
            "the rule of its ETags",
        ),
        "gcs": Dialect(
            "Google Cloud Storage",
            Quirks(
                refusals=(
                    Refusal(
                        "x-amz-acl",
                        DESCRIBES_OBJECT | ACL,
                        400,
                        "InvalidArgument",
                        "Cannot insert legacy ACL for an object when uniform bucket-level access is enabled.",
                    ),
                ),
                etag=Etag.OPAQUE,
                checksums=Checksums.IGNORED,
                conditions=False,
                public=True,
            ),
            (
                "Google: Cloud Storage, XML API, Complete a multipart upload",
                "iterate-ch/cyberduck#16814",
                "apache/opendal#7889",
            ),
            "it ignores headers about CRC64NVME, and If-None-Match and If-Match of writes",
        ),
        "oss": Dialect(
            "Alibaba Cloud OSS",
            Quirks(
                refusals=(Refusal("if-*", MAKES_OBJECT, *_IMPLIES),),
                refused_style=("path", "SecondLevelDomainForbidden"),
                etag=Etag.OWN_RULE,
                upper_case=True,
                checksums=Checksums.IGNORED,
            ),
            (
                "Alibaba Cloud: OSS, CompleteMultipartUpload, InvalidPart",
                "peak/s5cmd#518",
                "treeverse/lakeFS#3490",
                "tobi/walgit#67",
            ),
            "it ignores headers about checksums; upper-case ETags in its S3 answers as in its own",
        ),
        "cos": Dialect(
            "Tencent Cloud COS",
            Quirks(
                refused_style=("path", "PathStyleDomainForbidden"),
                etag=Etag.OWN_RULE,
                checksums=Checksums.IGNORED,
            ),
            ("gobackup/gobackup#268", "grafana/mimir#7512", "vrtmrz/obsidian-livesync#707"),
            "it ignores headers about checksums; the rule of its ETags",
        ),
        "old-ceph": Dialect(
            "Ceph RGW",
            Quirks(checksums=Checksums.IGNORED, empty_etag=True, unquoted_match=True),
            ("Ceph RGW 16.2, as measured on the real server", "ceph/ceph#49986"),
        ),
        "ovh": Dialect(
            "OVHcloud Object Storage",
            Quirks(
                refusals=(
                    Refusal(
                        "x-amz-*checksum-*",
                        PUT | CREATE | PART,
                        501,
                        "NotImplemented",
                        "Header {header} is not supported.",
                    ),
                ),
                checksums=Checksums.IGNORED,
            ),
            ("ovh/public-cloud-roadmap#781", "ovh/public-cloud-roadmap#700"),
            "status, code and text of the refusal",
        ),
        "swift": Dialect(
            "OpenStack Swift",
            Quirks(
                refusals=(
                    Refusal(
                        "x-amz-checksum-crc64nvme",
                        PUT | PART,
                        501,
                        "NotImplemented",
                        "The {header} algorithm is not supported.",
                    ),
                    Refusal(
                        "x-amz-checksum-algorithm",
                        CREATE,
                        501,
                        "NotImplemented",
                        "The {value} algorithm is not supported.",
                    ),
                    Refusal("x-amz-sdk-checksum-algorithm", PUT | PART, *_IMPLIES),
                    Refusal("if-match", MAKES_OBJECT, *_IMPLIES),
                ),
                checksums=Checksums.IGNORED,
            ),
            (
                "OpenStack Swift: change Id39fd71bc59875a5b88d1d012542136acf880019, S3 checksums",
                "ceph/s3-tests#218",
                "apache/opendal#7208",
            ),
            "the texts; that If-Match of writes is refused and not ignored",
        ),
        "garage": Dialect(
            "Garage",
            Quirks(
                refusals=(Refusal("x-amz-acl", ACL, *_IMPLIES),),
                checksums=Checksums.IGNORED,
                acl_heeded=False,
                public=True,
            ),
            ("Garage: Reference manual, S3 Compatibility status",),
            "headers that it does not implement are ignored",
        ),
        "seaweedfs": Dialect(
            "SeaweedFS",
            Quirks(etag=Etag.OWN_RULE, checksums=Checksums.COMPOSITE),
            ("seaweedfs/seaweedfs#10235", "seaweedfs/seaweedfs#2512", "seaweedfs/seaweedfs#9768"),
        ),
        "minio": Dialect(
            "MinIO",
            Quirks(refusals=(Refusal("x-amz-acl", ACL, *_IMPLIES),), acl_heeded=False, public=True),
            ("minio/minio#6959", "minio/minio#4093"),
        ),
        "versitygw": Dialect(
            "Versity S3 Gateway",
            Quirks(
                refusals=(Refusal("x-amz-acl", DESCRIBES_OBJECT | ACL, *_IMPLIES),),
                public=True,
                make="VERSITYGW",
            ),
            (
                "versity/versitygw#1767",
                "versity/versitygw#1783",
                "versity/versitygw#1904",
                "versity/versitygw: s3api/server.go, ServerHeader",
            ),
            "only releases of January to March 2026 refuse it (versity/versitygw#1911)",
        ),
        "wasabi": Dialect(
            "Wasabi",
            Quirks(
                refusals=(
                    Refusal(
                        "x-amz-acl",
                        DESCRIBES_OBJECT | ACL,
                        403,
                        "AccessDenied",
                        "Public use of objects is not allowed by default.",
                        value="public-read",
                    ),
                ),
                checksums=Checksums.IGNORED,
                public=True,
            ),
            ("Wasabi: Bucket and Object Access",),
            "the code and text of the refusal; it ignores headers about checksums",
        ),
        "spaces": Dialect(
            "DigitalOcean Spaces",
            Quirks(checksums=Checksums.IGNORED, empty_etag=True),
            ("matrix-org/synapse-s3-storage-provider#126",),
            "it keeps no CRC64NVME and answers as Ceph does, on which it is built",
        ),
        "hetzner": Dialect(
            "Hetzner Object Storage",
            Quirks(checksums=Checksums.IGNORED, empty_etag=True, unquoted_match=True),
            (
                "Hetzner: Object Storage, FAQ, Buckets & objects",
                "TheOrcDev/videorc#369",
                "home-assistant/core#144015",
                "vmware-tanzu/velero#8660",
            ),
            "it answers as Ceph does, on which it is built, in all but the reported lack of checksums",
        ),
        "scaleway": Dialect(
            "Scaleway Object Storage",
            Quirks(max_parts=1_000),
            (
                "Scaleway: Object Storage, Supported checksums and Managing multipart uploads",
                "ddebeau/zfs_uploader#61",
                "tus/tus-node-server#711",
                "earth-mover/icechunk#2094",
            ),
            "it compares the checksums that it documents, and differs in nothing but the number of parts",
        ),
        "rclone": Dialect(
            "rclone serve s3",
            Quirks(
                etag=Etag.MD5_OF_WHOLE,
                checksums=Checksums.BELIEVED,
                conditions=False,
                acl_heeded=False,
                anonymous_status=400,
                no_uploads=True,
            ),
            ("rclone 1.75, as measured on the real server", "rclone: rclone serve s3"),
        ),
    }
)
"""By a short name; two of them may be of one provider."""
