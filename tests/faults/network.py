"""The faults of S3 and of the network before it that tests inject."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from tests.faults.http_faults import (
    AnswerCorrupted,
    AnswerCut,
    AnswerDropped,
    Answered,
    BodyCorrupted,
    CutInBody,
    StalledInBody,
    Throttled,
)
from tests.faults.wire_faults import BlackHole, Cut, Delayed, Fault, Injection, Refused, Requests
from tests.support.s3_requests import BODIES, WRITES

HEADS: Final = frozenset({"HeadObject"})
IMPATIENT: Final = MappingProxyType({"STALL_SECONDS": 1})
"""A stall cannot be told from a slow server sooner."""


@dataclass(frozen=True)
class Trouble:
    """A fault, the requests it strikes, and the settings it is met with.

    `code` is the one that failed attempts are logged under (None: there are several). Where it
    `may_go_unseen` sending the request again has mended it alone, if it struck no request twice in a row.
    Where `is_away` no connection can be made: that is one fact, and not one of each file. `consequence` is
    the code of what it may lead to afterwards.
    """

    fault: Fault
    requests: Requests = field(default_factory=Requests)
    code: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    may_go_unseen: bool = False
    is_away: bool = False
    consequence: str | None = None

    @property
    def name(self) -> str:
        """Its row in the table."""
        return f"S3: {Injection(self.fault, self.requests).name}"


PASSING: Final = (
    Trouble(CutInBody(), Requests(BODIES, first=6), "connection", may_go_unseen=True),
    Trouble(StalledInBody(), Requests(BODIES, first=2), "stalled", IMPATIENT),
    Trouble(BodyCorrupted(), Requests(BODIES, first=6), "BadDigest"),
    Trouble(AnswerDropped(), Requests(WRITES, first=5)),
    Trouble(AnswerCut(), Requests(first=10), "connection"),
    Trouble(AnswerCorrupted(), Requests(WRITES, first=8)),
    Trouble(AnswerCorrupted(), Requests(HEADS, first=8)),
    Trouble(Answered(503, "SlowDown"), Requests(WRITES, first=5), "SlowDown"),
    Trouble(Answered(500, "InternalError"), Requests(first=8), "InternalError"),
    Trouble(
        Answered(403, "AccessDenied"),
        Requests(WRITES, first=3),
        "AccessDenied",
        may_go_unseen=True,
        # Of parts of which one was accepted without its checksum, as if that had been refused.
        consequence="BadDigest",
    ),
    Trouble(Answered(403, "RequestTimeTooSkewed"), Requests(WRITES, first=5), "RequestTimeTooSkewed"),
    Trouble(Answered(400, "RequestTimeout"), Requests(WRITES, first=5), "RequestTimeout"),
    Trouble(Answered(400, "ExpiredToken"), Requests(WRITES, first=3), "ExpiredToken"),
    Trouble(Answered(400, "BadDigest"), Requests(BODIES, first=5), "BadDigest"),
)
"""They end by themselves after so many requests."""

LASTING: Final = (
    Trouble(Refused(), code="connection", is_away=True),
    Trouble(Cut(), code="connection"),
    Trouble(BlackHole(), code="timeout", settings=IMPATIENT),
)
"""They last until they are relieved."""

HIDING: Final = Trouble(Answered(403, "AccessDenied"), Requests(HEADS), "object-unknown")
"""Uploads may be made, and their results may not be verified."""

CONSTANT: Final = (
    Trouble(Answered(500, "InternalError"), Requests(every=3), "InternalError", may_go_unseen=True),
    Trouble(CutInBody(), Requests(BODIES, every=3), "connection", may_go_unseen=True),
    Trouble(AnswerDropped(), Requests(every=4)),
    Trouble(Throttled(4e6), Requests(BODIES)),
    Trouble(Delayed(0.3)),
)
"""They never end."""

NETWORK: Final = (*PASSING, *LASTING, HIDING, *CONSTANT)
