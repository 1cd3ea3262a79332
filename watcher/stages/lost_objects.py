"""Uploads a confirmed object that S3 has lost again, from the local copy."""

from __future__ import annotations

import structlog

from db import State, Upload
from storage import Confirmation
from watcher.errors import Code, FailureKind, StageError
from watcher.stages.context import StageContext
from watcher.telemetry import row_context

log = structlog.get_logger()


def ensure_reuploadable(context: StageContext, upload: Upload, confirmation: Confirmation) -> None:
    """Check that an object that is missing or differs can and may be uploaded again.

    Raises StageError with code OBJECT_REPLACED if the object is that of a later upload, with OBJECT_LOST if
    the local copy is missing, too; `TreeError` if the copy cannot be examined; `db.DatabaseError`.
    """
    if confirmation.etag and (later := context.ledger.replaced_by(upload, confirmation.etag)):
        raise StageError(
            FailureKind.OBJECT,
            Code.OBJECT_REPLACED,
            f"{confirmation.detail} It belongs to upload {later.id} of {later.instance}, a later one "
            "of the same video and file name. The local copy is kept.",
        )
    if context.tree.stat(upload.path) is None:
        raise StageError(
            FailureKind.OBJECT,
            Code.OBJECT_LOST,
            f"{confirmation.detail} The local copy is missing, too: restore one of the two.",
        )


def requeue_lost(context: StageContext, upload: Upload, confirmation: Confirmation) -> None:
    """Restore the local URL in the catalog rows and make the upload pending, in one transaction.

    Call `ensure_reuploadable` first. Raises `db.ClaimLostError` if another worker claimed the upload.
    """
    with context.database.transaction("requeue a lost object"):
        context.catalog.revert_to_local_url(
            upload,
            public_url=context.naming.public_url(upload),
            local_url=context.naming.local_url(upload),
        )
        context.ledger.advance(upload, State.PENDING, detail="the object was lost", error=confirmation.detail)
    log.error("object_lost", reason=confirmation.detail, **row_context(upload))
    context.signals.wake_stage(State.PENDING)
