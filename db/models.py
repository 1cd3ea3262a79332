"""The tables as peewee models. They never leave this package; `db.records` is what others see.

The classes here belong to no database. `bind` makes the set that belongs to one, with its constraints and
indexes, so that several databases can be open in one process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import peewee
from peewee import (
    SQL,
    BigAutoField,
    BigIntegerField,
    BooleanField,
    CharField,
    Check,
    DecimalField,
    ForeignKeyField,
    IntegerField,
    Model,
    TextField,
)

from db.fields import CanonicalUuidField, StateField, Unsigned64Field, UtcTimeField
from db.states import ENDED_STATES, State

QUALITIES = ("144p", "240p", "360p", "480p", "720p", "1080p", "1440p", "2160p", "original")
"""The quality words that the catalog's schema accepts: the compressor's own list."""

_M = TypeVar("_M", bound=Model)


class UploadRow(Model):
    """The ledger: one row a content of a file (`db.records.Upload` names the units)."""

    id = BigAutoField()
    instance = TextField()
    path = TextField()
    video_id = CanonicalUuidField()
    filename = TextField()
    quality = TextField()
    device = Unsigned64Field()
    inode = Unsigned64Field()
    size = BigIntegerField()
    mtime_ns = BigIntegerField()
    checksum = TextField(null=True)
    etag = TextField(null=True)
    version_id = TextField(null=True)
    confirmed_by = TextField(null=True)
    object_key = TextField()
    url = TextField(null=True)
    state = StateField()
    attempts = IntegerField(default=0, constraints=[SQL("DEFAULT 0")])
    due_at = UtcTimeField()
    last_error = TextField(null=True)
    error_code = TextField(null=True)
    claimed_by = TextField(null=True)
    claim = BigIntegerField(default=0, constraints=[SQL("DEFAULT 0")])
    claimed_until = UtcTimeField(null=True)
    multipart_id = TextField(null=True)
    part_size = BigIntegerField(null=True)
    bytes_sent = BigIntegerField(default=0, constraints=[SQL("DEFAULT 0")])
    discovered_at = UtcTimeField()
    changed_at = UtcTimeField()
    verified_at = UtcTimeField(null=True)
    published_at = UtcTimeField(null=True)
    released_at = UtcTimeField(null=True)


class EventRow(Model):
    """The story of each upload, for `explain`."""

    id = BigAutoField()
    upload: "ForeignKeyField[UploadRow]"
    """Added by `bind`, for it must refer to the uploads of the same database."""
    at = UtcTimeField()
    event = TextField()
    detail = TextField()


class InstanceRow(Model):
    """What each running daemon last said about itself."""

    instance = TextField(primary_key=True)
    pid = BigIntegerField()
    started_at = UtcTimeField()
    heartbeat_at = UtcTimeField()
    report = TextField()


class InvalidationRow(Model):
    """What a CDN must be told to forget (`db.invalidations`)."""

    id = BigAutoField()
    instance = TextField()
    object_key = TextField()
    requested_at = UtcTimeField()
    sent_at = UtcTimeField(null=True)


class QualityRow(Model):
    """Our own catalog: the compressor's table `video_qualities`, its columns and checks.

    Its foreign key to `videos` is missing, for there is no such table here, and its times know their zone.
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


def _words(*words: str) -> str:
    return "(" + ", ".join(f"'{word}'" for word in words) + ")"


_PROVEN = _words(State.VERIFIED, State.PUBLISHED, State.RELEASED)
_VISIBLE = _words(State.PUBLISHED, State.RELEASED)

_UPLOAD_CHECKS = (
    Check(f"state IN {_words(*State)}", "uploads_state_known"),
    Check("attempts >= 0", "uploads_attempts_counted"),
    Check("size >= 0", "uploads_size_counted"),
    Check("confirmed_by IN ('checksum', 'etag')", "uploads_confirmed_by_known"),
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

_QUALITY_CHECKS = (
    Check(f"quality IN {_words(*QUALITIES)}", "video_qualities_quality_known"),
    Check("status IN ('processing', 'ready', 'failed')", "video_qualities_status_known"),
)


@dataclass(frozen=True, slots=True)
class Tables:
    """The models that belong to one database."""

    uploads: type[UploadRow]
    events: type[EventRow]
    instances: type[InstanceRow]
    qualities: type[QualityRow]
    invalidations: type[InvalidationRow]

    @property
    def all(self) -> tuple[type[Model], ...]:
        """Every table, those that others refer to first."""
        return self.uploads, self.events, self.instances, self.qualities, self.invalidations


def bind(database: peewee.Database, schema: str | None) -> Tables:
    """The models of `database`, their tables in `schema` (None on SQLite, which has none)."""

    def bound(model: type[_M], table_name: str, checks: Sequence[Any] = (), **columns: Any) -> type[_M]:
        options = {"database": database, "schema": schema, "table_name": table_name, "constraints": checks}
        return type(model.__name__, (model,), {"Meta": type("Meta", (), options), **columns})

    uploads = bound(UploadRow, "uploads", _UPLOAD_CHECKS)
    upload = ForeignKeyField(uploads, column_name="upload_id", on_delete="CASCADE", index=False)
    events = bound(EventRow, "upload_events", upload=upload)
    qualities = bound(QualityRow, "video_qualities", _QUALITY_CHECKS)
    _index_uploads(uploads)
    events.add_index(upload, events.id, name="upload_events_of_upload")
    _index_qualities(qualities)
    invalidations = bound(InvalidationRow, "invalidations")
    invalidations.add_index(
        invalidations.instance,
        invalidations.sent_at,
        invalidations.id,
        name="invalidations_of_instance",
    )
    return Tables(uploads, events, bound(InstanceRow, "instances"), qualities, invalidations)


def _index_uploads(uploads: type[UploadRow]) -> None:
    uploads.add_index(
        uploads.instance,
        uploads.path,
        unique=True,
        where=uploads.state.not_in(sorted(ENDED_STATES)),
        name="uploads_one_live_a_path",
    )
    uploads.add_index(uploads.instance, uploads.state, uploads.due_at, name="uploads_due")
    uploads.add_index(uploads.instance, uploads.path, uploads.id, name="uploads_of_path")
    uploads.add_index(uploads.video_id, name="uploads_of_video")
    uploads.add_index(uploads.object_key, name="uploads_of_key")
    uploads.add_index(
        uploads.instance,
        uploads.id,
        where=uploads.multipart_id.is_null(False),
        name="uploads_with_multipart",
    )


def _index_qualities(qualities: type[QualityRow]) -> None:
    qualities.add_index(qualities.video_id, qualities.quality, name="video_qualities_of_video")
    qualities.add_index(
        qualities.video_id,
        unique=True,
        where=qualities.is_default == SQL("TRUE"),
        name="video_qualities_one_default",
    )
