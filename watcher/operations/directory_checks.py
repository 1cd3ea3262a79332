"""Does the watched directory let us do what releasing a file takes? Tried for real, on a file of our own."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Self

from storage import CheckResult, failed, not_tried, ok, warning
from watcher.filesystem import leases, mounts
from watcher.filesystem.openat import (
    FileMissingError,
    NotOursError,
    RootUnavailableError,
    TreeError,
    UnreadableError,
    owned,
    sentence,
)
from watcher.filesystem.tree import FoundFile, Tree, UnreadableDirectory
from watcher.telemetry.formatting import human_size

NAMES = ("leases", "rename and unlink", "inotify", "disk space")
"""The checks that make no sense without a directory."""

INOTIFY = "/proc/sys/fs/inotify"
SCARCE_BYTES = 100 << 20
SCARCE_SHARE = 0.05
PLACES_TRIED = 4
"""In the directory itself and in so many below it: the rights that matter are often those of the latter."""


@dataclass(slots=True)
class _Survey:
    """What a walk over the directory found."""

    directories: int = 1
    unreadable: tuple[str, str] | None = None
    """The first path that cannot be looked into, and why."""
    foreign_file: str | None = None
    """A file that belongs to somebody else, whose lease is not ours to take without a privilege."""
    places: tuple[str, ...] = ()
    """Directories below the watched one that have files in them."""


def check_directory(path: str, *, inotify: str = INOTIFY) -> Iterator[CheckResult]:
    """Every check of the watched directory, one after the other as it ends.

    A small file whose name begins with '.' is made in it, and removed again. `inotify` is where the kernel
    tells its limits.
    """
    try:
        tree = Tree(path)
        survey = _survey(tree)
    except RootUnavailableError as exc:
        yield failed(
            "directory",
            f"{path} cannot be read. {exc.reason}",
            "Correct COMPLETED_DIR, mount its file system, or let this user read it.",
        )
        yield from (not_tried(name, "directory") for name in NAMES)
        return
    yield _directory(tree, survey)
    yield _leases(tree, survey)
    yield _rename_and_unlink(tree, survey)
    yield _inotify(survey, inotify)
    yield check_disk("disk space", tree.root)


def check_disk(name: str, path: str) -> CheckResult:
    """Whether there is room left where `path` is."""
    status = os.statvfs(path)
    free, size = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    told = f"{human_size(free)} of {human_size(size)} are free where {path} is."
    if free < SCARCE_BYTES:
        return failed(name, told, "Free some space there.")
    if free < size * SCARCE_SHARE:
        return warning(name, told, "Free some space there, or shorten RELEASE_AFTER_SECONDS.")
    return ok(name, told)


def _survey(tree: Tree) -> _Survey:
    survey = _Survey()

    def enter(_: str) -> bool:
        survey.directories += 1
        return True

    for found in tree.walk(enter=enter):
        match found:
            case UnreadableDirectory():
                survey.unreadable = survey.unreadable or (found.path, found.reason)
            case FoundFile(path=path):
                _note(tree, survey, path)
    return survey


def _note(tree: Tree, survey: _Survey, path: str) -> None:
    place = os.path.dirname(path)
    if place and place not in survey.places and len(survey.places) < PLACES_TRIED:
        survey.places += (place,)
        try:
            with owned(tree.open(path)) as descriptor:
                if os.fstat(descriptor).st_uid != os.geteuid():
                    survey.foreign_file = survey.foreign_file or path
        except UnreadableError as exc:
            survey.unreadable = survey.unreadable or (path, exc.reason)
        except (FileMissingError, NotOursError):
            return  # it is gone by now, or is no concern of ours


def _directory(tree: Tree, survey: _Survey) -> CheckResult:
    with owned(tree.open_root()) as descriptor:
        kind = mounts.file_system_type(descriptor) or "unknown"
    if survey.unreadable is not None:
        path, reason = survey.unreadable
        return failed(
            "directory",
            f"{path} in {tree.root} cannot be read. {reason}",
            "Run the daemon as the user who writes the files.",
        )
    told = f"{tree.root} can be read; its file system is {kind}."
    if kind not in leases.TRUSTED_FILE_SYSTEMS:
        return warning(
            "directory",
            told,
            "Writers may be out of this kernel's sight there: files must stay unchanged for SETTLE_SECONDS, "
            "so set it longer than any pause of the encoder.",
        )
    return ok("directory", told)


def _leases(tree: Tree, survey: _Survey) -> CheckResult:
    """Whether the kernel tells who writes, of a file of our own and of one that is somebody else's."""
    quiet = "Until then files must stay unchanged for SETTLE_SECONDS."
    try:
        with owned(tree.open_root()) as directory, _Trial(directory) as trial:
            answer = leases.check_writers(trial.descriptor)
    except OSError as exc:
        return failed(
            "leases", f"No file can be made in {tree.root} to try them. {sentence(exc)}", _AS_WRITER
        )
    if answer is leases.Writers.UNKNOWN:
        return warning("leases", "The kernel grants none there that can be relied upon.", quiet)
    if survey.foreign_file is not None:
        with suppress(FileMissingError, NotOursError), owned(tree.open(survey.foreign_file)) as descriptor:
            if leases.check_writers(descriptor) is leases.Writers.UNKNOWN:
                return warning(
                    "leases",
                    f"{survey.foreign_file} belongs to another user, and no lease on it is granted.",
                    f"Run the daemon as that user, or with CAP_LEASE. {quiet}",
                )
    return ok("leases", "They are granted: the kernel tells when nobody writes a file any more.")


_AS_WRITER = "Run the daemon as the user who writes the files, or let its user write into the directory."


def _rename_and_unlink(tree: Tree, survey: _Survey) -> CheckResult:
    name = "rename and unlink"
    for place in ("", *survey.places):
        shown = os.path.join(tree.root, place) if place else tree.root
        try:
            with ExitStack() as stack:
                directory = _open_place(tree, place)
                stack.callback(os.close, directory)
                status = os.fstat(directory)
                stack.enter_context(_Trial(directory)).play_release()
        except FileMissingError:
            continue
        except (OSError, TreeError) as exc:
            reason = exc.reason if isinstance(exc, TreeError) else sentence(exc)
            return failed(name, f"In {shown} it is not possible. {reason}", _AS_WRITER)
        if status.st_mode & stat.S_ISVTX and os.geteuid() not in (0, status.st_uid):
            return failed(
                name,
                f"{shown} has the sticky bit: nobody but their owner may rename the files in it.",
                "Run the daemon as the user who writes the files, or take the bit away (chmod -t).",
            )
    return ok(name, f"Files in {tree.root} can be set aside, put back and removed.")


def _open_place(tree: Tree, place: str) -> int:
    if not place:
        return tree.open_root()
    descriptor, _ = tree.open_parent(f"{place}/any")
    return descriptor


class _Trial:
    """A file of our own in an open directory, for the length of a `with` block."""

    def __init__(self, directory: int) -> None:
        self._directory = directory
        # Ignored by IGNORE_PATTERNS, and without an extension that is ever uploaded.
        self._name = f".video-uploader-doctor-{uuid.uuid4().hex}"
        self._other_name = f"{self._name}.aside"
        self.descriptor = -1

    def __enter__(self) -> Self:
        create = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        os.close(os.open(self._name, create, 0o600, dir_fd=self._directory))
        try:
            self.descriptor = os.open(self._name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        except OSError:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)
        self._remove()

    def play_release(self) -> None:
        """Do what releasing a file and putting one back do: rename, link, unlink. Raises OSError."""
        here = {"src_dir_fd": self._directory, "dst_dir_fd": self._directory}
        os.rename(self._name, self._other_name, **here)
        os.link(self._other_name, self._name, **here, follow_symlinks=False)
        os.unlink(self._other_name, dir_fd=self._directory)

    def _remove(self) -> None:
        for name in (self._name, self._other_name):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._directory)


def _inotify(survey: _Survey, inotify: str) -> CheckResult:
    limits = {}
    for limit in ("max_user_watches", "max_user_instances"):
        try:
            with open(os.path.join(inotify, limit), encoding="ascii") as file:
                limits[limit] = int(file.read())
        except OSError as exc:
            return warning("inotify", f"Its limit {limit} cannot be read. {sentence(exc)}", _SCANS)
    allowed, needed = limits["max_user_watches"], survey.directories
    told = f"{needed} directories are to be watched, and fs.inotify.max_user_watches is {allowed}"
    if limits["max_user_instances"] < 1:
        return failed("inotify", "fs.inotify.max_user_instances is 0.", f"Raise it with sysctl. {_SCANS}")
    if needed > allowed:
        return failed("inotify", f"{told}.", f"Raise it with sysctl. {_SCANS}")
    if needed > allowed // 2:
        return warning(
            "inotify", f"{told}: more than half of it.", "Raise it with sysctl; other programs watch, too."
        )
    return ok("inotify", f"{told}.")


_SCANS = "Without watches, files are found by scans alone, every RESCAN_SECONDS."
