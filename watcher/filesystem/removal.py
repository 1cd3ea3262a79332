"""Removal of a local copy without ever losing a write: the file-system half of release.

    quarantine ─▶ about a second, the caller's ─▶ delete_quarantined ─▶ Released | Restored | LeftInQuarantine

A writer that blocks in `open(O_TRUNC)` until our lease ends would get the inode that we unlink, and its
encode would be lost. So the file is renamed first: a process that opens its path from then on creates a new
file, and the second covers processes that had already looked the old path up. The lease detects any writer
that remains. A writer that arrives during the rename blocks on a lease, too, and the file is renamed back at
once: an encoder opens its file a second time, and would fail if it were missing for that second.

Where leases are unavailable or unreliable (see `watcher.filesystem.leases`), only the identity decides: a
writer that has opened the file and written nothing in all that time is then not detected.

Renaming changes the ctime, which is all that shows an edit that keeps size and mtime. It must be the recorded
one before the file is renamed and, where leases prove that no process writes it meanwhile, the one right
after renaming it before the file is unlinked. A file that was found in quarantine is hashed again instead.

A file with other names is kept. Where hard links are allowed its name here may be removed, because the
content stays under the others; but only if a lease proves that no process writes it under any of them,
because later writes would never be noticed.

The caller decides whether the copy may be removed at all (published, retention over, object still present).
"""

import errno
import os
import posixpath
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from db import Identity, Upload
from watcher.failpoints import Point, failpoint
from watcher.filesystem import leases
from watcher.filesystem.leases import LeaseAttempt, Writers
from watcher.filesystem.openat import (
    FileMissingError,
    NotOursError,
    Owned,
    UnreadableError,
    open_file_at,
    sentence,
)
from watcher.filesystem.quarantine_names import parse_quarantine_name, quarantine_name
from watcher.filesystem.tree import Tree

ABOUT_TO_WRITE = "Some process is about to write it."


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A file in quarantine: `relative` is its original path, `identity` that of the file that was hashed.

    The ctime in it is that after the renaming, None if a process may have written the file meanwhile. `claim`
    is the number of the claim under which it was quarantined, `token` that of the ledger.
    """

    relative: str
    upload_id: int
    identity: Identity
    claim: int
    token: str

    @property
    def quarantine_path(self) -> str:
        """The present path, relative to the watched directory."""
        directory, original = posixpath.split(self.relative)
        name = quarantine_name(original, self.upload_id, self.claim, self.token)
        return posixpath.join(directory, name)


@dataclass(frozen=True, slots=True)
class Kept:
    """The file was not quarantined; nothing has changed. `error` is set if the system refused it."""

    reason: str
    error: OSError | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """The local copy is unlinked durably; the content has `other_names` hard links left."""

    other_names: int = 0


@dataclass(frozen=True, slots=True)
class Restored:
    """The file has its own name again and must be checked anew."""

    reason: str


@dataclass(frozen=True, slots=True)
class LeftInQuarantine:
    """The file can be neither removed nor restored: try `repair` later."""

    reason: str


Outcome = Released | Restored | LeftInQuarantine


def quarantined_paths(tree: Tree, upload: Upload, token: str) -> list[str]:
    """The quarantine paths of an upload's file, under any claim: normally none or one.

    `token` is that of the upload's ledger. Lists the file's whole directory. Raises UnreadableError,
    RootUnavailableError and OSError.
    """
    try:
        directory, _ = tree.open_parent(upload.path)
    except (FileMissingError, NotOursError):
        return []
    names = []
    with Owned(directory):
        for name in sorted(os.listdir(directory)):
            parsed = parse_quarantine_name(name)
            if parsed is None or parsed.upload_id != upload.id:
                continue
            with suppress(FileMissingError):
                if parsed.belongs_to(upload, token, _identity_at(tree, directory, name)):
                    names.append(name)
    return [posixpath.join(posixpath.dirname(upload.path), name) for name in names]


def identity_of_quarantined(tree: Tree, quarantine_path: str) -> Identity:
    """The identity of a file in quarantine, of whatever type and with however many names.

    Raises as `Tree.open_parent` does, and FileMissingError if the file does not exist any more.
    """
    directory, name = tree.open_parent(quarantine_path)
    with Owned(directory):
        return _identity_at(tree, directory, name)


def is_present_or_quarantined(tree: Tree, upload: Upload, token: str) -> bool:
    """Whether a file that was not found is in quarantine, or has been restored since.

    Raises as `quarantined_paths` and `Tree.stat` do.
    """
    return bool(quarantined_paths(tree, upload, token)) or tree.stat(upload.path) is not None


def quarantine(
    tree: Tree, relative: str, upload_id: int, identity: Identity, *, token: str, claim: int = 0
) -> Quarantined | Kept:
    """Rename a file into quarantine, if it is the one that was hashed and no process writes it.

    Raises as `Tree.open` does; nothing has changed then.
    """
    directory, name = tree.open_parent(relative)
    with (
        Owned(directory),
        Owned(open_file_at(directory, name, relative, allow_hard_links=tree.allows_hard_links)) as descriptor,
        leases.hold(descriptor) as lease,
    ):
        if not tree.identity(os.fstat(descriptor)).is_exactly(identity):
            return Kept("It is not the file that was hashed any more.")
        # The compressor stats its file after writing it, and must find it under its name.
        if lease.writers is Writers.SOME:
            return Kept("Some process has it open for writing.")
        result = _rename_to_quarantine(
            directory, name, Quarantined(relative, upload_id, identity, claim, token)
        )
        if isinstance(result, Quarantined) and lease.is_broken():
            # The process that waits for the end of our lease must find the file under its name.
            new_name = posixpath.basename(result.quarantine_path)
            if isinstance(_restore(directory, new_name, name, ABOUT_TO_WRITE), Restored):
                return Kept(ABOUT_TO_WRITE)
        if isinstance(result, Quarantined):
            is_proven = lease.writers is Writers.NONE
            ctime_ns = tree.identity(os.fstat(descriptor)).ctime_ns if is_proven else None
            return replace(result, identity=replace(identity, ctime_ns=ctime_ns))
        return result


def delete_quarantined(tree: Tree, quarantined: Quarantined) -> Outcome:
    """Unlink a file that was quarantined about a second ago, or restore it if any check fails.

    Raises as `Tree.open_parent` does, FileMissingError if the file does not exist any more, and OSError if it
    is unlinked but its directory could not be synced.
    """
    directory, name = tree.open_parent(quarantined.quarantine_path)
    with Owned(directory):
        outcome = _unlink_if_safe(tree, directory, name, quarantined.quarantine_path, quarantined.identity)
        if isinstance(outcome, Released):
            return outcome
        return _restore(directory, name, posixpath.basename(quarantined.relative), outcome)


def restore(tree: Tree, quarantined: Quarantined, reason: str) -> Restored | LeftInQuarantine:
    """Rename a file back without trying to remove it, because the program ends or the object is lost.

    Raises as `Tree.open_parent` does, and FileMissingError if the file does not exist any more.
    """
    directory, name = tree.open_parent(quarantined.quarantine_path)
    with Owned(directory):
        return _restore(directory, name, posixpath.basename(quarantined.relative), reason)


def repair(
    tree: Tree,
    quarantine_path: str,
    original_name: str,
    identity: Identity | None,
    *,
    is_hashed_content: Callable[[int], bool],
) -> Outcome:
    """Restore a file that a crash, or a `LeftInQuarantine`, has left in quarantine.

    It gets its own name back in its present directory, which may have been moved since. If another file has
    that name, the quarantined one is older: it is removed if it is provably the one that was hashed
    (`identity`; None if unknown) and no process writes it, and stays otherwise. Its content is compared by
    `is_hashed_content`, which is given a descriptor and may read the whole file, because the ctime is that of
    the renaming.

    Raises as `delete_quarantined` does, and what `is_hashed_content` raises; the file stays then.
    """
    directory, name = tree.open_parent(quarantine_path)
    with Owned(directory):
        if identity is not None and _is_other_file(directory, name, original_name):
            ctime_ns = _ctime_if_hashed(tree, directory, name, quarantine_path, identity, is_hashed_content)
            if ctime_ns is not None:
                as_hashed = replace(identity, ctime_ns=ctime_ns)
                outcome = _unlink_if_safe(tree, directory, name, quarantine_path, as_hashed)
                if isinstance(outcome, Released):
                    return outcome
        return _restore(directory, name, original_name, "It was found in quarantine.")


def _ctime_if_hashed(
    tree: Tree,
    directory: int,
    name: str,
    relative: str,
    identity: Identity,
    is_hashed_content: Callable[[int], bool],
) -> int | None:
    """The ctime of a file from before its content was compared; None if it is not the one that was hashed."""
    try:
        descriptor = open_file_at(directory, name, relative, allow_hard_links=tree.allows_hard_links)
    except (NotOursError, UnreadableError):
        return None
    with Owned(descriptor):
        present = tree.identity(os.fstat(descriptor))
        return present.ctime_ns if present == identity and is_hashed_content(descriptor) else None


def _rename_to_quarantine(directory: int, name: str, quarantined: Quarantined) -> Quarantined | Kept:
    new_name = posixpath.basename(quarantined.quarantine_path)
    try:
        # Proves that the new name is free and that links, which alone can restore the file, work here.
        os.link(name, new_name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        failpoint(Point.QUARANTINE_LINKED)
        os.unlink(new_name, dir_fd=directory)
        os.rename(name, new_name, src_dir_fd=directory, dst_dir_fd=directory)
    except FileExistsError:
        return Kept(f"The file {new_name!r} of an earlier release already exists beside it.")
    except OSError as error:
        return Kept(
            f"It could not be quarantined. {sentence(error)} Renaming and linking must be possible there: run"
            " the service as the user who writes the files, on a file system that has hard links.",
            error,
        )
    return quarantined


def _unlink_if_safe(
    tree: Tree, directory: int, name: str, relative: str, identity: Identity
) -> Released | str:
    """Unlink a file if it is the one that was hashed, with no other name and no writer; else the reason."""
    try:
        descriptor = open_file_at(directory, name, relative, allow_hard_links=tree.allows_hard_links)
    except (NotOursError, UnreadableError) as error:
        return error.reason
    with Owned(descriptor), leases.hold(descriptor) as lease:
        reason = _reason_to_keep(tree, lease, identity)
        if reason is not None:
            return reason
        failpoint(Point.LEASED)
        try:
            os.unlink(name, dir_fd=directory)
        except OSError as error:
            return f"It could not be removed. {sentence(error)}"
        # Counted afterwards: names may have been added or removed meanwhile.
        other_names = os.fstat(descriptor).st_nlink
    _sync(directory)
    return Released(other_names)


def _reason_to_keep(tree: Tree, lease: LeaseAttempt, identity: Identity) -> str | None:
    """Why an open file must not be unlinked, judged under the lease; None if it may be."""
    status = os.fstat(lease.descriptor)
    if lease.writers is Writers.SOME:
        return "Some process has it open for writing."
    present = tree.identity(status)
    if present != identity:
        return "It is not the file that was hashed any more."
    if status.st_nlink != 1 and not (tree.allows_hard_links and lease.writers is Writers.NONE):
        return f"It has {status.st_nlink} names."
    if not present.is_exactly(identity):
        return "It may have been edited since it was hashed."
    if lease.is_broken():
        return ABOUT_TO_WRITE
    return None


def _restore(directory: int, name: str, original: str, reason: str) -> Restored | LeftInQuarantine:
    """Rename a file back with link(2), which never overwrites."""
    try:
        os.link(name, original, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError as error:
        raise FileMissingError(name, "The quarantined file does not exist any more.") from error
    except FileExistsError:
        # A crash between link and unlink leaves the same file under both names.
        if _is_other_file(directory, name, original):
            return LeftInQuarantine(f"{reason} Another file has its name {original!r}: it stays {name!r}.")
    except OSError as error:
        return LeftInQuarantine(f"{reason} It could not be renamed back. {sentence(error)}")
    try:
        # A power cut must not leave the file with neither name on the disk.
        _sync(directory)
        os.unlink(name, dir_fd=directory)
    except OSError as error:
        return LeftInQuarantine(f"{reason} It has both names, {original!r} and {name!r}. {sentence(error)}")
    return Restored(reason)


def _identity_at(tree: Tree, directory: int, name: str) -> Identity:
    try:
        return tree.identity(os.stat(name, dir_fd=directory, follow_symlinks=False))
    except FileNotFoundError as error:
        raise FileMissingError(name, "The quarantined file does not exist any more.") from error


def _is_other_file(directory: int, name: str, original: str) -> bool:
    """Whether `original` exists and is another file than `name`."""
    try:
        present = os.stat(original, dir_fd=directory, follow_symlinks=False)
        quarantined = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return not os.path.samestat(present, quarantined)


def _sync(directory: int) -> None:
    try:
        os.fsync(directory)
    except OSError as error:
        # Some file systems cannot sync a directory.
        if error.errno != errno.EINVAL:
            raise
