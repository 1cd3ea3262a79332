"""The states of an upload and the transitions between them.

The schema's CHECK constraints list the same values. Only `Ledger.advance`, `Ledger.reopen` and
`Ledger.enqueue` change a row's state.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """How far an upload has come from a file on disk to a published object and free space."""

    PENDING = "pending"
    """Complete on disk, not yet verified in S3."""
    VERIFIED = "verified"
    """HeadObject returned the file's size and checksum (or ETag, where the server stores no checksum)."""
    PUBLISHED = "published"
    """The catalog has the object's URL."""
    RELEASED = "released"
    """The local copy was deleted: the final state of a successful upload."""
    REJECTED = "rejected"
    """The compressor reported a failure or the container is incomplete. Nothing is sent, the copy is kept."""
    FAILED = "failed"
    """This object cannot be uploaded as it is. An operator must act; the copy is kept."""
    GONE = "gone"
    """The file disappeared before it was verified, or its catalog row before it was published."""
    SUPERSEDED = "superseded"
    """Newer content at the same path has a row of its own."""

    @property
    def is_open(self) -> bool:
        """Whether a stage of the daemon has work to do on such a row."""
        return self in OPEN_STATES

    @property
    def is_live(self) -> bool:
        """Whether such a row represents the present content of its path; at most one row per path is live."""
        return self not in ENDED_STATES

    @property
    def is_stopped(self) -> bool:
        """Whether such a row stays unchanged until `Ledger.reopen` is called for it."""
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
"""For every state, the states that may follow. `Ledger` refuses any other transition."""
