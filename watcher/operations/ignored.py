"""Lists the files of the directory that are never uploaded, with the reasons; writes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from watcher.app.factories import make_path_template, make_tree
from watcher.filesystem import Packages, UnreadableDirectory
from watcher.filesystem.quarantine_names import parse_quarantine_name
from watcher.renditions import Ignored, IgnoredKind
from watcher.settings import Settings

MAX_LISTED = 1000


@dataclass(slots=True)
class IgnoredListing:
    """How many files are ignored by kind of reason, and the first `MAX_LISTED` with the reason of each."""

    counts: Counter[IgnoredKind] = field(default_factory=Counter)
    files: dict[str, Ignored] = field(default_factory=dict)


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
