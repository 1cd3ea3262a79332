"""What is done when a confirmed object turns out to be gone: it is uploaded again from the local copy."""

from __future__ import annotations

import structlog

from db import State, Upload
from storage import Confirmation
from watcher.errors import OBJECT_LOST, OBJECT_REPLACED, Kind, SetbackError
from watcher.stages.context import Services
from watcher.telemetry.logging import row_context

log = structlog.get_logger()


def require_recoverable(services: Services, upload: Upload, confirmation: Confirmation) -> None:
    """Make sure that an object which is not the upload's any more can and may be uploaded again.

    Raises SetbackError: with the code OBJECT_REPLACED if what is there is a later upload's, with OBJECT_LOST
    if the local copy is gone as well; `TreeError` if that cannot be told; `db.DatabaseError`.
    """
    if confirmation.etag and (later := services.ledger.replaced_by(upload, confirmation.etag)):
        raise SetbackError(
            Kind.OBJECT,
            OBJECT_REPLACED,
            f"{confirmation.detail} It is that of upload {later.id} of {later.instance}, which came "
            "later for the same video and file name. The local copy is kept.",
        )
    if services.tree.stat(upload.path) is None:
        raise SetbackError(
            Kind.OBJECT,
            OBJECT_LOST,
            f"{confirmation.detail} The local copy is gone, too: restore one of the two.",
        )


def take_back(services: Services, upload: Upload, confirmation: Confirmation) -> None:
    """Give the rows their local URL again and make the upload pending: both or neither.

    For an object that is recoverable. Raises `db.ClaimLostError` if somebody else took the upload meanwhile.
    """
    with services.database.transaction("take a lost object back"):
        services.catalog.withdraw(
            upload,
            public_url=services.naming.public_url(upload),
            local_url=services.naming.local_url(upload),
        )
        services.ledger.advance(
            upload, State.PENDING, detail="the object was lost", error=confirmation.detail
        )
    log.error("object_lost", reason=confirmation.detail, **row_context(upload))
    services.wake(State.PENDING)
