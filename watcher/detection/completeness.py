"""Whether a file is finished: rule 1 of the design as one function and its possible answers.

Nothing here waits or remembers: the caller looks again when the answer says so, and hands in what was seen.
"""

import errno
import os
from dataclasses import dataclass

from db import Identity
from watcher import containers
from watcher.filesystem import leases
from watcher.filesystem.leases import Writers
from watcher.filesystem.tree import FileMissingError, NotOursError, Tree, UnreadableError, owned


@dataclass(frozen=True, slots=True)
class Observation:
    """A file as it was seen first, and unchanged ever since; `since` in seconds of the caller's clock."""

    identity: Identity
    since: float


@dataclass(frozen=True, slots=True)
class Finished:
    """Nobody writes the file. `finding` says what is wrong with its container, None if nothing is."""

    identity: Identity
    finding: str | None


@dataclass(frozen=True, slots=True)
class Busy:
    """Somebody writes the file, or did while it was looked at: look again later."""

    reason: str


@dataclass(frozen=True, slots=True)
class QuietPeriod:
    """The kernel cannot say whether anybody writes; unchanged until then, the file counts as finished.

    `observation` is to be handed in at the next look, `until` is a time of the caller's clock, in seconds.
    """

    observation: Observation
    until: float


@dataclass(frozen=True, slots=True)
class Refused:
    """This is no file of ours: a symbolic link, a FIFO, a file with several names."""

    reason: str


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no such file."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The file is there and must not, or can not, be read."""

    reason: str


FileStatus = Finished | Busy | QuietPeriod | Refused | Missing | Unreadable


def check_complete(
    tree: Tree, relative: str, *, previous: Observation | None, now: float, settle_seconds: float
) -> FileStatus:
    """Look once at a file: whether it is ours, finished, and complete as a container.

    `previous` is the observation of the last `QuietPeriod` answer for this path, None after any other answer.
    `now` is in seconds of any clock that never goes back. Raises RootUnavailableError.
    """
    try:
        descriptor = tree.open(relative)
    except FileMissingError:
        return Missing()
    except NotOursError as error:
        return Refused(error.reason)
    except UnreadableError as error:
        if error.errno == errno.EAGAIN:
            return Busy("Another process holds a write lease on it, as file servers do.")
        return Unreadable(error.reason)
    with owned(descriptor):
        try:
            return _check_open(tree, descriptor, relative, previous, now, settle_seconds)
        except OSError as error:
            return Unreadable(f"Reading it failed; the system says: {error.strerror}.")


def _check_open(
    tree: Tree,
    descriptor: int,
    relative: str,
    previous: Observation | None,
    now: float,
    settle_seconds: float,
) -> FileStatus:
    identity = tree.identity(os.fstat(descriptor))
    match leases.ask(descriptor):
        case Writers.SOME:
            return Busy("Some process has it open for writing.")
        case Writers.UNKNOWN:
            observation = (
                previous if previous and previous.identity == identity else Observation(identity, now)
            )
            until = observation.since + settle_seconds
            if now < until:
                return QuietPeriod(observation, until)
        case Writers.NONE:
            pass
    finding = containers.inspect(descriptor, identity.size, os.path.splitext(relative)[1])
    # A writer may have come while the container was looked at, and what was found is then worth nothing.
    if tree.identity(os.fstat(descriptor)) != identity or leases.ask(descriptor) is Writers.SOME:
        return Busy("It was opened for writing, or changed, while it was looked at.")
    return Finished(identity, finding)
