"""What must be true once nothing is under way any more."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.request import ProxyHandler, build_opener

import psycopg

from db import Ledger, Upload, open_database, pending_migrations
from storage import PROBE_NAME
from tests.beside.platform import Platform
from tests.support.harness import BUCKET


@dataclass(frozen=True)
class Row:
    """A row of the compressor's table."""

    id: str
    video_id: str
    quality: str
    status: str
    url: str


def rows_of(platform: Platform) -> list[Row]:
    """Every row, oldest first."""
    with psycopg.connect(platform.database_url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT id::text, video_id::text, quality, status, url FROM video_qualities"
            " ORDER BY created_at, id"
        ).fetchall()
    return [Row(*row) for row in found]


def uploads_of(platform: Platform, instance: str = "test") -> list[Upload]:
    """The ledger's rows."""
    with closing(open_database(platform.database_url)) as database:
        return [] if pending_migrations(database) else Ledger(database, instance).uploads()


def unfinished(platform: Platform, instance: str = "test") -> list[str]:
    """What is unfinished: ready rows without a public URL, and uploads that a stage has to work on."""
    hidden = [row for row in rows_of(platform) if row.status == "ready" and _is_hidden(platform, row)]
    return [f"row {row.quality} {row.url}" for row in hidden] + [
        f"{upload.path} {upload.state} awaits_row={upload.awaits_row} {upload.error_code} {upload.last_error}"
        for upload in uploads_of(platform, instance)
        if upload.state.is_open
    ]


def _is_hidden(platform: Platform, row: Row) -> bool:
    return not is_public(platform, row) and path_of(platform, row) not in platform.ignored


def path_of(platform: Platform, row: Row) -> str:
    """The path of a row's file."""
    return platform.output(row.video_id, row.quality)


def is_public(platform: Platform, row: Row) -> bool:
    """Whether a row shows its object."""
    return row.url == platform.public_url(row.video_id, row.quality)


def problems(
    platform: Platform,
    *,
    broken: Collection[str] = (),
    kept: Collection[str] = (),
    stale: Collection[str] = (),
) -> list[str]:
    """Everything that is not as it must be; empty if all is well.

    `broken` are the paths whose encodes were made to fail; `kept` are further objects that may be there;
    `stale` are the ids of the rows whose compression was killed, which say ``processing`` for ever.
    """
    found: list[str] = []
    keys: set[str] = set(kept)
    for row in rows_of(platform):
        path = path_of(platform, row)
        if path in platform.ignored:
            if row.status != "ready" or is_public(platform, row):
                found.append(f"a row that should be left alone: {row}")
        elif row.status == "ready":
            keys.add(platform.key(row.video_id, row.quality))
            found += _problems_of_ready(platform, row)
        elif row.status == "failed":
            if is_public(platform, row):
                found.append(f"a failed row with a public URL: {row}")
            if path not in broken:
                found.append(f"a good encode that was turned into a failed one: {row}")
        elif row.id not in stale:
            found.append(f"a row that is still processing: {row}")
    # What a killed daemon had stored to find something out stays for an hour.
    unexplained = [key for key in sorted(objects(platform) - keys) if PROBE_NAME not in key]
    found += [f"an object without a reason: {key}" for key in unexplained]
    found += [f"an object that is missing: {key}" for key in sorted(keys - objects(platform))]
    left = sorted(local_files(platform) - set(broken) - platform.ignored)
    found += [f"a local file that should be released: {path}" for path in left]
    uploads: Any = platform.s3.client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    found += [
        f"an open multipart upload: {upload['Key']}" for upload in uploads if PROBE_NAME not in upload["Key"]
    ]
    return found


def _problems_of_ready(platform: Platform, row: Row) -> list[str]:
    if not is_public(platform, row):
        return [f"a ready row without a public URL: {row}"]
    with build_opener(ProxyHandler({})).open(row.url, timeout=30) as answer:
        is_right = answer.read() == (platform.aside / path_of(platform, row)).read_bytes()
    return [] if is_right else [f"other bytes than the compressor wrote: {row}"]


def objects(platform: Platform) -> set[str]:
    """The keys of all objects in the bucket."""
    pages = platform.s3.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return {entry["Key"] for page in pages for entry in page.get("Contents", [])}


def local_files(platform: Platform) -> set[str]:
    """The paths of all files below the watched directory, quarantined ones included."""
    return {
        os.path.relpath(os.path.join(directory, name), platform.completed)
        for directory, _, names in os.walk(platform.completed)
        for name in names
    }
