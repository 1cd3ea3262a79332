"""Which rows of the compressor's catalog are those of a file: by their URLs, else by video and quality."""

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
    """Of a video's rows those of the upload's file, oldest first: the last one decides.

    Its rows show the file itself, or its object; `known_urls` are addresses that its objects have had. Where
    no row does, those of its quality are, unless they show another file.
    """
    name = posixpath.basename(upload.path)

    def shows_object(row: CatalogRow) -> bool:
        key = naming.key_of(row.url)
        return row.url in known_urls or (key is not None and key == _key(upload, row.quality, naming))

    # The compressor writes a name into a URL as it is. One that looks percent-encoded is read as such only
    # if no row names the file by the letter: 'a%20b' and 'a b' are two files.
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
    """The key that the file's object has if it is of this quality; None if by its name it cannot be."""
    stem = posixpath.splitext(posixpath.basename(upload.path))[0]
    if quality != ORIGINAL and stem.removesuffix(f"_{quality}") in {"", stem}:
        return None
    try:
        return naming.key(rendition_of(upload.video_id, upload.path, quality))
    except StorageError:
        return None


def _file_of(url: str) -> tuple[str, str]:
    """The last two parts of a URL, as they stand there: a raw name may hold '?' and '#'."""
    rest, _, name = url.rpartition("/")
    return rest.rpartition("/")[2], name


def _decoded(parts: tuple[str, str]) -> tuple[str, str]:
    directory, name = (unquote(part, errors="surrogateescape") for part in parts)
    return directory.lower(), name


def _shows_any_file(url: str) -> bool:
    """Whether a URL ends in what looks like a file's name."""
    return bool(posixpath.splitext(_file_of(url)[1])[1])
