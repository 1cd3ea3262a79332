"""The ledger, its events, the instances and our own catalog.

A frozen copy of `db.models` as it was when this was written, as SQL for both databases. Later changes of the
schema are migrations of their own.
"""

from typing import Any

SQLITE_TYPES = {
    "serial": "INTEGER",
    "bigint": "INTEGER",
    "boolean": "INTEGER",
    "decimal": "DECIMAL",
    "time": "TEXT",
    "uuid": "TEXT",
}
POSTGRESQL_TYPES = {
    "serial": "BIGSERIAL",
    "bigint": "BIGINT",
    "boolean": "BOOLEAN",
    "decimal": "NUMERIC",
    "time": "TIMESTAMPTZ",
    "uuid": "UUID",
}

STATEMENTS = (
    """
    CREATE TABLE {schema}uploads (
        id {serial} NOT NULL PRIMARY KEY,
        instance TEXT NOT NULL,
        path TEXT NOT NULL,
        video_id {uuid} NOT NULL,
        filename TEXT NOT NULL,
        quality TEXT NOT NULL,
        device {bigint} NOT NULL,
        inode {bigint} NOT NULL,
        size {bigint} NOT NULL,
        mtime_ns {bigint} NOT NULL,
        checksum TEXT,
        etag TEXT,
        version_id TEXT,
        confirmed_by TEXT,
        object_key TEXT NOT NULL,
        url TEXT,
        state TEXT NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        due_at {time} NOT NULL,
        last_error TEXT,
        error_code TEXT,
        claimed_by TEXT,
        claim {bigint} NOT NULL DEFAULT 0,
        claimed_until {time},
        multipart_id TEXT,
        part_size {bigint},
        bytes_sent {bigint} NOT NULL DEFAULT 0,
        discovered_at {time} NOT NULL,
        changed_at {time} NOT NULL,
        verified_at {time},
        published_at {time},
        released_at {time},
        CONSTRAINT uploads_state_known CHECK (state IN (
            'pending', 'verified', 'published', 'released', 'rejected', 'failed', 'gone', 'superseded')),
        CONSTRAINT uploads_attempts_counted CHECK (attempts >= 0),
        CONSTRAINT uploads_size_counted CHECK (size >= 0),
        CONSTRAINT uploads_confirmed_by_known CHECK (confirmed_by IN ('checksum', 'etag')),
        CONSTRAINT uploads_proven CHECK (
            state NOT IN ('verified', 'published', 'released')
            OR (verified_at IS NOT NULL AND checksum IS NOT NULL AND object_key <> '')),
        CONSTRAINT uploads_published CHECK (
            state NOT IN ('published', 'released') OR (published_at IS NOT NULL AND url IS NOT NULL)),
        CONSTRAINT uploads_released CHECK (state <> 'released' OR released_at IS NOT NULL)
    )
    """,
    """
    CREATE UNIQUE INDEX uploads_one_live_a_path ON {schema}uploads (instance, path)
    WHERE (state NOT IN ('released', 'superseded'))
    """,
    "CREATE INDEX uploads_due ON {schema}uploads (instance, state, due_at)",
    "CREATE INDEX uploads_of_path ON {schema}uploads (instance, path, id)",
    "CREATE INDEX uploads_of_video ON {schema}uploads (video_id)",
    "CREATE INDEX uploads_of_key ON {schema}uploads (object_key)",
    "CREATE INDEX uploads_with_multipart ON {schema}uploads (instance, id) WHERE (multipart_id IS NOT NULL)",
    """
    CREATE TABLE {schema}upload_events (
        id {serial} NOT NULL PRIMARY KEY,
        at {time} NOT NULL,
        event TEXT NOT NULL,
        detail TEXT NOT NULL,
        upload_id {bigint} NOT NULL,
        FOREIGN KEY (upload_id) REFERENCES {schema}uploads (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX upload_events_of_upload ON {schema}upload_events (upload_id, id)",
    """
    CREATE TABLE {schema}instances (
        instance TEXT NOT NULL PRIMARY KEY,
        pid {bigint} NOT NULL,
        started_at {time} NOT NULL,
        heartbeat_at {time} NOT NULL,
        report TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE {schema}video_qualities (
        id {uuid} NOT NULL PRIMARY KEY,
        video_id {uuid} NOT NULL,
        quality VARCHAR(20) NOT NULL,
        url TEXT NOT NULL,
        file_size {bigint},
        bitrate INTEGER,
        resolution_width INTEGER,
        resolution_height INTEGER,
        codec VARCHAR(50),
        container VARCHAR(20),
        duration INTEGER,
        is_default {boolean} NOT NULL DEFAULT FALSE,
        status VARCHAR(20) NOT NULL DEFAULT 'processing',
        fps {decimal}(10, 2),
        pixel_format VARCHAR(20),
        color_space VARCHAR(20),
        color_range VARCHAR(20),
        audio_codec VARCHAR(50),
        audio_bitrate INTEGER,
        audio_sample_rate INTEGER,
        audio_channels INTEGER,
        aspect_ratio VARCHAR(20),
        frame_count {bigint},
        encoding_time INTEGER,
        processing_started_at {time},
        processing_completed_at {time},
        created_at {time} NOT NULL,
        updated_at {time} NOT NULL,
        CONSTRAINT video_qualities_quality_known CHECK (quality IN (
            '144p', '240p', '360p', '480p', '720p', '1080p', '1440p', '2160p', 'original')),
        CONSTRAINT video_qualities_status_known CHECK (status IN ('processing', 'ready', 'failed'))
    )
    """,
    "CREATE INDEX video_qualities_of_video ON {schema}video_qualities (video_id, quality)",
    """
    CREATE UNIQUE INDEX video_qualities_one_default ON {schema}video_qualities (video_id)
    WHERE (is_default = TRUE)
    """,
)


def up(migrator: Any, db: Any) -> None:
    """Create the tables: in the migrator's schema, which only PostgreSQL has."""
    types, schema = SQLITE_TYPES, ""
    if migrator.schema is not None:
        types, schema = POSTGRESQL_TYPES, '"{}".'.format(migrator.schema.replace('"', '""'))
    for statement in STATEMENTS:
        db.execute_sql(statement.format(schema=schema, **types))
