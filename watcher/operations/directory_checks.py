"""Checks that files in the watched directory can be read, leased and released, using a temporary file."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from storage import CheckResult, failed, not_tried, ok, warning
from watcher.filesystem import (
    FileMissingError,
    NotOursError,
    RootUnavailableError,
    Tree,
    TreeError,
    UnreadableDirectory,
    UnreadableError,
    leases,
    mounts,
)
from watcher.filesystem.openat import Owned, sentence
from watcher.telemetry import human_size

NAMES = ("leases", "rename and unlink", "inotify", "disk space")
"""The checks that need the directory."""

INOTIFY_LIMITS = "/proc/sys/fs/inotify"
SCARCE_BYTES = 100 << 20
SCARCE_SHARE = 0.05
_QUARANTINED = ".quarantined"
MAX_SUBDIRECTORIES = 4
"""Subdirectories that are tested besides the directory itself, because their permissions may differ."""


@dataclass(slots=True)
class _Survey:
    """Result of a walk over the directory."""

    directories: int = 1
    unreadable: tuple[str, str] | None = None
    """The first path that cannot be read, and the reason."""
    foreign_file: str | None = None
    """A file of another user; a lease on it needs CAP_LEASE: see fcntl(2)."""
    subdirectories: tuple[str, ...] = ()
    """Directories below the watched one that contain files."""


def check_directory(path: str, *, inotify: str = INOTIFY_LIMITS) -> Iterator[CheckResult]:
    """Check the watched directory, yielding each result as it is known.

    Creates a small file whose name begins with '.', and removes it. `inotify` is the directory of the
    kernel's limits: see inotify(7).
    """
    try:
        tree = Tree(path)
        survey = _survey(tree)
    except RootUnavailableError as exc:
        yield failed(
            "directory",
            f"{path} cannot be read. {exc.reason}",
            "Correct COMPLETED_DIR, mount its file system, or grant this user read access.",
        )
        yield from (not_tried(name, "directory") for name in NAMES)
        return
    yield _directory(tree, survey)
    yield _leases(tree, survey)
    yield _rename_and_unlink(tree, survey)
    yield _inotify(survey, inotify)
    yield check_disk("disk space", tree.root)


def check_disk(name: str, path: str) -> CheckResult:
    """Check the free space of the file system that holds `path`."""
    status = os.statvfs(path)
    free, size = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    detail = f"{human_size(free)} of {human_size(size)} are free on the file system of {path}."
    if free < SCARCE_BYTES:
        return failed(name, detail, "Free some space there.")
    if free < size * SCARCE_SHARE:
        return warning(name, detail, "Free some space there, or shorten RELEASE_AFTER_SECONDS.")
    return ok(name, detail)


def _survey(tree: Tree) -> _Survey:
    survey = _Survey()

    def enter(_: str) -> bool:
        survey.directories += 1
        return True

    for found in tree.walk(enter=enter):
        if isinstance(found, UnreadableDirectory):
            survey.unreadable = survey.unreadable or (found.path, found.reason)
            continue
        directory, seen = os.path.dirname(found.path), survey.subdirectories
        if not directory or directory in seen or len(seen) >= MAX_SUBDIRECTORIES:
            continue
        survey.subdirectories += (directory,)
        try:
            with Owned(tree.open(found.path)) as descriptor:
                if os.fstat(descriptor).st_uid != os.geteuid():
                    survey.foreign_file = survey.foreign_file or found.path
        except UnreadableError as exc:
            survey.unreadable = survey.unreadable or (found.path, exc.reason)
        except (FileMissingError, NotOursError):
            continue  # deleted meanwhile, or not a regular file of the directory
    return survey


def _directory(tree: Tree, survey: _Survey) -> CheckResult:
    with Owned(tree.open_root()) as descriptor:
        kind = mounts.file_system_type(descriptor) or "unknown"
    if survey.unreadable is not None:
        path, reason = survey.unreadable
        return failed(
            "directory",
            f"{path} in {tree.root} cannot be read. {reason}",
            "Run the daemon as the user who writes the files.",
        )
    detail = f"{tree.root} can be read; its file system is {kind}."
    if kind not in leases.TRUSTED_FILE_SYSTEMS:
        return warning(
            "directory",
            detail,
            "Writers on other machines are not visible to this kernel: files must stay unchanged for "
            "SETTLE_SECONDS, so set it longer than any pause of the encoder.",
        )
    return ok("directory", detail)


def _leases(tree: Tree, survey: _Survey) -> CheckResult:
    """Check that the kernel grants leases, on our own file and on one of another user."""
    fallback = "Until then files must stay unchanged for SETTLE_SECONDS."
    try:
        with Owned(tree.open_root()) as directory, _test_file(directory) as (_, descriptor):
            answer = leases.check_writers(descriptor)
    except OSError as exc:
        return failed(
            "leases", f"No file can be created in {tree.root} to test them. {sentence(exc)}", _AS_WRITER
        )
    if answer is leases.Writers.UNKNOWN:
        return warning("leases", f"The kernel grants no reliable leases in {tree.root}.", fallback)
    if survey.foreign_file is not None:
        with suppress(FileMissingError, NotOursError), Owned(tree.open(survey.foreign_file)) as descriptor:
            if leases.check_writers(descriptor) is leases.Writers.UNKNOWN:
                return warning(
                    "leases",
                    f"{survey.foreign_file} belongs to another user, and no lease on it is granted.",
                    f"Run the daemon as that user, or with CAP_LEASE. {fallback}",
                )
    return ok("leases", "They are granted: the kernel tells when a file has no writers.")


_AS_WRITER = (
    "Run the daemon as the user who writes the files, or grant its user write access to the directory."
)


def _rename_and_unlink(tree: Tree, survey: _Survey) -> CheckResult:
    name = "rename and unlink"
    for subdirectory in ("", *survey.subdirectories):
        shown = os.path.join(tree.root, subdirectory) if subdirectory else tree.root
        try:
            opened = tree.open_parent(f"{subdirectory}/any")[0] if subdirectory else tree.open_root()
            with Owned(opened) as directory:
                status = os.fstat(directory)
                # The system calls of releasing and restoring a file.
                both = {"src_dir_fd": directory, "dst_dir_fd": directory}
                with _test_file(directory) as (test_file, _):
                    os.rename(test_file, test_file + _QUARANTINED, **both)
                    os.link(test_file + _QUARANTINED, test_file, **both, follow_symlinks=False)
                    os.unlink(test_file + _QUARANTINED, dir_fd=directory)
        except FileMissingError:
            continue
        except (OSError, TreeError) as exc:
            reason = exc.reason if isinstance(exc, TreeError) else sentence(exc)
            return failed(name, f"It is not possible in {shown}. {reason}", _AS_WRITER)
        if status.st_mode & stat.S_ISVTX and os.geteuid() not in (0, status.st_uid):
            return failed(
                name,
                f"{shown} has the sticky bit, so only the owners of its files may rename them.",
                "Run the daemon as the user who writes the files, or clear the bit (chmod -t).",
            )
    return ok(name, f"Files in {tree.root} can be renamed, restored and removed.")


@contextmanager
def _test_file(directory: int) -> Iterator[tuple[str, int]]:
    """Create a file in an open directory; yield its name and a descriptor for reading, and remove it."""
    # IGNORE_PATTERNS matches it by default, and it has no extension of a video.
    name = f".video-uploader-doctor-{uuid.uuid4().hex}"
    create = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    os.close(os.open(name, create, 0o600, dir_fd=directory))
    try:
        with Owned(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)) as descriptor:
            yield name, descriptor
    finally:
        for left in (name, name + _QUARANTINED):
            with suppress(FileNotFoundError):
                os.unlink(left, dir_fd=directory)


def _inotify(survey: _Survey, inotify: str) -> CheckResult:
    limits = {}
    for limit in ("max_user_watches", "max_user_instances"):
        try:
            with open(os.path.join(inotify, limit), encoding="ascii") as file:
                limits[limit] = int(file.read())
        except OSError as exc:
            return warning("inotify", f"Its limit {limit} cannot be read. {sentence(exc)}", _ONLY_SCANS)
    allowed, needed = limits["max_user_watches"], survey.directories
    detail = f"{needed} directories need a watch, and fs.inotify.max_user_watches is {allowed}"
    if limits["max_user_instances"] < 1:
        return failed(
            "inotify", "fs.inotify.max_user_instances is 0.", f"Raise it with sysctl. {_ONLY_SCANS}"
        )
    if needed > allowed:
        return failed("inotify", f"{detail}.", f"Raise it with sysctl. {_ONLY_SCANS}")
    if needed > allowed // 2:
        return warning(
            "inotify",
            f"{detail}: they need more than half of it.",
            "Raise it with sysctl; other programs use watches too.",
        )
    return ok("inotify", f"{detail}.")


_ONLY_SCANS = "Without watches, files are found only by scans, every RESCAN_SECONDS."
