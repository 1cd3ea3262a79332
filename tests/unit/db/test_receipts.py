"""A released upload is folded into a receipt of few bytes; every question has the same answer as before."""

from __future__ import annotations

import random
import sqlite3
from base64 import b64encode
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from db import Database, Identity, IllegalTransitionError, Ledger, Publications, State, Upload, migrate
from db.fields import Dialect
from db.ledger_reader import PAGE
from db.records import (
    RECEIPT_COLUMNS,
    UPLOAD_COLUMNS,
    CatalogRow,
    UploadEvent,
    pack_receipt,
    receipt_events,
    unpack_receipt,
)
from tests.support.databases import (
    LEASE,
    Clock,
    DatabaseAddress,
    advance_to,
    claim,
    enqueue,
    only,
)

MAX_BYTES = 400
"""What a released upload may take on the disk, its events and indexes included."""
QUALITIES = ("360p", "480p", "720p", "1080p", "2160p")


def fold_all(ledger: Ledger, at_once: int = 50) -> int:
    """Fold until nothing is left to fold."""
    folded = 0
    while found := ledger.receipts.fold(at_once):
        folded += found
    return folded


def release(ledger: Ledger, path: str, **changes: Any) -> Upload:
    return advance_to(ledger, enqueue(ledger, path, **changes), State.RELEASED)


@pytest.fixture
def released(ledger: Ledger, clock: Clock) -> Upload:
    """A released upload that was folded; another one is newer."""
    upload = release(ledger, "v/folded_720p.mp4")
    clock.advance(seconds=5)
    enqueue(ledger, "v/newest_720p.mp4")
    assert fold_all(ledger) == 1
    return upload


def test_no_column_is_lost_with_a_receipt() -> None:
    kept_apart = {"id", "instance", "video_id", "state"}
    never_set = {"claimed_by", "claimed_until", "multipart_id"}
    assert {*RECEIPT_COLUMNS} == UPLOAD_COLUMNS.keys() - kept_apart - never_set
    assert len({*RECEIPT_COLUMNS}) == len(RECEIPT_COLUMNS)


def test_a_receipt_holds_every_value_and_event(ledger: Ledger, clock: Clock) -> None:
    upload = release(ledger, "v/ü '\"\\ \n_720p.mp4", identity=Identity(2**64 - 1, 2**63, 0, -1, 7))
    events = [*ledger.events(upload.id), UploadEvent(clock.advance(days=-9), "postponed", "é\x01" * 9)]
    content = pack_receipt(upload, events)
    unpacked, told = unpack_receipt(upload.id, upload.instance, upload.video_id, content)
    assert unpacked == upload
    assert receipt_events(unpacked, told) == events


def answers(ledger: Ledger, uploads: list[Upload]) -> list[object]:
    """What the ledger says of the uploads, by every one of its questions."""
    keys = sorted({upload.object_key for upload in uploads})
    paths = sorted({upload.path for upload in uploads})
    videos = sorted({upload.video_id for upload in uploads})
    of_each = [
        [
            ledger.events(upload.id),
            ledger.current(upload.path),
            ledger.key_conflict(upload),
            ledger.replaces_other_content(upload),
            ledger.other_content_for_row(upload),
            ledger.replaced_by(upload, "e"),
            ledger.uploads(ids=[upload.id]),
        ]
        for upload in uploads
    ]
    return [
        of_each,
        ledger.uploads(),
        ledger.uploads(limit=3),
        [ledger.uploads(state=state) for state in State],
        [ledger.uploads(path=path) for path in paths],
        [ledger.uploads(video_id=video_id) for video_id in videos],
        ledger.uploads(all_instances=True, path=paths[0]),
        list(ledger.iter_uploads()),
        list(ledger.iter_uploads(newest_first=True)),
        list(ledger.iter_uploads(newest_first=True, state=State.RELEASED, video_id=videos[0])),
        list(ledger.iter_in_states([State.PUBLISHED, State.RELEASED])),
        ledger.latest(State.RELEASED, 5),
        ledger.page(20),
        ledger.page(20, before=30, text="V/"),
        ledger.current_many(paths),
        ledger.counts(),
        ledger.sizes(),
        ledger.counts_by_instance(),
        ledger.last_admitted(),
        [ledger.uploads_of_key(key) for key in keys],
        [ledger.uploads_of_key(key, all_instances=True) for key in keys],
        ledger.latest_verified_ids(keys),
        ledger.known_keys([*keys, "another"]),
        [ledger.urls_of_path(path) for path in paths],
        ledger.urls_of_paths(paths),
    ]


def test_every_question_has_the_same_answer_after_folding(
    database: Database, ledger: Ledger, clock: Clock
) -> None:
    """Paths and keys with several uploads, rows of a catalog, another instance, uploads in every state."""
    chosen = random.Random(3)
    other = Ledger(database, "other", clock=clock)
    with database.session():
        for number in range(60):
            clock.advance(seconds=1)
            name = f"v{chosen.randrange(4)}/c_{chosen.choice(QUALITIES)}.mp4"
            of = other if number % 7 == 0 else ledger
            key = f"videos/{chosen.choice((name, 'v/one_720p.mp4'))}"
            upload = enqueue(of, name, object_key=key, video_id=str(UUID(int=chosen.randrange(4))))
            if number % 3:
                row = f"{UUID(int=number)}"
                upload = only(claim(of, limit=1))
                of.admit(
                    upload,
                    {
                        "catalog_row_id": row,
                        "catalog_row_at": clock(),
                        "filename": upload.filename,
                        "quality": upload.quality,
                        "object_key": upload.object_key,
                    },
                )
                upload = only(of.uploads(ids=[upload.id]))
            state = chosen.choice((*State, *[State.RELEASED] * 9))
            if state is not State.SUPERSEDED:
                advance_to(of, upload, state)
        enqueue(ledger, "v/newest_720p.mp4")
        uploads = ledger.uploads(all_instances=True)
        before = [answers(of, uploads) for of in (ledger, other)]
        assert fold_all(ledger, 7) > 20
        assert fold_all(other, 7) > 2
        after = [answers(of, uploads) for of in (ledger, other)]
    for expected, found in zip(before, after, strict=True):
        for question, answer in enumerate(expected):
            assert found[question] == answer, question


def test_pages_of_uploads_and_receipts_are_complete_and_in_order(
    database: Database, ledger: Ledger, clock: Clock
) -> None:
    count = 2 * PAGE + 20
    insert_released(ledger, count, clock())
    uploads = database.tables.uploads
    with database.transaction():
        in_place = [*range(1, PAGE // 2), *range(PAGE // 2, count, 3)]
        uploads.update(state=State.PUBLISHED).where(uploads.id.in_(in_place)).execute()
    fold_all(ledger, 500)
    assert [upload.id for upload in ledger.iter_uploads()] == [*range(1, count + 1)]
    assert [upload.id for upload in ledger.iter_uploads(newest_first=True)] == [*range(count, 0, -1)]


@pytest.mark.parametrize("is_claimed", [True, False])
def test_what_is_in_use_is_not_folded(ledger: Ledger, is_claimed: bool) -> None:
    """A claimed upload, and the newest one, from which SQLite numbers the next."""
    upload = release(ledger, "v/a_720p.mp4")
    if is_claimed:
        enqueue(ledger)
        assert ledger.claim_one(upload.id, lease=LEASE) is not None
    assert fold_all(ledger) == 0
    following = enqueue(ledger, "v/c_720p.mp4")
    assert following.id > upload.id


def test_a_folded_upload_can_be_changed_and_is_folded_again(
    ledger: Ledger, clock: Clock, released: Upload
) -> None:
    before = ledger.events(released.id)
    counts = ledger.counts(), ledger.sizes()
    ledger.append_event(released.id, "noted", "something")
    moved = ledger.update_identity(released, Identity(1, 2, released.size, 4, 5))
    assert moved.identity.is_exactly(Identity(1, 2, released.size, 4, 5))
    assert ledger.current(released.path) == moved == only(ledger.uploads(path=released.path))
    assert [event.event for event in ledger.events(released.id)] == [
        *(event.event for event in before),
        "noted",
        "identity",
    ]
    assert (ledger.counts(), ledger.sizes()) == counts
    told = ledger.events(released.id)
    assert fold_all(ledger) == 1
    assert ledger.current(released.path) == moved
    assert ledger.events(released.id) == told
    assert (ledger.counts(), ledger.sizes()) == counts


def test_the_file_of_a_folded_upload_can_be_repaired_under_a_claim(ledger: Ledger, released: Upload) -> None:
    claimed = ledger.claim_one(released.id, lease=LEASE)
    assert claimed is not None
    assert claimed.identity == released.identity
    assert ledger.claim_one(released.id, lease=LEASE) is None
    assert fold_all(ledger) == 0
    ledger.release_claim(claimed)
    assert fold_all(ledger) == 1


def test_a_folded_upload_does_not_become_pending(ledger: Ledger, released: Upload) -> None:
    with pytest.raises(IllegalTransitionError):
        ledger.reopen(released.id, reason="by mistake")


def test_a_receipt_notes_the_newer_row_that_shows_its_object(ledger: Ledger, clock: Clock) -> None:
    upload = release(ledger, "v/a_720p.mp4")
    enqueue(ledger)
    fold_all(ledger)
    row = CatalogRow(
        id=str(UUID(int=9)),
        video_id=upload.video_id,
        quality="720p",
        url="file:///a",
        status="ready",
        file_size=None,
        created_at=clock(),
        updated_at=clock(),
    )
    ledger.note_newer_row(upload, row)
    fold_all(ledger)
    assert only(ledger.uploads(ids=[upload.id])).catalog_row_id == row.id


def test_events_that_are_folded_are_bounded(database: Database, ledger: Ledger, released: Upload) -> None:
    for turn in range(3):
        with database.transaction():
            for number in range(60):
                ledger.append_event(released.id, "noted", f"{turn} {number}")
        fold_all(ledger)
    told = ledger.events(released.id)
    assert len(told) == 100
    assert (told[0].event, told[-1].detail) == ("discovered", "2 59")


def test_an_interrupted_fold_changes_nothing(
    database: Database, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends it, the transaction is the only thing that it does."""
    upload = release(ledger, "v/a_720p.mp4")
    enqueue(ledger)
    before, told = ledger.uploads(), ledger.events(upload.id)
    with monkeypatch.context() as patched:
        patched.setattr(ledger.receipts, "_count", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ledger.receipts.fold(10)
    assert (ledger.uploads(), ledger.events(upload.id)) == (before, told)
    assert ledger.receipts.page(10) == []


def test_receipts_expire_by_the_day_of_the_release(
    database: Database, ledger: Ledger, clock: Clock, released: Upload
) -> None:
    receipts, counts, sizes = ledger.receipts, ledger.counts(), ledger.sizes()
    now = clock.advance(days=30)
    assert receipts.expired(now - timedelta(days=30), after=0, limit=9) == []
    expired = receipts.expired(now - timedelta(days=29), after=0, limit=9)
    assert expired == [released]
    assert Ledger(database, "other", clock=clock).receipts.expired(now, after=0, limit=9) == []
    assert receipts.expired(now, after=released.id, limit=9) == []
    assert receipts.delete(expired) == 1
    assert ledger.current(released.path) is None
    assert ledger.events(released.id) == []
    assert ledger.counts() == counts | {State.RELEASED: counts[State.RELEASED] - 1}
    assert ledger.sizes() == sizes | {State.RELEASED: sizes[State.RELEASED] - released.size}


def test_a_receipt_that_is_needed_does_not_expire(
    database: Database, ledger: Ledger, clock: Clock, released: Upload
) -> None:
    """The catalog's row shows its object, or it was unfolded since."""
    receipts = ledger.receipts
    now = clock.advance(days=30)
    row = CatalogRow(
        id=str(UUID(int=9)),
        video_id=released.video_id,
        quality="720p",
        url="file:///a",
        status="ready",
        file_size=None,
        created_at=now,
        updated_at=now,
    )
    publications = Publications(database, ledger.instance)
    publications.record(row, released, "https://a", now)
    assert receipts.expired(now, after=0, limit=9) == []
    assert receipts.delete([released]) == 0
    publications.delete_of_upload(released)
    assert receipts.expired(now, after=0, limit=9) == [released]
    ledger.append_event(released.id, "noted", "")
    assert receipts.delete([released]) == 0
    assert ledger.current(released.path) == released


def insert_released(ledger: Ledger, count: int, at: datetime) -> None:
    """Released uploads with the values and events that a daemon gives them."""
    chosen = random.Random(1)
    tables, video_id = ledger.database.tables, ""
    uploads, events = [], []
    for number in range(1, count + 1):
        video_id = str(UUID(int=chosen.getrandbits(128), version=4)) if number % 5 == 1 else video_id
        path = f"{video_id}/clip_{number // 5}_{QUALITIES[number % 5]}.mp4"
        times = [at + timedelta(microseconds=number * 7919 + step * 86413) for step in range(4)]
        uploads.append(
            {
                "id": number,
                "instance": ledger.instance,
                "path": path,
                "video_id": video_id,
                "filename": f"clip_{number // 5}.mp4",
                "quality": QUALITIES[number % 5],
                "device": 2049,
                "inode": 10**6 + number,
                "size": 65536 + number,
                "mtime_ns": 1_700_000_000_000_000_000 + chosen.getrandbits(50),
                "ctime_ns": 1_700_000_000_000_000_000 + chosen.getrandbits(50),
                "checksum": b64encode(chosen.randbytes(8)).decode(),
                "etag": chosen.randbytes(16).hex(),
                "expected_etag": chosen.randbytes(16).hex(),
                "confirmed_by": "checksum",
                "object_key": f"videos/{path}",
                "url": f"https://bucket.s3.eu-central-1.amazonaws.com/videos/{path}",
                "state": State.RELEASED,
                "claim": 4,
                "bytes_sent": 65536 + number,
                **dict(
                    zip(("discovered_at", "verified_at", "published_at", "released_at"), times, strict=True)
                ),
                "changed_at": times[3],
                "due_at": times[3],
            }
        )
        uploads[-1]["expected_etag"] = uploads[-1]["etag"]
        told = (
            ("discovered", f"{65536 + number} bytes at {path}"),
            ("verified", "confirmed by checksum"),
            ("published", uploads[-1]["url"]),
            ("released", "the local copy was removed"),
        )
        events += [
            {"upload": number, "at": time, "event": event, "detail": detail}
            for time, (event, detail) in zip(times, told, strict=True)
        ]
    with ledger.database.transaction():
        for start in range(0, count, 200):
            tables.uploads.insert_many(uploads[start : start + 200]).execute()
            tables.events.insert_many(events[4 * start : 4 * (start + 200)]).execute()
    ledger.add_up_counts()


@pytest.mark.long
def test_a_released_upload_takes_few_bytes(address: DatabaseAddress, clock: Clock) -> None:
    """Table, indexes and events, beyond those of an empty ledger; free pages are used again."""
    count = 5_000
    with closing(address.open()) as database:
        migrate(database)
        empty = bytes_used(database)
        ledger = Ledger(database, "host.example.org")
        insert_released(ledger, count, clock())
        assert fold_all(ledger, 200) == count - 1
        ledger.add_up_counts()
        assert (bytes_used(database) - empty) / count <= MAX_BYTES


def bytes_used(database: Database) -> int:
    """The bytes of all pages that hold something: of the file, or of the receipts on a server."""
    if database.dialect is Dialect.SQLITE:
        assert database.server is not None
        with closing(sqlite3.connect(database.server)) as connection:
            found = [
                int(connection.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("page_count", "freelist_count", "page_size")
            ]
        return (found[0] - found[1]) * found[2]
    with database.operation("measure the table") as connected:
        assert database.tables.uploads.select().count() <= 1
        assert database.tables.events.select().count() <= 4
        table = f'"{database.schema}".receipts'
        return int(connected.execute_sql("SELECT pg_total_relation_size(%s)", (table,)).fetchone()[0])
