"""Recognizes the objects that uploads of this ledger wrote, also without a receipt or a local copy."""

from __future__ import annotations

from collections.abc import Mapping

from db import Ledger, Upload
from storage import Confirmation, ObjectHead, ObjectStore, Verdict, compare


def metadata_of(upload: Upload) -> Mapping[str, str]:
    """The user metadata that an upload gives its object."""
    return {
        "video-id": upload.video_id,
        "quality": upload.quality,
        "source-mtime": str(upload.mtime_ns),
    }


def is_described(head: ObjectHead) -> bool:
    """Whether an object has the metadata that this program gives its objects."""
    return {"video-id", "quality", "source-mtime"} <= head.metadata.keys()


def is_own(ledger: Ledger, key: str, head: ObjectHead) -> bool:
    """Whether an upload of this ledger, of any instance, wrote an object, or would have written it.

    An answer of S3 or a claim can be lost after the object was written, so that no receipt was recorded. The
    checksum of a file is recorded before it is sent; the metadata tells where a server keeps no checksums.
    """
    return any(
        head.etag == upload.etag or (head.size == upload.size and _has_content_of(head, upload))
        for upload in ledger.uploads_of_key(key, all_instances=True)
    )


def confirm_without_copy(store: ObjectStore, upload: Upload) -> Confirmation:
    """Compare the object with what the ledger knows of an upload whose local file is missing.

    The checksum in the row decides; in a row without one, the size and the metadata that only an upload of
    this very file gives. The receipt of an object that agrees has a checksum, or the ETag in the row.
    Raises `StorageError`.
    """
    key = upload.object_key
    head = store.head(key)
    if head is None:
        return Confirmation(Verdict.MISSING, f"There is no object {key!r}.")
    checksum = upload.checksum
    if checksum is None and metadata_of(upload).items() <= head.metadata.items():
        checksum = head.full_checksum
    if checksum is None:
        detail = f"Nothing proves that the object {key!r} has the content of the missing file."
        return Confirmation(Verdict.UNKNOWN, detail, head=head)
    return compare(head, size=upload.size, checksum=checksum, proven_etag=upload.etag)


def _has_content_of(head: ObjectHead, upload: Upload) -> bool:
    if head.full_checksum is not None and upload.checksum is not None:
        return head.full_checksum == upload.checksum
    return metadata_of(upload).items() <= head.metadata.items()
