"""What is done when a confirmed object turns out to be gone: it is uploaded again from the local copy."""

from __future__ import annotations

import structlog

from db import State, Upload
from storage import Confirmation
from watcher.errors import Code, FailureKind, StageError
from watcher.stages.context import StageContext
from watcher.telemetry.logging import row_context

log = structlog.get_logger()


def ensure_reuploadable(context: StageContext, upload: Upload, confirmation: Confirmation) -> None:
    """Make sure that an object which is not the upload's any more can and may be uploaded again.

    Raises StageError: with the code OBJECT_REPLACED if what is there is a later upload's, with OBJECT_LOST
    if the local copy is gone as well; `TreeError` if that cannot be told; `db.DatabaseError`.
    """
    if confirmation.etag and (later := context.ledger.replaced_by(upload, confirmation.etag)):
        raise StageError(
            FailureKind.OBJECT,
            Code.OBJECT_REPLACED,
            f"{confirmation.detail} It is that of upload {later.id} of {later.instance}, which came "
            "later for the same video and file name. The local copy is kept.",
        )
    if context.tree.stat(upload.path) is None:
        raise StageError(
            FailureKind.OBJECT,
            Code.OBJECT_LOST,
            f"{confirmation.detail} The local copy is gone, too: restore one of the two.",
        )


def requeue_lost(context: StageContext, upload: Upload, confirmation: Confirmation) -> None:
    """Give the rows their local URL again and make the upload pending: both or neither.

    For an object that is recoverable. Raises `db.ClaimLostError` if somebody else took the upload meanwhile.
    """
    with context.database.transaction("take a lost object back"):
        context.catalog.revert_to_local_url(
            upload,
            public_url=context.naming.public_url(upload),
            local_url=context.naming.local_url(upload),
        )
        context.ledger.advance(upload, State.PENDING, detail="the object was lost", error=confirmation.detail)
    log.error("object_lost", reason=confirmation.detail, **row_context(upload))
    context.signals.wake_stage(State.PENDING)
