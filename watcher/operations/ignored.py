"""Lists what is never uploaded, with the reasons: files of the directory, and catalog rows without files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from db import Ledger
from watcher import catalog
from watcher.app.factories import make_catalog, make_naming, make_path_template, make_tree
from watcher.filesystem import Packages, UnreadableDirectory
from watcher.filesystem.quarantine_names import parse_quarantine_name
from watcher.renditions import Ignored, IgnoredKind
from watcher.settings import Settings

MAX_LISTED = 1000


@dataclass(slots=True)
class IgnoredListing:
    """How many files are ignored by kind of reason, and the first `MAX_LISTED` with the reason of each.

    `ready` are those of the listed files whose catalog rows are ready. `missing` are the first `MAX_LISTED`
    files that ready rows name and that do not exist, with the row of each; `missing_rows` is their number.
    """

    counts: Counter[IgnoredKind] = field(default_factory=Counter)
    files: dict[str, Ignored] = field(default_factory=dict)
    ready: set[str] = field(default_factory=set)
    missing: dict[str, str] = field(default_factory=dict)
    missing_rows: int = 0


def list_ignored(settings: Settings) -> IgnoredListing:
    """Look at every file of the directory, apart from directories that IGNORE_PATTERNS names.

    Raises `watcher.filesystem.openat.RootUnavailableError`.
    """
    tree = make_tree(settings)
    template = make_path_template(settings, Packages(tree))
    listing = IgnoredListing()
    for entry in tree.walk(enter=lambda path: template.ignores(path) is None):
        if isinstance(entry, UnreadableDirectory) or parse_quarantine_name(entry.path.rpartition("/")[2]):
            continue
        if isinstance(found := template.classify(entry.path), Ignored):
            listing.counts[found.kind] += 1
            if len(listing.files) < MAX_LISTED:
                listing.files[entry.path] = found
    return listing


def compare_with_catalog(listing: IgnoredListing, settings: Settings, ledger: Ledger) -> None:
    """Add what the compressor's catalog says: which listed files have ready rows, and which rows no file.

    Raises `watcher.filesystem.openat.RootUnavailableError` and `db.DatabaseError`.
    """
    rows = make_catalog(settings, ledger)
    if not isinstance(rows, catalog.CompressorCatalog):
        return
    tree = make_tree(settings)
    template = make_path_template(settings, Packages(tree))
    listing.ready.update(catalog.IgnoredFiles(rows.table, template).find(listing.files))
    for path, reason in catalog.MissingFiles(rows, ledger, tree, make_naming(settings)).find():
        listing.missing_rows += 1
        if len(listing.missing) < MAX_LISTED:
            listing.missing[path] = reason
