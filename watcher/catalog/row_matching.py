"""Matches rows of the compressor's catalog to files: by URL, else by video and quality."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Callable, Collection, Sequence
from urllib.parse import unquote

from db import CatalogRow, LedgerReader, State, Upload
from storage import StorageError
from watcher.renditions import ORIGINAL, Naming, normal_form, rendition_of, without_quality

as_written: Callable[[str], str] = str
"""The form of a name in which it is compared as it is written."""
MAX_DESCRIBED = 5
"""How many rows `describe_others` describes."""
_RENDITION_EXTENSION = ".mp4"
"""The extension of every rendition that the compressor writes, whatever that of its source is."""


def rows_of_file(
    upload: Upload,
    rows: Sequence[CatalogRow],
    naming: Naming,
    *,
    known_urls: Collection[str] = (),
    ledger: LedgerReader | None = None,
) -> list[CatalogRow]:
    """The rows of the upload's file among those of its video, oldest first.

    These are the rows whose URL shows the file, its object, or the object that the compressor once uploaded
    of it; `known_urls` are URLs of its earlier objects. Without such a row they are the rows of its quality
    that show no other file. A directory of the video that is not written like its id, in lower case, is
    another one: its files have only the rows that name it.

    A name in another normal form of Unicode is the same one: macOS decomposes names, and most other programs
    compose them. Where the `ledger` has both files, each has only the rows that name it as it is written.
    """
    is_canonical = _directory(upload) == upload.video_id
    found = _showing(upload, rows, naming, known_urls, as_written)
    if not found and not upload.path.isascii():
        found = _showing(upload, rows, naming, known_urls, normal_form)
        if found and ledger is not None and _has_twin(upload, ledger):
            found = []
    if not found and is_canonical:
        found = [row for row in rows if row.quality == upload.quality and not _shows_any_file(row)]
    return sorted(found, key=lambda row: row.age_order)


def _showing(
    upload: Upload,
    rows: Sequence[CatalogRow],
    naming: Naming,
    known_urls: Collection[str],
    form: Callable[[str], str],
) -> list[CatalogRow]:
    """The rows that show the file or its object; names are compared in a form."""
    is_canonical = _directory(upload) == upload.video_id

    def shows_object(row: CatalogRow) -> bool:
        if row.url in known_urls or row.url == upload.url:
            return True
        found = naming.key_of(row.url) if is_canonical else None
        key = _key(upload, row.quality, naming)
        return found is not None and key is not None and form(found) == form(key)

    # The compressor does not encode names in URLs. A name is decoded only if no row has it literally,
    # because 'a%20b' and 'a b' are two files.
    objects = {row.id for row in rows if _shows_an_object(row, naming)}
    exact = [row for row in rows if _names(_file_of(row.url), upload, row, objects, form)]
    decoded = [row for row in rows if _names(_decoded(_file_of(row.url)), upload, row, objects, form)]
    showing = exact or decoded
    return [row for row in rows if row in showing or shows_object(row)]


def _has_twin(upload: Upload, ledger: LedgerReader) -> bool:
    """Whether another file has the name of this one in another normal form."""
    forms = {unicodedata.normalize(form, upload.path) for form in ("NFC", "NFD")} - {upload.path}
    return any(
        twin.state not in {State.GONE, State.SUPERSEDED} for twin in ledger.current_many(forms).values()
    )


def is_newer(row: CatalogRow, upload: Upload) -> bool:
    """Whether a row is newer than the one that the upload was admitted for."""
    if upload.catalog_row_at is None or row.id == upload.catalog_row_id:
        return False
    return row.order_time > upload.catalog_row_at


def describe_others(upload: Upload, rows: Sequence[CatalogRow]) -> str:
    """Why the rows of its video, oldest first, are not those of the upload's file, as sentences for users."""
    described = [
        f"Row {row.id} ({row.quality}, {row.status}) {_mismatch(upload, row)}."
        for row in rows[-MAX_DESCRIBED:]
    ]
    if len(rows) > MAX_DESCRIBED:
        described.insert(0, f"The video has {len(rows)} rows, all of other files; the newest are:")
    return " ".join(described)


def _mismatch(upload: Upload, row: CatalogRow) -> str:
    """Why a row is not that of the upload's file."""
    directory, name = _decoded(_file_of(row.url))
    written = _directory(upload)
    if directory != written and directory.lower() == upload.video_id:
        return f"names the directory {directory}, and the file is in {written}"
    if _shows_any_file(row):
        return f"names another file, {name}"
    return f"names no file, and the quality of the file is {upload.quality}"


def _names(
    place: tuple[str, str],
    upload: Upload,
    row: CatalogRow,
    objects: Collection[str],
    form: Callable[[str], str],
) -> bool:
    """Whether the end of a URL names the file, or the object that the compressor uploaded of it.

    `objects` are the ids of the rows whose URL shows an object, whose name another file may have. Names are
    compared in a form.
    """
    name, found = form(posixpath.basename(upload.path)), form(place[1])
    directory = _directory(upload)
    if (place[0], found) == (directory, name) and row.id not in objects:
        return True
    return place[0] == directory == upload.video_id and _names_object(found, name, row.quality)


def _shows_an_object(row: CatalogRow, naming: Naming) -> bool:
    """Whether a row's URL is that of an object of its quality: `clip_original.mp4` is that of `clip.mp4`."""
    key = naming.key_of(row.url)
    return key is not None and posixpath.splitext(key)[0].endswith(f"_{row.quality}")


def _names_object(found: str, name: str, quality: str) -> bool:
    """Whether `found` is what the compressor calls the object of a file: `{base}_{quality}{extension}`.

    The extension is that of the source, which is unknown of a rendition, and may be missing.
    """
    stem, extension = posixpath.splitext(name)
    if quality == ORIGINAL:
        return found == f"{stem}_{ORIGINAL}{extension}"
    is_rendition = extension == _RENDITION_EXTENSION and without_quality(stem, quality) not in {"", stem}
    return is_rendition and stem in {found, posixpath.splitext(found)[0]}


def _directory(upload: Upload) -> str:
    """The video's directory as the path has it: an id may be written in upper case."""
    parts = upload.path.split("/")
    return next((part for part in parts if part.lower() == upload.video_id), upload.video_id)


def _key(upload: Upload, quality: str, naming: Naming) -> str | None:
    """The key of the file's object at this quality; None if its name excludes the quality."""
    stem = posixpath.splitext(posixpath.basename(upload.path))[0]
    if quality != ORIGINAL and without_quality(stem, quality) in {"", stem}:
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
    return directory, name


def _shows_any_file(row: CatalogRow) -> bool:
    """Whether a row's URL ends in a name with an extension, or in one below the video's directory."""
    directory, name = _file_of(row.url)
    return bool(posixpath.splitext(name)[1]) or directory.lower() == row.video_id
