"""The schema's constraints reject rows that the code must never write."""

import pytest

from db import ClaimLostError, Database, DatabaseError, ErrorKind, Ledger, OwnCatalog, State
from tests.support.databases import LOCAL_URL, PUBLIC_URL, advance_to, enqueue


def write(database: Database, table: str, assignments: str) -> None:
    """Update every row of a table with plain SQL."""
    prefix = f'"{database.schema}".' if database.schema else ""
    with database.operation(f"write {assignments}") as connected:
        connected.execute_sql(f"UPDATE {prefix}{table} SET {assignments}")


ILLEGAL: list[tuple[State, str]] = [
    (State.PENDING, "state = 'uploaded'"),
    (State.PENDING, "state = 'verified'"),
    (State.PENDING, "state = 'published'"),
    (State.PENDING, "state = 'released'"),
    (State.PENDING, "state = NULL"),
    (State.PENDING, "attempts = -1"),
    (State.PENDING, "size = -1"),
    (State.PENDING, "confirmed_by = 'size'"),
    (State.VERIFIED, "state = 'published'"),
    (State.VERIFIED, "state = 'released'"),
    (State.VERIFIED, "checksum = NULL"),
    (State.VERIFIED, "verified_at = NULL"),
    (State.VERIFIED, "object_key = ''"),
    (State.PUBLISHED, "state = 'released'"),
    (State.PUBLISHED, "url = NULL"),
    (State.PUBLISHED, "published_at = NULL"),
    (State.PUBLISHED, "checksum = NULL"),
    (State.RELEASED, "released_at = NULL"),
    (State.RELEASED, "url = NULL"),
    (State.RELEASED, "verified_at = NULL"),
]


@pytest.mark.parametrize(("state", "assignments"), ILLEGAL)
def test_an_illegal_row_cannot_be_written_by_hand(
    database: Database, ledger: Ledger, state: State, assignments: str
) -> None:
    upload = advance_to(ledger, enqueue(ledger), state)
    with pytest.raises(DatabaseError) as caught:
        write(database, "uploads", assignments)
    assert caught.value.kind is ErrorKind.OBJECT
    assert ledger.current(upload.path) == upload


def test_a_row_that_was_moved_by_hand_is_not_written_over(database: Database, ledger: Ledger) -> None:
    upload = enqueue(ledger)
    write(database, "uploads", "state = 'gone'")
    with pytest.raises(ClaimLostError):
        ledger.advance(upload, State.FAILED)


def test_a_path_cannot_have_two_live_uploads(database: Database, ledger: Ledger) -> None:
    enqueue(ledger)
    enqueue(ledger)
    with pytest.raises(DatabaseError) as caught:
        write(database, "uploads", "state = 'pending'")
    assert caught.value.kind is ErrorKind.OBJECT


def test_another_instance_may_have_the_same_path(database: Database, ledger: Ledger) -> None:
    mine, theirs = enqueue(ledger), enqueue(Ledger(database, "other"))
    assert mine.path == theirs.path
    assert {mine.state, theirs.state} == {State.PENDING}


def test_an_event_needs_its_upload(database: Database, ledger: Ledger) -> None:
    enqueue(ledger)
    with pytest.raises(DatabaseError) as caught:
        write(database, "upload_events", "upload_id = 4711")
    assert caught.value.kind is ErrorKind.OBJECT


@pytest.mark.parametrize("assignments", ["quality = '4320p'", "status = 'done'", "url = NULL"])
def test_the_catalog_keeps_the_compressors_checks(
    database: Database, ledger: Ledger, catalog: OwnCatalog, assignments: str
) -> None:
    catalog.announce(enqueue(ledger), local_url=LOCAL_URL, public_url=PUBLIC_URL)
    with pytest.raises(DatabaseError) as caught:
        write(database, "video_qualities", assignments)
    assert caught.value.kind is ErrorKind.OBJECT


def test_a_video_has_one_default_quality(database: Database, ledger: Ledger, catalog: OwnCatalog) -> None:
    for quality in ("480p", "720p"):
        upload = enqueue(ledger, quality, quality=quality)
        catalog.announce(upload, local_url=f"file:///{quality}", public_url=f"https://s3/{quality}")
    with pytest.raises(DatabaseError) as caught:
        write(database, "video_qualities", "is_default = TRUE")
    assert caught.value.kind is ErrorKind.OBJECT


COLUMNS = """
    id video_id quality url file_size bitrate resolution_width resolution_height codec container duration
    is_default status fps pixel_format color_space color_range audio_codec audio_bitrate audio_sample_rate
    audio_channels aspect_ratio frame_count encoding_time processing_started_at processing_completed_at
    created_at updated_at
"""


def test_the_catalog_has_the_compressors_columns(database: Database) -> None:
    with database.operation("read the columns") as connected:
        columns = connected.get_columns("video_qualities", schema=database.schema)
    assert [column.name for column in columns] == COLUMNS.split()
