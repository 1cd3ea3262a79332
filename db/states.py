"""The states of an upload and the one map of which may follow which.

The same words stand in the schema's CHECK constraints; `Ledger.advance` and `Ledger.reopen` are the only code
that moves a row along this map.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """Where an upload is on its way from a file on disk to a published object and free space."""

    PENDING = "pending"
    """Finished on disk, not yet proven to be in S3."""
    VERIFIED = "verified"
    """A HEAD answered with the file's size and checksum (or its ETag, where a server keeps no checksum)."""
    PUBLISHED = "published"
    """The catalog points at the object."""
    RELEASED = "released"
    """The local copy was given up. The end of the way of every good file."""
    REJECTED = "rejected"
    """The compressor said failed, or the container is incomplete. Nothing was sent, the copy is kept."""
    FAILED = "failed"
    """This one object cannot be uploaded as it is. A person must act; the copy is kept."""
    GONE = "gone"
    """The file disappeared before it was confirmed, or its catalog row before it was published."""
    SUPERSEDED = "superseded"
    """Newer content came to the same path; its own row took over."""

    @property
    def is_open(self) -> bool:
        """Whether a stage of the daemon still has work to do on such a row."""
        return self in OPEN_STATES

    @property
    def is_live(self) -> bool:
        """Whether such a row is the one that speaks for its path: at most one a path is live."""
        return self not in ENDED_STATES

    @property
    def is_stopped(self) -> bool:
        """Whether such a row waits for `Ledger.reopen`: it stays as it is until somebody asks again."""
        return self in STOPPED_STATES


OPEN_STATES = frozenset({State.PENDING, State.VERIFIED, State.PUBLISHED})
STOPPED_STATES = frozenset({State.REJECTED, State.FAILED, State.GONE})
ENDED_STATES = frozenset({State.RELEASED, State.SUPERSEDED})

TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.PENDING: frozenset(
            {State.VERIFIED, State.REJECTED, State.FAILED, State.GONE, State.SUPERSEDED},
        ),
        State.VERIFIED: frozenset({State.PUBLISHED, State.PENDING, State.GONE, State.SUPERSEDED}),
        State.PUBLISHED: frozenset({State.RELEASED, State.PENDING, State.SUPERSEDED}),
        State.REJECTED: frozenset({State.PENDING, State.SUPERSEDED}),
        State.FAILED: frozenset({State.PENDING, State.SUPERSEDED}),
        State.GONE: frozenset({State.PENDING, State.SUPERSEDED}),
        State.RELEASED: frozenset(),
        State.SUPERSEDED: frozenset(),
    }
)
"""For every state, the states that may come next. What is not listed cannot be written."""
