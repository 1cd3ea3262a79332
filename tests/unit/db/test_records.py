"""Records are plain, immutable and ready for JSON."""

import json
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db import Identity, Ledger, State, Upload, format_time
from db.fields import parse_time
from tests.support.databases import VIDEO_ID, advance_to, enqueue

LISTED = """
    id video_id filename quality path device inode size mtime_ns checksum etag version_id object_key url state
    attempts due_at last_error instance claimed_by claim claimed_until multipart_id part_size bytes_sent
    discovered_at verified_at published_at released_at
"""


def test_an_upload_lists_itself_under_the_documented_names(ledger: Ledger) -> None:
    assert set(LISTED.split()) <= enqueue(ledger).as_dict().keys()


def test_an_upload_has_a_value_for_every_column_of_the_table_in_its_order(ledger: Ledger) -> None:
    columns = ledger.database.tables.uploads._meta.sorted_fields
    assert list(enqueue(ledger).as_dict()) == [column.name for column in columns]


def test_an_upload_survives_json(ledger: Ledger) -> None:
    upload = advance_to(ledger, enqueue(ledger), State.VERIFIED)
    listed = json.loads(json.dumps(upload.as_dict()))
    assert listed["state"] == "verified"
    assert listed["video_id"] == VIDEO_ID
    assert listed["verified_at"] == "2024-05-17T12:00:00.000000Z"
    assert listed["published_at"] is None
    assert Identity(*(listed[name] for name in ("device", "inode", "size", "mtime_ns"))) == upload.identity


def test_an_upload_cannot_be_changed(ledger: Ledger) -> None:
    upload: Upload = enqueue(ledger)
    with pytest.raises(FrozenInstanceError):
        upload.state = State.RELEASED


def test_a_time_is_written_in_utc() -> None:
    noon_in_india = datetime(2024, 5, 17, 12, 0, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert format_time(noon_in_india) == "2024-05-17T06:30:00.000000Z"


@given(st.lists(st.datetimes(timezones=st.just(UTC)), min_size=2))
def test_times_sort_as_their_text_does(times: list[datetime]) -> None:
    texts = [format_time(time) for time in times]
    assert [parse_time(text) for text in sorted(texts)] == sorted(times)
