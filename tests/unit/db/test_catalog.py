"""The catalog has the local URL of each rendition first, and the public one once it is uploaded."""

from dataclasses import replace
from typing import Any

import pytest

from db import (
    Catalog,
    CatalogRow,
    Database,
    DatabaseError,
    Ledger,
    NoCatalog,
    OwnCatalog,
    State,
)
from tests.support.databases import LOCAL_URL, PUBLIC_URL, VIDEO_ID, advance_to, enqueue


def announce(catalog: Catalog, ledger: Ledger, **changes: Any) -> None:
    catalog.announce(enqueue(ledger, **changes), local_url=LOCAL_URL, public_url=PUBLIC_URL)


def urls(catalog: Catalog) -> list[str]:
    return [row.url for row in catalog.rows(VIDEO_ID)]


def test_a_settled_file_gets_a_ready_row_with_its_local_url(ledger: Ledger, catalog: OwnCatalog) -> None:
    announce(catalog, ledger)
    (row,) = catalog.rows(VIDEO_ID)
    assert row == CatalogRow(
        id=row.id,
        video_id=VIDEO_ID,
        quality="720p",
        url=LOCAL_URL,
        status="ready",
        file_size=1_000,
        created_at=row.created_at,
        updated_at=row.created_at,
    )
    assert len(row.id) == 36


def test_the_container_is_known_by_the_extension(
    ledger: Ledger, catalog: OwnCatalog, database: Database
) -> None:
    announce(catalog, ledger, path="v/my_video_720p.MP4")
    with database.operation("read the container"):
        assert [row.container for row in database.tables.qualities.select()] == ["mp4"]


def test_announcing_again_changes_nothing(ledger: Ledger, catalog: OwnCatalog) -> None:
    announce(catalog, ledger)
    before = catalog.rows(VIDEO_ID)
    announce(catalog, ledger)
    assert catalog.rows(VIDEO_ID) == before


def test_new_content_shows_the_old_object_until_it_is_published(ledger: Ledger, catalog: OwnCatalog) -> None:
    announce(catalog, ledger)
    old = enqueue(ledger)
    catalog.publish(old, public_url=PUBLIC_URL, local_url=LOCAL_URL)
    new = replace(old, size=2_000)
    catalog.announce(new, local_url=LOCAL_URL, public_url=PUBLIC_URL)
    assert [(row.url, row.file_size) for row in catalog.rows(VIDEO_ID)] == [(PUBLIC_URL, 1_000)]
    assert catalog.publish(new, public_url=PUBLIC_URL, local_url=LOCAL_URL) == 1
    assert [(row.url, row.file_size) for row in catalog.rows(VIDEO_ID)] == [(PUBLIC_URL, 2_000)]


def test_publishing_points_the_row_at_the_object_once(ledger: Ledger, catalog: OwnCatalog) -> None:
    announce(catalog, ledger)
    upload = enqueue(ledger)
    assert catalog.publish(upload, public_url=PUBLIC_URL, local_url=LOCAL_URL) == 1
    published = catalog.rows(VIDEO_ID)
    assert published[0].url == PUBLIC_URL
    assert published[0].updated_at > published[0].created_at
    assert catalog.publish(upload, public_url=PUBLIC_URL, local_url=LOCAL_URL) == 1
    assert catalog.rows(VIDEO_ID) == published


def test_publishing_what_has_no_row_says_so(ledger: Ledger, catalog: OwnCatalog) -> None:
    assert catalog.publish(enqueue(ledger), public_url=PUBLIC_URL, local_url=LOCAL_URL) == 0


def test_publishing_touches_no_other_rendition(ledger: Ledger, catalog: OwnCatalog) -> None:
    announce(catalog, ledger)
    same_quality = enqueue(ledger, "v/another_720p.mp4")
    catalog.announce(same_quality, local_url="file:///another", public_url="https://s3/another")
    other_quality = enqueue(ledger, "v/my_video_480p.mp4", quality="480p")
    catalog.announce(other_quality, local_url="file:///480p", public_url="https://s3/480p")
    catalog.publish(same_quality, public_url="https://s3/another", local_url="file:///another")
    assert sorted(urls(catalog)) == ["file:///480p", LOCAL_URL, "https://s3/another"]


def test_a_lost_object_is_withdrawn(ledger: Ledger, catalog: OwnCatalog) -> None:
    announce(catalog, ledger)
    upload = enqueue(ledger)
    assert catalog.revert_to_local_url(upload, public_url=PUBLIC_URL, local_url=LOCAL_URL) == 0
    catalog.publish(upload, public_url=PUBLIC_URL, local_url=LOCAL_URL)
    assert catalog.revert_to_local_url(upload, public_url=PUBLIC_URL, local_url=LOCAL_URL) == 1
    assert urls(catalog) == [LOCAL_URL]


def test_the_local_copy_is_needed_until_the_row_shows_the_object(ledger: Ledger, catalog: OwnCatalog) -> None:
    announce(catalog, ledger)
    upload = advance_to(ledger, enqueue(ledger), State.PUBLISHED)
    assert catalog.reason_to_keep_copy(enqueue(ledger))
    assert catalog.reason_to_keep_copy(upload)
    catalog.publish(upload, public_url=PUBLIC_URL, local_url=LOCAL_URL)
    assert catalog.reason_to_keep_copy(upload) is None


def test_catalog_and_ledger_change_together_or_not_at_all(
    database: Database, ledger: Ledger, catalog: OwnCatalog
) -> None:
    announce(catalog, ledger)
    upload = advance_to(ledger, enqueue(ledger), State.VERIFIED)

    def publish_what_the_ledger_refuses() -> None:
        with database.transaction():
            catalog.publish(upload, public_url=PUBLIC_URL, local_url=LOCAL_URL)
            ledger.advance(upload, State.PUBLISHED, url=None)

    with pytest.raises(DatabaseError):
        publish_what_the_ledger_refuses()
    assert urls(catalog) == [LOCAL_URL]
    assert ledger.current(upload.path) == upload


def test_rows_are_listed_oldest_first(ledger: Ledger, catalog: OwnCatalog) -> None:
    for quality in ("720p", "144p", "480p"):
        upload = enqueue(ledger, quality, quality=quality)
        catalog.announce(upload, local_url=f"file:///{quality}", public_url=f"https://s3/{quality}")
    assert [row.quality for row in catalog.rows(VIDEO_ID)] == ["720p", "144p", "480p"]
    assert catalog.rows("6f1c2a8e-0d1b-4b43-9f4e-2a3b4c5d6e7f") == []


def test_without_a_catalog_nothing_is_written_and_all_goes_on(database: Database, ledger: Ledger) -> None:
    catalog: Catalog = NoCatalog()
    upload = enqueue(ledger)
    catalog.announce(upload, local_url=LOCAL_URL, public_url=PUBLIC_URL)
    assert catalog.publish(upload, public_url=PUBLIC_URL, local_url=LOCAL_URL) == 1
    assert catalog.revert_to_local_url(upload, public_url=PUBLIC_URL, local_url=LOCAL_URL) == 0
    assert catalog.reason_to_keep_copy(upload) is None
    assert list(catalog.rows(VIDEO_ID)) == []
    assert not catalog.rows_deleted(upload)
    assert not catalog.creates_rows
    assert OwnCatalog(database).rows(VIDEO_ID) == []


def test_the_rows_of_a_bucket_are_read_page_by_page(
    ledger: Ledger, catalog: OwnCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.catalog.own_catalog.PAGE", 2)
    for number in range(5):
        catalog.announce(
            enqueue(ledger, f"v/{number}_720p.mp4"),
            local_url=f"file:///v/{number}",
            public_url=f"https://bucket.example/{number}",
        )
    found = [row.url for row in catalog.rows_with_url_prefix("file:///v/")]
    assert sorted(found) == [f"file:///v/{number}" for number in range(5)]
    assert list(catalog.rows_with_url_prefix("file:///w/")) == []
    assert list(NoCatalog().rows_with_url_prefix("file:///v/")) == []
