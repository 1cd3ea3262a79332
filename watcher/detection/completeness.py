"""Whether a file is finished: one check, without waiting, and its possible results.

No state is kept here: the caller repeats the check when the result says so, and passes its last observation.
"""

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from db import Identity
from watcher import containers
from watcher.filesystem import (
    FileMissingError,
    NotOursError,
    SecondNameError,
    Tree,
    UnreadableError,
    leases,
)
from watcher.filesystem.leases import Writers
from watcher.filesystem.openat import Owned, sentence

_UNSTORABLE_TIME = (
    "Its modification time is before 1677-09-22 or after 2262-04-11, which the ledger cannot hold: set it "
    "with touch(1)."
)


@dataclass(frozen=True, slots=True)
class Observation:
    """A file's identity, unchanged since `since`, in seconds of the caller's clock."""

    identity: Identity
    since: float


@dataclass(frozen=True, slots=True)
class Finished:
    """No process writes the file. `finding` says what is wrong with its container, None if nothing is."""

    identity: Identity
    finding: str | None


@dataclass(frozen=True, slots=True)
class Busy:
    """A process writes the file, or wrote it during the check: check again later."""

    reason: str


@dataclass(frozen=True, slots=True)
class QuietPeriod:
    """Nothing tells at once whether the file is finished; if unchanged until `until`, it is.

    `observation` must be passed to the next check; `until` is in seconds of the caller's clock.
    """

    observation: Observation
    until: float
    reason: str = "Whether a process writes it is unknown"


@dataclass(frozen=True, slots=True)
class Refused:
    """The path is not a regular file with one name: a symbolic link, a FIFO, a hard link.

    `may_pass`: the file may have its second name for a moment only.
    """

    reason: str
    may_pass: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """The file does not exist."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The file exists, and reading it is refused or fails."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unrecordable:
    """The file exists, and the ledger cannot hold one of its attributes."""

    reason: str


FileStatus = Finished | Busy | QuietPeriod | Refused | Missing | Unreadable | Unrecordable


def check_complete(
    tree: Tree,
    relative: str,
    previous: Observation | None,
    now: float,
    *,
    settle_seconds: float,
    accepts_live: Callable[[str], bool] = lambda _: False,
) -> FileStatus:
    """Check once whether a file is acceptable, finished, and complete as a container.

    `previous` is the observation of the last `QuietPeriod` for this path, None after any other result. `now`
    is in seconds of any monotonic clock. `accepts_live` returns whether the file at a path may be a live
    container, which ends with its last cluster. Raises RootUnavailableError.
    """
    try:
        descriptor = tree.open(relative)
    except FileMissingError:
        return Missing()
    except NotOursError as error:
        return Refused(error.reason, may_pass=isinstance(error, SecondNameError))
    except UnreadableError as error:
        if error.errno == errno.EAGAIN:
            return Busy("Another process, such as a file server, holds a write lease on it.")
        return Unreadable(error.reason)
    with Owned(descriptor):
        try:
            identity = tree.identity(os.fstat(descriptor))
            if not identity.is_storable:
                return Unrecordable(_UNSTORABLE_TIME)
            quiet = _Quiet(previous, now, settle_seconds)
            return _check_open(tree, descriptor, relative, identity, quiet, accepts_live(relative))
        except OSError as error:
            return Unreadable(f"Reading it failed. {sentence(error)}")


@dataclass(frozen=True, slots=True)
class _Quiet:
    """The last observation of a file, and how long it has to stay unchanged, in seconds."""

    previous: Observation | None
    now: float
    settle_seconds: float

    def period(self, identity: Identity, reason: str) -> QuietPeriod | None:
        """The quiet period of a file for this reason; None if it is over."""
        observation = self.previous
        if observation is None or observation.identity != identity:
            observation = Observation(identity, self.now)
        until = observation.since + self.settle_seconds
        return QuietPeriod(observation, until, reason) if self.now < until else None


def _check_open(
    tree: Tree, descriptor: int, relative: str, identity: Identity, quiet: _Quiet, accepts_live: bool
) -> FileStatus:
    extension = os.path.splitext(relative)[1]
    reason = None
    match leases.check_writers(descriptor):
        case Writers.SOME:
            return Busy("Some process has it open for writing.")
        case Writers.UNKNOWN:
            reason = "Whether a process writes it is unknown"
        case Writers.NONE if accepts_live and containers.is_live(descriptor, identity.size, extension):
            # A server that receives a recording in pieces may close the file after each.
            reason = "Its container has no end of its own, so that more may be appended"
    if reason is not None and (period := quiet.period(identity, reason)):
        return period
    finding = containers.inspect(descriptor, identity.size, extension, accepts_live=accepts_live)
    # A writer may have arrived while the container was read, which invalidates the finding.
    if tree.identity(os.fstat(descriptor)) != identity or leases.check_writers(descriptor) is Writers.SOME:
        return Busy("It was opened for writing, or changed, during the check.")
    return Finished(identity, finding)


def describe_file(tree: Tree, path: str, accepts_live: Callable[[str], bool] = lambda _: False) -> str:
    """Check a file once and describe its status. Raises RootUnavailableError."""
    return describe_status(
        check_complete(
            tree,
            path,
            previous=None,
            now=time.monotonic(),
            settle_seconds=1,
            accepts_live=accepts_live,
        )
    )


def describe_status(status: FileStatus) -> str:
    """The meaning of a status for users, as a sentence."""
    match status:
        case Finished(_, None):
            return "It is finished."
        case Finished(_, finding):
            return f"No process writes it, but it is incomplete: {finding}"
        case Busy(reason):
            return f"It is not finished: {reason}"
        case QuietPeriod(reason=reason):
            return f"{reason}: it is finished once it has not changed for a while."
        case Refused(reason):
            return f"It is not accepted: {reason}"
        case Unreadable(reason):
            return f"It cannot be read: {reason}"
        case Unrecordable(reason):
            return f"It cannot be recorded: {reason}"
        case Missing():
            return "It does not exist."
