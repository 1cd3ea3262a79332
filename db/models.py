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
    BlobField,
    BooleanField,
    CharField,
    Check,
    CompositeKey,
    DecimalField,
    Field,
    ForeignKeyField,
    IntegerField,
    Model,
    TextField,
)

from db.fields import CanonicalUuidField, CompactUuidField, UtcTimeField
from db.records import UPLOAD_COLUMNS, Turn, UploadColumns
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


class ReceiptRow(Model):
    """A released upload with its events, packed (`db.records.pack_receipt`); its id is the upload's.

    The numbers are those of `db.records.hash_text`; different texts may have the same.
    """

    id = BigIntegerField(primary_key=True)
    path_hash = IntegerField()
    """Of instance and path."""
    key_hash = IntegerField()
    """Of the object key."""
    released_day = IntegerField()
    """Days since the epoch, in UTC."""
    video_id: CompactUuidField
    """Added by `bind`, because its values depend on the database."""
    instance = TextField()
    content = BlobField()


class InstanceRow(Model):
    """The latest report of each running daemon."""

    instance = TextField(primary_key=True)
    pid = BigIntegerField()
    started_at = UtcTimeField()
    heartbeat_at = UtcTimeField()
    report = TextField()


class InvalidationRow(Model):
    """The queue of CDN invalidations (`db.services`)."""

    id = BigAutoField()
    instance = TextField()
    object_key = TextField()
    requested_at = UtcTimeField()
    sent_at = UtcTimeField(null=True)


class NotificationRow(Model):
    """What is to be told to a receiver, or a video to be looked at (`db.services.Outbox`)."""

    id = BigAutoField()
    instance = TextField()
    channel = TextField()
    subject = TextField()
    payload = TextField()
    occurred_at = UtcTimeField()
    due_at = UtcTimeField()
    attempts = IntegerField()


class LedgerTokenRow(Model):
    """One row: a random text that tells this ledger from every other one whose ids are the same."""

    token = TextField(primary_key=True)


class StateCountRow(Model):
    """How many uploads have come into a state, or left it: the sum is how many are in it.

    Triggers append a row for every change. None waits for another one's transaction, as it would if there
    were one row for each state.
    """

    id = BigAutoField()
    instance = TextField()
    state = TextField()
    uploads = BigIntegerField()
    size = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    entered_at = UtcTimeField(null=True)
    """When they came into the state; known of what was published, failed or was rejected lately."""


class HoldRow(Model):
    """A path whose file is not uploaded until an operator ends that."""

    instance = TextField()
    path = TextField()
    held_at = UtcTimeField()


class OrderRow(Model):
    """What an operator asks of every daemon (`db.steering`)."""

    name = TextField(primary_key=True)
    detail = TextField()
    given_at = UtcTimeField()


class ServerDialectRow(Model):
    """What was found out about one feature of an object store (`db.services`)."""

    endpoint = TextField()
    bucket = TextField()
    feature = TextField()
    said = TextField()
    found_at = UtcTimeField()


QUALITIES = ("144p", "240p", "360p", "480p", "720p", "1080p", "1440p", "2160p", "original")
"""The values of `quality` that the schema accepts: the compressor's list."""


def sql_list(*values: str) -> str:
    """The values as a list for SQL's IN."""
    return "(" + ", ".join(f"'{value}'" for value in values) + ")"


QUALITY_CHECKS = (
    Check(f"quality IN {sql_list(*QUALITIES)}", "video_qualities_quality_known"),
    Check("status IN ('processing', 'ready', 'failed')", "video_qualities_status_known"),
)


class PublicationRow(Model):
    """Which row of the compressor's catalog shows which object (`db.catalog.publications`)."""

    row_id = CanonicalUuidField(primary_key=True)
    upload = BigIntegerField(column_name="upload_id")
    """An upload or, once it is released, a receipt."""
    instance = TextField()
    url = TextField()
    local_url = TextField(null=True)
    published_at = UtcTimeField()


class OrphanRow(Model):
    """Since when an upload's object has been without catalog rows (`db.catalog.publications.MissingRows`)."""

    upload = BigIntegerField(column_name="upload_id", primary_key=True)
    """An upload or, once it is released, a receipt."""
    instance = TextField()
    missing_since = UtcTimeField()


class OrphanLookRow(Model):
    """The last look for objects without catalog rows, by instance: how many rows the table had, and when."""

    instance = TextField(primary_key=True)
    rows = BigIntegerField()
    looked_at = UtcTimeField()


class OrphanRoundRow(Model):
    """The upload at which an unfinished look for objects without catalog rows continues, by instance."""

    instance = TextField(primary_key=True)
    after_id = BigIntegerField()


SIGHTINGS = "catalog_row_sightings"


class SightingRow(Model):
    """The place of a compressor's row in the order of its video's rows (`db.catalog.compressor_table`)."""

    row_id = CanonicalUuidField(primary_key=True)
    video_id = CanonicalUuidField()
    ordered_at = UtcTimeField()


class CompressorRow(Model):
    """The compressor's table `video_qualities`: the columns that are read; only `url` is ever written.

    The compressor owns the table and its schema. Its times have no time zone.
    """

    id = CanonicalUuidField(primary_key=True)
    video_id = CanonicalUuidField()
    quality = TextField()
    url = TextField()
    status = TextField()
    file_size = BigIntegerField(null=True)
    created_at = Field()
    updated_at = Field()


class QualityRow(Model):
    """Our own catalog: the columns and checks of the compressor's table `video_qualities`.

    Its times have a time zone, and it has no foreign key to `videos`, a table that does not exist here.
    """

    id = CanonicalUuidField(primary_key=True)
    video_id = CanonicalUuidField()
    quality = CharField(max_length=20)
    url = TextField()
    file_size = BigIntegerField(null=True)
    bitrate = IntegerField(null=True)
    resolution_width = IntegerField(null=True)
    resolution_height = IntegerField(null=True)
    codec = CharField(max_length=50, null=True)
    container = CharField(max_length=20, null=True)
    duration = IntegerField(null=True)
    is_default = BooleanField(default=False, constraints=[SQL("DEFAULT FALSE")])
    status = CharField(max_length=20, default="processing", constraints=[SQL("DEFAULT 'processing'")])
    fps = DecimalField(max_digits=10, decimal_places=2, null=True)
    pixel_format = CharField(max_length=20, null=True)
    color_space = CharField(max_length=20, null=True)
    color_range = CharField(max_length=20, null=True)
    audio_codec = CharField(max_length=50, null=True)
    audio_bitrate = IntegerField(null=True)
    audio_sample_rate = IntegerField(null=True)
    audio_channels = IntegerField(null=True)
    aspect_ratio = CharField(max_length=20, null=True)
    frame_count = BigIntegerField(null=True)
    encoding_time = IntegerField(null=True)
    processing_started_at = UtcTimeField(null=True)
    processing_completed_at = UtcTimeField(null=True)
    created_at = UtcTimeField()
    updated_at = UtcTimeField()


def index_qualities(qualities: type[QualityRow]) -> None:
    """Add the indexes of our own catalog."""
    qualities.add_index(qualities.video_id, qualities.quality, name="video_qualities_of_video")
    is_default = qualities.is_default == SQL("TRUE")
    qualities.add_index(qualities.video_id, unique=True, where=is_default, name="video_qualities_one_default")


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
    receipts: type[ReceiptRow]
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
    state_counts: type[StateCountRow]
    holds: type[HoldRow]
    orders: type[OrderRow]
    notifications: type[NotificationRow]
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
    receipts = bound(ReceiptRow, "receipts", video_id=CompactUuidField(is_blob=schema is None))
    receipts.add_index(receipts.path_hash, name="receipts_of_path")
    receipts.add_index(receipts.key_hash, name="receipts_of_key")
    receipts.add_index(receipts.video_id, name="receipts_of_video")
    qualities = bound(QualityRow, "video_qualities", QUALITY_CHECKS)
    _index_uploads(uploads)
    events.add_index(events.upload, events.id, name="upload_events_of_upload")
    index_qualities(qualities)
    invalidations = bound(InvalidationRow, "invalidations")
    of_instance = (invalidations.instance, invalidations.sent_at, invalidations.id)
    invalidations.add_index(*of_instance, name="invalidations_of_instance")
    publications = bound(PublicationRow, "publications")
    publications.add_index(publications.instance, publications.published_at, name="publications_of_instance")
    publications.add_index(publications.upload, name="publications_of_upload")
    orphans = bound(OrphanRow, "orphans")
    notifications = bound(NotificationRow, "notifications")
    of_channel = (notifications.instance, notifications.channel)
    notifications.add_index(*of_channel, notifications.due_at, notifications.id, name="notifications_due")
    notifications.add_index(*of_channel, notifications.subject, name="notifications_of_subject")
    sightings = bound(SightingRow, SIGHTINGS)
    sightings.add_index(sightings.video_id, name="catalog_row_sightings_of_video")
    return Tables(
        uploads,
        events,
        receipts,
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
        bound(StateCountRow, "state_counts"),
        bound(HoldRow, "holds", primary_key=CompositeKey("instance", "path")),
        bound(OrderRow, "orders"),
        notifications,
        bound(CompressorRow, "video_qualities", schema=catalog_schema),
    )


def _reference(uploads: type[UploadRow]) -> Any:
    return ForeignKeyField(uploads, column_name="upload_id", on_delete="CASCADE", index=False)


def _index_uploads(uploads: type[UploadRow]) -> None:
    """Add the indexes. None has a column that a claim changes, so that PostgreSQL can make a HOT update."""
    by_id = (uploads.instance, uploads.state, uploads.id)
    by_due_time = (uploads.instance, uploads.state, uploads.due_at, uploads.id)
    at_gate = uploads.awaits_row == SQL("TRUE")
    past_gate = uploads.awaits_row == SQL("FALSE")
    is_live = uploads.state.not_in(sorted(ENDED_STATES))
    has_multipart = uploads.multipart_id.is_null(False)
    # In a form that no other query has, or PostgreSQL prefers this index to the number of the row.
    is_pending = uploads.state.concat(SQL("''")) == SQL("'pending'")
    has_error = uploads.last_error.is_null(False)
    uploads.add_index(
        uploads.instance, uploads.path, unique=True, where=is_live, name="uploads_one_live_a_path"
    )
    uploads.add_index(*by_due_time, where=past_gate, name="uploads_due")
    is_small = past_gate & (uploads.size <= SQL(str(SMALL_BYTES)))
    uploads.add_index(*by_due_time, where=is_small, name="uploads_due_small")
    # Literals, as in the query: SQLite finds a partial index by its very condition.
    is_first = past_gate & (uploads.turn < SQL(str(Turn.LATER.value)))
    by_turn = (uploads.instance, uploads.state, uploads.turn, uploads.due_at, uploads.id)
    uploads.add_index(*by_turn, where=is_first, name="uploads_due_first")
    uploads.add_index(*by_id, where=at_gate, name="uploads_awaiting_row")
    uploads.add_index(*by_due_time, where=at_gate, name="uploads_awaiting_since")
    uploads.add_index(uploads.instance, uploads.path, uploads.id, name="uploads_of_path")
    uploads.add_index(uploads.video_id, name="uploads_of_video")
    uploads.add_index(uploads.object_key, name="uploads_of_key")
    uploads.add_index(uploads.instance, uploads.id, where=has_multipart, name="uploads_with_multipart")
    by_discovery = (uploads.instance, uploads.discovered_at, uploads.id)
    uploads.add_index(*by_discovery, where=is_pending, name="uploads_pending")
    uploads.add_index(uploads.instance, uploads.id, where=has_error, name="uploads_with_error")
