"""Makes a lost ledger again from bucket, catalog and disk.

No file is sent, and no object is deleted or overwritten. An object whose local file exists is left to the
daemon, which compares the two and adopts an identical object. Of every other object of this program a
released upload is recorded.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from db import CatalogRow, Identity, Upload
from storage import (
    ListedObject,
    ObjectHead,
    Receipt,
    StorageError,
    compare,
    parse_object_key,
)
from watcher.app import Application
from watcher.app.factories import make_path_template
from watcher.catalog import CompressorCatalog
from watcher.filesystem import UnreadableDirectory, UnreadableError
from watcher.filesystem.quarantine_names import parse_quarantine_name
from watcher.operations.requests_to_s3 import Requests, pages
from watcher.renditions import Rendition, rendition_of
from watcher.settings import CatalogKind
from watcher.stages.object_origin import is_described
from watcher.telemetry import human_time


class Outcome(StrEnum):
    """What an object under the key prefix turned out to be."""

    REBUILT = "rebuilt"
    """A released upload was recorded of it, or would be."""
    KNOWN = "known"
    """The ledger has an upload of its key."""
    LOCAL = "local"
    """A file of its key exists, so that the daemon compares the two."""
    FOREIGN = "foreign"
    """This program did not write it: its key or its metadata are others."""
    UNPROVEN = "unproven"
    """This program wrote it, and the server does not say what it holds."""
    UNKNOWN = "unknown"
    """The server does not describe it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One object, what it turned out to be, and a sentence about that."""

    key: str
    outcome: Outcome
    detail: str


@dataclass(frozen=True, slots=True)
class _Found:
    """An object of this program without a local file. `receipt` is None where it is still to be read back."""

    key: str
    head: ObjectHead
    rendition: Rendition
    receipt: Receipt | None


class Rebuild:
    """One rebuild; with `dry_run` nothing is recorded. It keeps a page of the bucket, and a number a file."""

    def __init__(self, application: Application, *, dry_run: bool) -> None:
        self._context = application.context
        self._ledger = application.ledger
        self._settings = application.settings
        self._naming = application.context.naming
        self._store = application.context.store
        self._template = make_path_template(application.settings, application.context.packages)
        self._dry_run = dry_run
        self._requests = Requests("rebuild")
        self.counts: Counter[Outcome] = Counter()
        self.unshown = 0
        """How many of the rebuilt uploads no catalog row showed; a catalog of our own is completed."""

    def entries(self) -> Iterator[Entry]:
        """Yield every object under the prefix, but those the ledger has, while recording.

        Raises `db.DatabaseError`, `watcher.filesystem.TreeError` for a directory that cannot be read, and
        `storage.StorageError` if the server does not answer at all. What was recorded before stays.
        """
        local = self._local_keys()
        with self._requests:
            for page in pages(self._store.objects(self._naming.key_prefix)):
                for entry in self._page(page, local):
                    self.counts[entry.outcome] += 1
                    yield entry

    def _page(self, page: Sequence[ListedObject], local: set[int]) -> Iterator[Entry]:
        known = self._ledger.known_keys([entry.key for entry in page])
        self.counts[Outcome.KNOWN] += len(known)
        asked = []
        for key in (entry.key for entry in page if entry.key not in known):
            if parse_object_key(self._naming.prefix, key, self._naming.qualities) is None:
                yield Entry(key, Outcome.FOREIGN, "Its key is not one of a rendition.")
            elif hash(key) in local:
                yield Entry(key, Outcome.LOCAL, "Its file exists: the daemon compares the two.")
            else:
                asked.append(key)
        found = []
        for key, head in self._requests.ask(self._store.head, asked):
            result = self._examine(key, head)
            if isinstance(result, Entry):
                yield result
            else:
                found.append(result)
        yield from self._record(found)

    def _local_keys(self) -> set[int]:
        """The hashes of the object keys that the files of the directory have, or may be given."""
        tree, template = self._context.tree, self._template
        tree.ensure_mounted()
        keys = set[int]()
        for entry in tree.walk(enter=lambda path: template.ignores(path) is None):
            if isinstance(entry, UnreadableDirectory):
                raise UnreadableError(entry.path, entry.reason, None)
            directory, name = posixpath.split(entry.path)
            quarantined = parse_quarantine_name(name)
            if quarantined is not None and quarantined.original is not None:
                name = quarantined.original
            path = posixpath.join(directory, name)
            rendition = template.classify_name(path)
            if not isinstance(rendition, Rendition):
                continue
            renditions = [rendition]
            if self._settings.catalog_kind is CatalogKind.COMPRESSOR:
                # Its row decides which quality an ambiguous name has.
                renditions += [
                    rendition_of(rendition.video_id, path, quality) for quality in self._naming.qualities
                ]
            for candidate in renditions:
                with suppress(StorageError):
                    keys.add(hash(self._naming.key(candidate)))
        return keys

    def _examine(self, key: str, head: ObjectHead | StorageError | None) -> _Found | Entry:
        if isinstance(head, StorageError):
            return self._unknown(key, head)
        if head is None:
            return Entry(key, Outcome.UNKNOWN, "It was deleted meanwhile.")
        rendition = self._rendition(key, head)
        if rendition is None:
            return Entry(key, Outcome.FOREIGN, "It does not have the metadata that this program gives it.")
        receipt = None
        if (checksum := head.full_checksum) is not None:
            compares = self._store.compares_checksums
            receipt = compare(head, size=head.size, checksum=checksum, compares_checksums=compares).receipt
        if receipt is None and not self._settings.aws_s3_prove_by_reading:
            detail = (
                "The server keeps no CRC64NVME of it that it has compared with the content. Set "
                "AWS_S3_PROVE_BY_READING=true to have it read back."
            )
            return Entry(key, Outcome.UNPROVEN, detail)
        return _Found(key, head, rendition, receipt)

    def _unknown(self, key: str, error: StorageError) -> Entry:
        self._requests.tolerate(error)
        return Entry(key, Outcome.UNKNOWN, str(error))

    def _rendition(self, key: str, head: ObjectHead) -> Rendition | None:
        """The rendition that the object's metadata names, if its key is that of this rendition."""
        if not is_described(head) or not _is_integer(head.metadata["source-mtime"]):
            return None
        parsed = parse_object_key(self._naming.prefix, key, [head.metadata["quality"]])
        if parsed is None or parsed.video_id != head.metadata["video-id"]:
            return None
        rendition = Rendition(parsed.video_id, parsed.filename, parsed.quality)
        try:
            return rendition if self._naming.key(rendition) == key else None
        except StorageError:
            return None

    def _record(self, found: Sequence[_Found]) -> Iterator[Entry]:
        """Record released uploads, in one transaction."""
        proven = []
        for one in found:
            try:
                proven.append((one, one.receipt or self._read(one)))
            except StorageError as exc:
                yield self._unknown(one.key, exc)
        rows = {
            video_id: self._context.catalog.rows(video_id)
            for video_id in {one.rendition.video_id for one, _ in proven}
        }
        with self._context.database.transaction("rebuild uploads"):
            for one, receipt in proven:
                showing = [
                    row
                    for row in rows[one.rendition.video_id]
                    if row.status == "ready" and self._naming.key_of(row.url) == one.key
                ]
                self.unshown += not showing
                if not self._dry_run:
                    self._add(one, receipt, showing)
        for one, receipt in proven:
            written = human_time(one.head.last_modified) if one.head.last_modified else "at an unknown time"
            by = receipt.confirmed_by
            yield Entry(one.key, Outcome.REBUILT, f"{receipt.size} bytes, written {written}, proven by {by}.")

    def _read(self, found: _Found) -> Receipt:
        """The receipt of an object that is read back; in a dry run of one that would be."""
        head = found.head
        checksum = None if self._dry_run else self._store.read_checksum(found.key, head)
        return Receipt(head.size, checksum, head.etag, head.version_id, "reading")

    def _add(self, found: _Found, receipt: Receipt, showing: Sequence[CatalogRow]) -> None:
        """Record one released upload, and that these catalog rows show its object."""
        rendition, head = found.rendition, found.head
        newest = max(showing, key=lambda row: row.age_order, default=None)
        url = newest.url if newest else self._naming.public_url_of(found.key)
        now = self._ledger.now()
        written_at = head.last_modified or now
        upload = self._ledger.add_rebuilt(
            self._template.path_of(rendition),
            video_id=rendition.video_id,
            filename=rendition.filename,
            quality=rendition.quality,
            object_key=found.key,
            identity=Identity(0, 0, receipt.size, int(head.metadata["source-mtime"])).clamped(),
            written_at=written_at,
            detail=f"from the object of {human_time(written_at)}, confirmed by {receipt.confirmed_by}",
            checksum=receipt.checksum,
            etag=receipt.etag,
            version_id=receipt.version_id,
            confirmed_by=receipt.confirmed_by,
            url=url,
            catalog_row_id=newest.id if newest else None,
            catalog_row_at=newest.order_time if newest else None,
        )
        self._note_shown(upload, url, showing)

    def _note_shown(self, upload: Upload, url: str, showing: Iterable[CatalogRow]) -> None:
        """Record the publications of an upload, or complete the catalog that this program keeps."""
        catalog = self._context.catalog
        if isinstance(catalog, CompressorCatalog):
            for row in showing:
                catalog.publications.record(row, upload, row.url, self._ledger.now())
        elif catalog.creates_rows:
            local_url = self._naming.local_url(upload)
            catalog.announce(upload, local_url=local_url, public_url=url)
            catalog.publish(upload, local_url=local_url, public_url=url)


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and text.isascii()
