"""What an upload records of an object that was written and is not confirmed yet."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from db import State
from storage import Sent
from tests.support.databases import claim, enqueue, only
from tests.support.harness import Harness
from watcher.stages.context import StageContext
from watcher.stages.runner import Work
from watcher.stages.upload_progress import UploadProgress

ETAG, OTHER_ETAG = "e" * 32, "f" * 32


@pytest.mark.parametrize(
    ("etag", "compares", "part_size", "is_recorded"),
    [
        (ETAG, False, None, False),
        (OTHER_ETAG, False, None, True),
        (OTHER_ETAG, True, None, False),
        (OTHER_ETAG, True, 5 * 2**20, True),
    ],
)
def test_an_etag_is_recorded_at_once_unless_the_row_tells_the_object_without_it(
    harness: Harness, etag: str, compares: bool, part_size: int | None, is_recorded: bool
) -> None:
    """By its checksum, where the server compares it, or as the one expected; unconfirmed, always."""
    ledger = harness.app.ledger
    enqueue(ledger)
    upload = ledger.record(only(claim(ledger)), checksum="AAAAAAAAAAA=", expected_etag=ETAG)
    store = SimpleNamespace(is_known_to_compare=compares)
    context = cast("StageContext", SimpleNamespace(ledger=ledger, store=store))
    progress = UploadProgress(context, upload, cast("Work", cast("Any", None)), lambda: 0.0)
    progress.sent(Sent(etag, None, part_size))
    assert (only(ledger.uploads(state=State.PENDING)).etag is not None) is is_recorded
    progress.record_unconfirmed()
    assert only(ledger.uploads(state=State.PENDING)).etag == etag
