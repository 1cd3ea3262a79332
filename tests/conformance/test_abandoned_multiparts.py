"""Abandoned multipart uploads on a real ledger and each server: which are adopted, aborted or kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from db import Identity, Ledger, State, Upload, migrate, open_database, sqlite_url
from storage import ObjectStore, StorageError
from tests.conformance.backends import Backend
from tests.support.fault_proxy import FaultProxy, s3_error
from watcher.stages.abandoned_multiparts import AbandonedMultiparts
from watcher.supervision.background_thread import Supervisor
from watcher.supervision.backoff import Backoff
from watcher.telemetry.metrics import Metrics

VIDEO_ID = "0b8e3f60-9d5c-4c1a-8f8e-3b1f0a7d2c11"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(open_database(sqlite_url(str(tmp_path / "ledger.sqlite3")))) as database:
        migrate(database)
        yield Ledger(database, "conformance")


@pytest.fixture
def abandoned_multiparts(ledger: Ledger, store: ObjectStore, prefix: str) -> AbandonedMultiparts:
    return AbandonedMultiparts(
        ledger=ledger,
        store=store,
        prefix=prefix,
        backoff=Backoff(),
        supervisor=Supervisor(Metrics()),
    )


def begin(backend: Backend, key: str) -> str:
    """Begin a multipart upload behind everybody's back."""
    return backend.client.create_multipart_upload(Bucket=backend.bucket, Key=key)["UploadId"]


def enqueue(ledger: Ledger, key: str, multipart_id: str | None = None) -> Upload:
    """A pending row for a key, which remembers a multipart upload."""
    upload = ledger.enqueue(
        key.rpartition("/")[2],
        video_id=VIDEO_ID,
        filename="my_video.mp4",
        quality="720p",
        object_key=key,
        identity=Identity(1, 2, 3, 4),
    )
    assert upload is not None
    return ledger.record(upload, multipart_id=multipart_id, part_size=8 * 1024 * 1024)


def still_open(store: ObjectStore, prefix: str) -> set[str]:
    return {found.upload_id for found in store.open_multiparts(prefix)}


def test_at_the_start_a_remembered_upload_stays_and_a_forgotten_one_of_our_key_goes(
    backend: Backend,
    abandoned_multiparts: AbandonedMultiparts,
    ledger: Ledger,
    store: ObjectStore,
    prefix: str,
) -> None:
    """One of a key without a row in this ledger belongs to another writer, and is never touched."""
    remembered = begin(backend, f"{prefix}/remembered.mp4")
    begin(backend, f"{prefix}/forgotten.mp4")
    foreign = begin(backend, f"{prefix}/foreign.mp4")
    enqueue(ledger, f"{prefix}/remembered.mp4", remembered)
    enqueue(ledger, f"{prefix}/forgotten.mp4")
    assert abandoned_multiparts.adopt_or_abort()
    assert still_open(store, prefix) == {remembered, foreign}


def test_what_a_row_left_open_when_it_ended_is_aborted_later(
    backend: Backend,
    abandoned_multiparts: AbandonedMultiparts,
    ledger: Ledger,
    store: ObjectStore,
    prefix: str,
) -> None:
    key = f"{prefix}/given_up.mp4"
    upload = enqueue(ledger, key, begin(backend, key))
    ledger.advance(upload, State.GONE, error="The file disappeared.", error_code="local-missing")
    assert abandoned_multiparts.abort_abandoned() == 1
    assert still_open(store, prefix) == set()
    assert abandoned_multiparts.abort_abandoned() == 0


def test_an_upload_that_a_policy_keeps_from_being_aborted_keeps_no_other_one_open(
    backend: Backend,
    abandoned_multiparts: AbandonedMultiparts,
    ledger: Ledger,
    store: ObjectStore,
    proxy: FaultProxy,
    prefix: str,
) -> None:
    """In what rows left open, and among those that no row names."""
    denied = begin(backend, f"{prefix}/denied.mp4")
    begin(backend, f"{prefix}/given_up.mp4")
    for name in ("denied", "given_up"):
        upload = enqueue(ledger, f"{prefix}/{name}.mp4", denied if name == "denied" else "forgotten")
        ledger.advance(upload, State.GONE, error="The file disappeared.", error_code="local-missing")
    proxy.fault = lambda request, forward: (
        s3_error(403, "AccessDenied")
        if request.method == "DELETE" and "denied" in request.path
        else forward()
    )
    with pytest.raises(StorageError, match="AccessDenied"):
        abandoned_multiparts.abort_abandoned()
    assert [upload.object_key for upload in ledger.abandoned_multiparts(10)] == [f"{prefix}/denied.mp4"]
    assert not abandoned_multiparts.adopt_or_abort()
    assert still_open(store, prefix) == {denied}
