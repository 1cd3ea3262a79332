"""What is about to be sent is hashed, each time anew, and must be what was hashed before."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from db import State, Upload
from storage import SourceFile
from watcher.errors import Code
from watcher.stages.context import StageContext
from watcher.stages.runner import Work

log = structlog.get_logger()


def ensure_checksum(context: StageContext, upload: Upload, source: SourceFile, work: Work) -> Upload | None:
    """The upload with the checksum of its file; None if the file is damaged, and the row has failed for it.

    What the ledger remembers may be of before a power cut: other content under the same size, time and inode
    is nothing an encoder wrote.
    """
    checksum = source.checksum(_beating(work))
    if checksum == upload.checksum:
        return upload
    if upload.checksum is None:
        return _with_checksum(context, upload, checksum)
    reason = (
        "Its content is not what it was when it was hashed first, though size, time and inode are: a power"
        f" cut or a broken disk leaves that. Restore it, or retry {upload.id} to upload it as it is."
    )
    with context.database.transaction("record that a file is damaged"):
        # For a retry, what is there now counts: somebody has looked at it.
        now = _with_checksum(context, upload, checksum)
        context.ledger.advance(now, State.FAILED, error=reason, error_code=Code.LOCAL_DAMAGED)
    log.error("upload_failed", code=Code.LOCAL_DAMAGED, reason=reason)
    return None


def abort_multipart(context: StageContext, upload: Upload) -> None:
    """Abort what an earlier attempt began, unless another daemon goes on with it by now."""
    if upload.multipart_id is not None:
        context.ledger.require_claim(upload)
        context.store.abort(upload.object_key, upload.multipart_id)


def _with_checksum(context: StageContext, upload: Upload, checksum: str) -> Upload:
    abort_multipart(context, upload)
    return context.ledger.record(upload, checksum=checksum, multipart_id=None, part_size=None)


def _beating(work: Work) -> Callable[[], bool]:
    """The question whether to stop, whose being asked is a sign of progress."""

    def stopped() -> bool:
        work.beat()
        return work.stopped()

    return stopped
