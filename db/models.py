"""The tables as peewee models. They stay within this package; callers get the values of `db.records`.

The classes here belong to no database. `bind` derives the models of one, with its constraints and indexes, so
that several databases can be open in one process.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeVar

import peewee
from peewee import (
    SQL,
    BigAutoField,
    BigIntegerField,
    Check,
    CompositeKey,
    ForeignKeyField,
    Model,
    TextField,
)

from db.catalog_models import (
    QUALITY_CHECKS,
    SIGHTINGS,
    CompressorRow,
    OrphanLookRow,
    OrphanRoundRow,
    OrphanRow,
    PublicationRow,
    QualityRow,
    SightingRow,
    index_qualities,
    sql_list,
)
from db.fields import UtcTimeField
from db.records import UPLOAD_COLUMNS, UploadColumns
from db.states import ENDED_STATES, State

_M = TypeVar("_M", bound=Model)

SMALL_BYTES = 16 * 1024 * 1024
"""A file up to this size is small: it does not wait until large ones are uploaded."""


class UploadRow(UploadColumns, Model):
    """The ledger: one row per content of a file; `bind` adds the columns."""


class EventRow(Model):
    """The events of each upload, for `explain`."""

    id = BigAutoField()
    upload: "ForeignKeyField[UploadRow]"
    """Added by `bind`: it has to refer to the uploads of the same database."""
    at = UtcTimeField()
    event = TextField()
    detail = TextField()


class InstanceRow(Model):
    """The latest report of each running daemon."""

    instance = TextField(primary_key=True)
    pid = BigIntegerField()
    started_at = UtcTimeField()
    heartbeat_at = UtcTimeField()
    report = TextField()


class InvalidationRow(Model):
    """The queue of CDN invalidations (`db.invalidations`)."""

    id = BigAutoField()
    instance = TextField()
    object_key = TextField()
    requested_at = UtcTimeField()
    sent_at = UtcTimeField(null=True)


class LedgerTokenRow(Model):
    """One row: a random text that tells this ledger from every other one whose ids are the same."""

    token = TextField(primary_key=True)


class ServerDialectRow(Model):
    """What was found out about one feature of an object store (`db.server_dialects`)."""

    endpoint = TextField()
    bucket = TextField()
    feature = TextField()
    said = TextField()
    found_at = UtcTimeField()


_PROVEN = sql_list(State.VERIFIED, State.PUBLISHED, State.RELEASED)
_VISIBLE = sql_list(State.PUBLISHED, State.RELEASED)

_UPLOAD_CHECKS = (
    Check(f"state IN {sql_list(*State)}", "uploads_state_known"),
    Check("attempts >= 0", "uploads_attempts_counted"),
    Check("size >= 0", "uploads_size_counted"),
    Check("confirmed_by IN ('checksum', 'etag', 'reading')", "uploads_confirmed_by_known"),
    Check(
        f"state NOT IN {_PROVEN} OR (verified_at IS NOT NULL AND checksum IS NOT NULL AND object_key <> '')",
        "uploads_proven",
    ),
    Check(
        f"state NOT IN {_VISIBLE} OR (published_at IS NOT NULL AND url IS NOT NULL)",
        "uploads_published",
    ),
    Check("state <> 'released' OR released_at IS NOT NULL", "uploads_released"),
)


@dataclass(frozen=True, slots=True)
class Tables:
    """The models that belong to one database; the migrations create all their tables but the compressor's."""

    uploads: type[UploadRow]
    events: type[EventRow]
    instances: type[InstanceRow]
    qualities: type[QualityRow]
    invalidations: type[InvalidationRow]
    publications: type[PublicationRow]
    orphans: type[OrphanRow]
    orphan_looks: type[OrphanLookRow]
    orphan_rounds: type[OrphanRoundRow]
    ledger_token: type[LedgerTokenRow]
    sightings: type[SightingRow]
    dialects: type[ServerDialectRow]
    compressor_rows: type[CompressorRow]


def bind(database: peewee.Database, schema: str | None, catalog_schema: str | None = None) -> Tables:
    """The models of `database`, with their tables in `schema` (None on SQLite, which has no schemas).

    The compressor's table is in `catalog_schema`.
    """

    def bound(
        model: type[_M],
        table_name: str,
        checks: Sequence[Any] = (),
        *,
        schema: str | None = schema,
        primary_key: Any = None,
        **columns: Any,
    ) -> type[_M]:
        options = {"database": database, "schema": schema, "table_name": table_name, "constraints": checks}
        if primary_key is not None:
            options["primary_key"] = primary_key
        return type(model.__name__, (model,), {"Meta": type("Meta", (), options), **columns})

    uploads = bound(UploadRow, "uploads", _UPLOAD_CHECKS, **deepcopy(UPLOAD_COLUMNS))
    events = bound(EventRow, "upload_events", upload=_reference(uploads))
    qualities = bound(QualityRow, "video_qualities", QUALITY_CHECKS)
    _index_uploads(uploads)
    events.add_index(events.upload, events.id, name="upload_events_of_upload")
    index_qualities(qualities)
    invalidations = bound(InvalidationRow, "invalidations")
    of_instance = (invalidations.instance, invalidations.sent_at, invalidations.id)
    invalidations.add_index(*of_instance, name="invalidations_of_instance")
    publications = bound(PublicationRow, "publications", upload=_reference(uploads))
    publications.add_index(publications.instance, publications.published_at, name="publications_of_instance")
    publications.add_index(publications.upload, name="publications_of_upload")
    orphans = bound(OrphanRow, "orphans", upload=_reference(uploads, primary_key=True))
    sightings = bound(SightingRow, SIGHTINGS)
    sightings.add_index(sightings.video_id, name="catalog_row_sightings_of_video")
    return Tables(
        uploads,
        events,
        bound(InstanceRow, "instances"),
        qualities,
        invalidations,
        publications,
        orphans,
        bound(OrphanLookRow, "orphan_looks"),
        bound(OrphanRoundRow, "orphan_rounds"),
        bound(LedgerTokenRow, "ledger_token"),
        sightings,
        bound(ServerDialectRow, "server_dialects", primary_key=CompositeKey("endpoint", "bucket", "feature")),
        bound(CompressorRow, "video_qualities", schema=catalog_schema),
    )


def _reference(uploads: type[UploadRow], *, primary_key: bool = False) -> Any:
    return ForeignKeyField(
        uploads, column_name="upload_id", on_delete="CASCADE", index=False, primary_key=primary_key
    )


def _index_uploads(uploads: type[UploadRow]) -> None:
    """Add the indexes. None has a column that a claim changes, so that PostgreSQL can make a HOT update."""
    by_id = (uploads.instance, uploads.state, uploads.id)
    by_due_time = (uploads.instance, uploads.state, uploads.due_at, uploads.id)
    at_gate = uploads.awaits_row == SQL("TRUE")
    past_gate = uploads.awaits_row == SQL("FALSE")
    is_live = uploads.state.not_in(sorted(ENDED_STATES))
    has_multipart = uploads.multipart_id.is_null(False)
    uploads.add_index(
        uploads.instance, uploads.path, unique=True, where=is_live, name="uploads_one_live_a_path"
    )
    uploads.add_index(*by_due_time, where=past_gate, name="uploads_due")
    is_small = past_gate & (uploads.size <= SQL(str(SMALL_BYTES)))
    uploads.add_index(*by_due_time, where=is_small, name="uploads_due_small")
    uploads.add_index(*by_id, where=at_gate, name="uploads_awaiting_row")
    uploads.add_index(*by_due_time, where=at_gate, name="uploads_awaiting_since")
    uploads.add_index(uploads.instance, uploads.path, uploads.id, name="uploads_of_path")
    uploads.add_index(uploads.video_id, name="uploads_of_video")
    uploads.add_index(uploads.object_key, name="uploads_of_key")
    uploads.add_index(uploads.instance, uploads.id, where=has_multipart, name="uploads_with_multipart")
