"""Giving up a local copy so that no writer can ever lose anything by it: the file-system half of release.

    set_aside ─▶ about a second, the caller's ─▶ delete_quarantined ─▶ Released | Restored | LeftInQuarantine

A writer waiting in `open(O_TRUNC)` for our lease to end would get the inode that we unlink, and its encode
would be gone. So the file is renamed first: whoever opens its path from then on makes a new file, and the
second covers those who had looked the old one up already. Whoever is there nevertheless is seen by the lease.
One that comes while it is renamed waits for a lease, too, and gets the file back under its name at once: an
encoder opens its file a second time, and would fail if it were away for that second.

Where leases are not available or not reliable (see `watcher.filesystem.leases`), the identity alone decides:
a writer that has opened the file and written nothing in all that time is then not seen.

A file with other names is kept. Where hard links are allowed its name here may go, for the content stays
under the others; but only if a lease says that nobody writes it under any of them, because those writes
would never be seen again.

Whether the copy may be given up at all (published, retention over, the object still there) is not asked here.
"""

import errno
import os
import posixpath
import re
from dataclasses import dataclass

from db import Identity
from watcher.failpoints import Point, failpoint
from watcher.filesystem import leases
from watcher.filesystem.leases import Hold, Writers
from watcher.filesystem.openat import (
    FileMissingError,
    NotOursError,
    UnreadableError,
    open_file_at,
    owned,
    sentence,
)
from watcher.filesystem.tree import Tree

ABOUT_TO_WRITE = "Some process is about to write it."

# Anybody may leave such a name: a number longer than this is more than a database can hold.
_QUARANTINE_NAME = re.compile(r"\.video-uploader-([1-9][0-9]{0,17})(?:-[1-9][0-9]{0,17})?\.aside", re.ASCII)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A file under its name aside: `relative` is where it was, `identity` that of the file we hashed.

    `claim` is the number of the claim under which it was set aside.
    """

    relative: str
    upload_id: int
    identity: Identity
    claim: int = 0

    @property
    def quarantine_path(self) -> str:
        """Where the file is now, relative to the watched directory."""
        return posixpath.join(posixpath.dirname(self.relative), quarantine_name(self.upload_id, self.claim))


@dataclass(frozen=True, slots=True)
class Kept:
    """The file was not set aside; nothing has changed. `error` is there if the system refused it."""

    reason: str
    error: OSError | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """The local copy is gone, and the disk knows it; the content has `other_names` elsewhere."""

    other_names: int = 0


@dataclass(frozen=True, slots=True)
class Restored:
    """The file is under its own name again: look at it anew."""

    reason: str


@dataclass(frozen=True, slots=True)
class LeftInQuarantine:
    """The file is still aside, because it can neither be given up nor put back: try `repair` later."""

    reason: str


Outcome = Released | Restored | LeftInQuarantine


def quarantine_name(upload_id: int, claim: int = 0) -> str:
    """The name that the file of an upload has while it is set aside, in its own directory.

    With the claim in it, a daemon that was thought dead and wakes up finds nothing under its name once
    another one has taken over: not even an unlink that hung in the kernel can hit what that one set aside.
    """
    return f".video-uploader-{upload_id}-{claim}.aside" if claim else f".video-uploader-{upload_id}.aside"


def parse_quarantine_name(name: str) -> int | None:
    """The upload whose file was set aside under this name, None if the name is no such."""
    match = _QUARANTINE_NAME.fullmatch(name)
    return int(match[1]) if match else None


def quarantined_paths(tree: Tree, relative: str, upload_id: int) -> list[str]:
    """The paths at which the file of an upload is set aside, under whichever claim: none or one, as a rule.

    Reads the file's whole directory. Raises UnreadableError, RootUnavailableError and OSError.
    """
    try:
        directory, _ = tree.open_parent(relative)
    except (FileMissingError, NotOursError):
        return []
    with owned(directory):
        names = sorted(name for name in os.listdir(directory) if parse_quarantine_name(name) == upload_id)
    return [posixpath.join(posixpath.dirname(relative), name) for name in names]


def is_away(tree: Tree, relative: str, upload_id: int) -> bool:
    """Whether a file that was not found is merely away: set aside by a release, or put back since.

    Raises as `quarantined_paths` and `Tree.stat` do.
    """
    return bool(quarantined_paths(tree, relative, upload_id)) or tree.stat(relative) is not None


def quarantine(
    tree: Tree, relative: str, upload_id: int, identity: Identity, *, claim: int = 0
) -> Quarantined | Kept:
    """Rename a file aside, if it is the one we hashed and nobody writes it.

    Raises what `Tree.open` raises; nothing has changed then.
    """
    directory, name = tree.open_parent(relative)
    with (
        owned(directory),
        owned(open_file_at(directory, name, relative, allow_hard_links=tree.allows_hard_links)) as descriptor,
        leases.hold(descriptor) as hold,
    ):
        if tree.identity(os.fstat(descriptor)) != identity:
            return Kept("It is not the file that was hashed any more.")
        # The compressor looks at its file after writing it, and must find it under its name.
        if hold.writers is Writers.SOME:
            return Kept("Some process has it open for writing.")
        aside = _rename_to_quarantine(directory, name, Quarantined(relative, upload_id, identity, claim))
        if isinstance(aside, Quarantined) and hold.is_broken():
            # Who waits for the end of our lease writes this file, and must not miss it meanwhile either.
            new_name = posixpath.basename(aside.quarantine_path)
            if isinstance(_restore(directory, new_name, name, ABOUT_TO_WRITE), Restored):
                return Kept(ABOUT_TO_WRITE)
        return aside


def delete_quarantined(tree: Tree, aside: Quarantined) -> Outcome:
    """Unlink a file that was set aside about a second ago, or put it back if anything speaks against it.

    Raises what `Tree.open_parent` raises, FileMissingError if the file is not there any more, and OSError if
    it is unlinked but the disk could not be made to know it.
    """
    directory, name = tree.open_parent(aside.quarantine_path)
    with owned(directory):
        outcome = _unlink_unless_needed(tree, directory, name, aside.quarantine_path, aside.identity)
        if isinstance(outcome, Released):
            return outcome
        return _restore(directory, name, posixpath.basename(aside.relative), outcome)


def restore(tree: Tree, aside: Quarantined, reason: str) -> Restored | LeftInQuarantine:
    """Give a file its own name back without trying to release it: the program ends, or the object is lost.

    Raises what `Tree.open_parent` raises, and FileMissingError if the file is not there any more.
    """
    directory, name = tree.open_parent(aside.quarantine_path)
    with owned(directory):
        return _restore(directory, name, posixpath.basename(aside.relative), reason)


def repair(tree: Tree, quarantine_path: str, original_name: str, identity: Identity | None) -> Outcome:
    """Deal with a file that a crash, or a `LeftInQuarantine`, has left aside.

    It gets its own name back, in the directory where it is now, which may have been moved since. If that name
    is taken by another file, the one aside is older: it is given up if it is provably what was hashed
    (`identity`; None if that is not known) and nobody writes it, and stays otherwise.

    Raises as `delete_quarantined` does.
    """
    directory, name = tree.open_parent(quarantine_path)
    with owned(directory):
        if identity is not None and _is_other_file(directory, name, original_name):
            outcome = _unlink_unless_needed(tree, directory, name, quarantine_path, identity)
            if isinstance(outcome, Released):
                return outcome
        return _restore(directory, name, original_name, "It was found set aside.")


def _rename_to_quarantine(directory: int, name: str, aside: Quarantined) -> Quarantined | Kept:
    new_name = posixpath.basename(aside.quarantine_path)
    try:
        # Proves that the new name is free, and that a link, by which alone we put back, can be made here.
        os.link(name, new_name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        failpoint(Point.LINKED_ASIDE)
        os.unlink(new_name, dir_fd=directory)
        os.rename(name, new_name, src_dir_fd=directory, dst_dir_fd=directory)
    except FileExistsError:
        return Kept(f"There is a file {new_name!r} beside it already, left by an earlier release.")
    except OSError as error:
        return Kept(
            f"It could not be set aside. {sentence(error)} Renaming and linking must be possible there: run"
            " the service as the user who writes the files, on a file system that has hard links.",
            error,
        )
    return aside


def _unlink_unless_needed(
    tree: Tree, directory: int, name: str, relative: str, identity: Identity
) -> Released | str:
    """Unlink a file if it is the one we hashed, has no other name and no writer; else say why not."""
    try:
        descriptor = open_file_at(directory, name, relative, allow_hard_links=tree.allows_hard_links)
    except (NotOursError, UnreadableError) as error:
        return error.reason
    with owned(descriptor), leases.hold(descriptor) as hold:
        objection = _objection(tree, hold, identity)
        if objection is not None:
            return objection
        failpoint(Point.LEASED)
        try:
            os.unlink(name, dir_fd=directory)
        except OSError as error:
            return f"It could not be removed. {sentence(error)}"
        # Asked afterwards: this is what is left, whoever has added or removed a name meanwhile.
        other_names = os.fstat(descriptor).st_nlink
    _sync(directory)
    return Released(other_names)


def _objection(tree: Tree, hold: Hold, identity: Identity) -> str | None:
    """What speaks against unlinking an open file on which we hold a lease, or tried to."""
    status = os.fstat(hold.descriptor)
    if hold.writers is Writers.SOME:
        return "Some process has it open for writing."
    if tree.identity(status) != identity:
        return "It is not the file that was hashed any more."
    if status.st_nlink != 1 and not (tree.allows_hard_links and hold.writers is Writers.NONE):
        return f"It has {status.st_nlink} names."
    if hold.is_broken():
        return ABOUT_TO_WRITE
    return None


def _restore(directory: int, name: str, original: str, reason: str) -> Restored | LeftInQuarantine:
    """Give a file its own name back, with `link`, which never overwrites."""
    try:
        os.link(name, original, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError as error:
        raise FileMissingError(name, "The file that was set aside is not there any more.") from error
    except FileExistsError:
        # The very same file under both names is what a crash between link and unlink leaves.
        if _is_other_file(directory, name, original):
            return LeftInQuarantine(
                f"{reason} Its name {original!r} is taken by another file: it stays {name!r}."
            )
    except OSError as error:
        return LeftInQuarantine(f"{reason} It could not be given back its name. {sentence(error)}")
    try:
        # A power cut must not find the old name gone and the new one not yet written.
        _sync(directory)
        os.unlink(name, dir_fd=directory)
    except OSError as error:
        return LeftInQuarantine(f"{reason} It has both names, {original!r} and {name!r}. {sentence(error)}")
    return Restored(reason)


def _is_other_file(directory: int, name: str, original: str) -> bool:
    """Whether there is a file `original`, and another one than `name`."""
    try:
        there = os.stat(original, dir_fd=directory, follow_symlinks=False)
        aside = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return not os.path.samestat(there, aside)


def _sync(directory: int) -> None:
    try:
        os.fsync(directory)
    except OSError as error:
        # Some file systems have nothing to sync about a directory, and say so.
        if error.errno != errno.EINVAL:
            raise
