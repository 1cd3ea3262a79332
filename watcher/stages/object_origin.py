"""Recognizes the objects that uploads of this ledger wrote, also without a receipt or a copy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import islice

import structlog

from db import DatabaseError, Ledger, State, Upload
from storage import Confirmation, ObjectHead, ObjectStore, StorageError, Verdict, compare

log = structlog.get_logger()

PROVEN_STATES = frozenset({State.VERIFIED, State.PUBLISHED, State.RELEASED})
MAX_LISTED = 500
MAX_EXAMINED = 10
"""How many of the listed objects that no row names are asked for their metadata."""

_MTIME, _LEDGER = "source-mtime", "ledger"


def metadata_of(ledger: Ledger, upload: Upload) -> Mapping[str, str]:
    """The user metadata that an upload gives its object."""
    return {**_described(upload), _LEDGER: _mark(ledger, upload)}


def is_described(head: ObjectHead) -> bool:
    """Whether an object has the metadata that this program gives its objects."""
    return {"video-id", "quality", _MTIME} <= head.metadata.keys()


def warn_of_unknown_objects(store: ObjectStore, ledger: Ledger, prefix: str) -> None:
    """Warn if this instance has no receipt yet, and S3 has objects of this program that no ledger row names.

    Looks at the first objects under the prefix only. To be called before anything is sent.
    """
    try:
        if next(ledger.iter_in_states(PROVEN_STATES), None) is not None:
            return
        keys = [entry.key for entry in islice(store.objects(prefix), MAX_LISTED)]
        known = ledger.known_keys(keys)
        for key in [key for key in keys if key not in known][:MAX_EXAMINED]:
            head = store.head(key)
            if head is not None and is_described(head):
                log.warning(
                    "ledger_empty",
                    key=key,
                    reason="The ledger has no receipt, and S3 has objects with this program's metadata.",
                    hint="If the ledger was lost, restore it, or stop this daemon and make it again from "
                    "bucket, catalog and disk: `video-uploader ledger rebuild --add`. If they are another "
                    "ledger's, all is well.",
                )
                return
    except (StorageError, DatabaseError) as exc:
        log.debug("objects_unexamined", reason=str(exc))


def is_own(ledger: Ledger, upload: Upload, head: ObjectHead) -> bool:
    """Whether uploads of this ledger, of any instance, wrote the object that the upload is to replace.

    Also where an upload would have written it: an answer of S3 or a claim can be lost after the object was
    written, so that no receipt was recorded. The checksum of a file is recorded before that can exist and, of
    a server that does not compare it, the ETag; the metadata tells where a server keeps no checksums, or the
    ledger was restored.
    """
    return _is_marked(ledger, upload, head) or any(
        head.etag in {other.etag, other.expected_etag}
        or (head.size == other.size and _has_content_of(head, other))
        for other in ledger.uploads_of_key(upload.object_key, all_instances=True)
    )


def confirm_without_copy(store: ObjectStore, upload: Upload) -> Confirmation:
    """Compare the object with what the ledger knows of an upload whose local file is missing.

    The checksum in the row decides; in a row without one, the size and the metadata that only an upload of
    this very file gives. The receipt of an object that agrees has a checksum, or an ETag in the row. Raises
    `StorageError`.
    """
    key = upload.object_key
    head = store.head(key)
    if head is None:
        return Confirmation(Verdict.MISSING, f"There is no object {key!r}.")
    checksum = upload.checksum
    if checksum is None and _described(upload).items() <= head.metadata.items():
        checksum = head.full_checksum
    if checksum is None:
        detail = f"Nothing proves that the object {key!r} has the content of the missing file."
        return Confirmation(Verdict.UNKNOWN, detail, head=head)
    # The expected ETag only proves: the same content can be sent in other parts.
    etag = head.etag if head.etag == upload.expected_etag else upload.etag
    return compare(
        head,
        size=upload.size,
        checksum=checksum,
        compares_checksums=store.compares_checksums,
        proven_etag=etag,
    )


def _described(upload: Upload) -> dict[str, str]:
    """The metadata that tells an upload's object from others, of older versions of this program, too."""
    return {"video-id": upload.video_id, "quality": upload.quality, _MTIME: str(upload.mtime_ns)}


def _mark(ledger: Ledger, upload: Upload) -> str:
    """What only the objects of this ledger have, each another: a copy of one under another key is foreign."""
    return hashlib.sha256(f"{ledger.token} {upload.object_key}".encode()).hexdigest()[:32]


def _is_marked(ledger: Ledger, upload: Upload, head: ObjectHead) -> bool:
    """Whether an upload of this ledger wrote an object, of the upload's file or of an older one.

    A copy of the ledger that another daemon uses has the same token; what it wrote later is not replaced.
    """
    expected = metadata_of(ledger, upload)
    try:
        is_older = int(head.metadata.get(_MTIME, "")) <= upload.mtime_ns
    except ValueError:
        return False
    return is_older and all(head.metadata.get(name) == expected[name] for name in expected.keys() - {_MTIME})


def _has_content_of(head: ObjectHead, upload: Upload) -> bool:
    if head.full_checksum is not None and upload.checksum is not None:
        return head.full_checksum == upload.checksum
    return _described(upload).items() <= head.metadata.items()
