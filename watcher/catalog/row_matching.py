"""Matches rows of the compressor's catalog to files: by URL, else by video and quality."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Sequence
from urllib.parse import unquote

from db import CatalogRow, Upload
from storage import StorageError
from watcher.renditions import ORIGINAL, Naming, rendition_of


def rows_of_file(
    upload: Upload, rows: Sequence[CatalogRow], naming: Naming, *, known_urls: Collection[str] = ()
) -> list[CatalogRow]:
    """The rows of the upload's file among those of its video, oldest first.

    These are the rows whose URL shows the file or its object; `known_urls` are URLs of its earlier objects.
    Without such a row they are the rows of its quality that show no other file.
    """
    name = posixpath.basename(upload.path)

    def shows_object(row: CatalogRow) -> bool:
        key = naming.key_of(row.url)
        return row.url in known_urls or (key is not None and key == _key(upload, row.quality, naming))

    # The compressor does not encode names in URLs. A name is decoded only if no row has it literally,
    # because 'a%20b' and 'a b' are two files.
    exact = [row for row in rows if _file_of(row.url) == (upload.video_id, name)]
    decoded = [row for row in rows if _decoded(_file_of(row.url)) == (upload.video_id, name)]
    showing = exact or decoded
    found = [row for row in rows if row in showing or shows_object(row)]
    if not found:
        found = [row for row in rows if row.quality == upload.quality and not _shows_any_file(row.url)]
    return sorted(found, key=lambda row: row.age_order)


def is_newer(row: CatalogRow, upload: Upload) -> bool:
    """Whether a row is newer than the one that the upload was admitted for."""
    return upload.catalog_row_at is not None and row.created_at > upload.catalog_row_at


def _key(upload: Upload, quality: str, naming: Naming) -> str | None:
    """The key of the file's object at this quality; None if its name excludes the quality."""
    stem = posixpath.splitext(posixpath.basename(upload.path))[0]
    if quality != ORIGINAL and stem.removesuffix(f"_{quality}") in {"", stem}:
        return None
    try:
        return naming.key(rendition_of(upload.video_id, upload.path, quality))
    except StorageError:
        return None


def _file_of(url: str) -> tuple[str, str]:
    """The last two segments of a URL, unparsed: an unencoded name may contain '?' and '#'."""
    rest, _, name = url.rpartition("/")
    return rest.rpartition("/")[2], name


def _decoded(parts: tuple[str, str]) -> tuple[str, str]:
    directory, name = (unquote(part, errors="surrogateescape") for part in parts)
    return directory.lower(), name


def _shows_any_file(url: str) -> bool:
    """Whether a URL ends in something that looks like a file name."""
    return bool(posixpath.splitext(_file_of(url)[1])[1])
