"""The catalogs as peewee models: our own table, the compressor's, and what was published onto its rows."""

from peewee import (
    SQL,
    BigIntegerField,
    BooleanField,
    CharField,
    Check,
    DecimalField,
    Field,
    ForeignKeyField,
    IntegerField,
    Model,
    TextField,
)

from db.fields import CanonicalUuidField, UtcTimeField

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
    """Which row of the compressor's catalog shows which object (`db.publications`)."""

    row_id = CanonicalUuidField(primary_key=True)
    upload: "ForeignKeyField[Model]"
    """Added by `db.models.bind`: it has to refer to the uploads of the same database."""
    instance = TextField()
    url = TextField()
    local_url = TextField(null=True)
    published_at = UtcTimeField()


class OrphanRow(Model):
    """Since when an upload's object has been without catalog rows (`db.publications.MissingRows`)."""

    upload: "ForeignKeyField[Model]"
    """The primary key; added by `db.models.bind`."""
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
    """The place of a compressor's row in the order of its video's rows (`db.compressor_table`)."""

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
