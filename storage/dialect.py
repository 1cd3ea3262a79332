"""What one server does not take of S3's API: found out from its refusals, remembered, and done without.

Few servers know all of S3's headers, and none says which. A refused request is therefore sent again without
one of the headers that may be the reason: the one that the answer names, else the least common one that this
server has never accepted. The header whose absence made the difference is left out from then on, for a week.
What proves the content is never done without: a body that goes without a checksum carries Content-MD5, and
the object is confirmed afterwards.

A header that the answer names costs one refused request. An answer that names none tells nothing but that one
more suspect is innocent, so the header that is refused costs as many refused requests as its place among the
suspects: what is sent, was never accepted in this operation, and may be refused in that way. The order is
that of public reports: about servers that call themselves so, then about all. By it none of the servers that
are known refuses a request in vain. No order is that good for every server as long as one header at a time is
left out, and that keeps the others: a condition, an ACL or a checksum that the server takes is not dropped
for the sake of another header. Only where no suspect alone is the reason are several left out, once more one
by one.
"""

import base64
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from types import MappingProxyType
from typing import Literal, TypeVar

import structlog

from storage import checksums
from storage.errors import StorageError

_log: structlog.stdlib.BoundLogger = structlog.get_logger("storage")

ChecksumMode = Literal["auto", "crc64nvme", "md5", "none"]
"""What goes along with a body, so that the server refuses a difference."""

CRC = "x-amz-checksum-crc64nvme"
SDK_ALGORITHM = "x-amz-sdk-checksum-algorithm"
ALGORITHM = "x-amz-checksum-algorithm"
TYPE = "x-amz-checksum-type"
MODE = "x-amz-checksum-mode"
OBJECT_SIZE = "x-amz-mp-object-size"
PART_CHECKSUMS = "checksumcrc64nvme"
"""The element of each part in the body of CompleteMultipartUpload."""
CONTENT_MD5 = "content-md5"
IF_NONE_MATCH, IF_MATCH = "if-none-match", "if-match"
ACL = "x-amz-acl"
TAGGING = "x-amz-tagging"
STORAGE_CLASS = "x-amz-storage-class"

BODY_HEADERS = frozenset({CRC, SDK_ALGORITHM, CONTENT_MD5})
QUOTED_IF_MATCH = "if-match with a quoted ETag"
"""Ceph compares If-Match with the ETag without its quotes."""
PATH_STYLE = "path-style addressing"
PUT_ETAG, MULTIPART_ETAG = "PutObject ETag of MD5", "CompleteMultipartUpload ETag of MD5"
"""Features that the ETags of objects are computed from their content."""
READ_ETAG = "GetObject ETag of HeadObject"
"""The feature that both requests name the same ETag of an object."""
HEEDED_IF_NONE_MATCH = "PutObject if-none-match that is heeded"
"""The feature that the header keeps an object. Some servers take it and replace the object nevertheless."""
COMPARISON = "PutObject comparison of CRC64NVME"
"""The feature that a checksum is compared with the content, and not only stored and repeated."""
PART_COMPARISON = "CompleteMultipartUpload comparison of CRC64NVME"
"""The same of an object that is made of parts: of each part, and of the whole."""
_MANY_PARTS = "UploadPart partNumber above "

REMEMBERED = timedelta(days=7)
"""How long something is done without, before the server is asked anew."""
FRUITLESS_SECONDS = 600.0
"""For how long a refusal that no header explained is not examined again."""
SOUNDING_SECONDS = 5.0
"""How long a request waits at most for the answer to the first one with the same headers."""
MAX_FRUITLESS = 64

_OTHER_MATTERS = frozenset({404, 409, 412})
"""Statuses that show that a request was taken as such: a missing object, a condition that is not met."""
_OBJECT_OPTIONS = frozenset({ACL, TAGGING, STORAGE_CLASS})
_DESCRIBES_OBJECT = frozenset({"PutObject", "CreateMultipartUpload"})
"""The operations with the options of an object; what one of them learns must not upset the other's search."""
_CONDITIONS = frozenset({IF_NONE_MATCH, IF_MATCH})
_CHECKSUMS = frozenset({CRC, SDK_ALGORITHM, ALGORITHM, TYPE, MODE, OBJECT_SIZE, PART_CHECKSUMS})
_SUSPECTS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "PutObject": (
            *(SDK_ALGORITHM, CRC, IF_NONE_MATCH, IF_MATCH, ACL, TAGGING, STORAGE_CLASS, CONTENT_MD5),
        ),
        "CreateMultipartUpload": (TYPE, ALGORITHM, ACL, TAGGING, STORAGE_CLASS),
        "UploadPart": (SDK_ALGORITHM, CRC, CONTENT_MD5),
        "CompleteMultipartUpload": (OBJECT_SIZE, TYPE, CRC, PART_CHECKSUMS, IF_NONE_MATCH, IF_MATCH),
        "HeadObject": (MODE,),
    }
)
"""By operation, what a server may refuse, the least common first."""
_DEPENDENT: Mapping[str, frozenset[str]] = MappingProxyType(
    {CRC: frozenset({SDK_ALGORITHM}), ALGORITHM: frozenset({TYPE})}
)
"""Headers that mean nothing, or something else, without another one."""
_WORDS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        ACL: ("accesscontrollist", "canned acl", " acl"),
        TAGGING: ("tagging",),
        STORAGE_CLASS: ("storage class", "storageclass"),
        CONTENT_MD5: ("contentmd5",),
    }
)
"""By header, other words by which servers name it."""

_KNOWN_REFUSALS: Mapping[str, Sequence[str]] = MappingProxyType({"versitygw": (ACL,)})
"""By what a server calls itself, in lower case, the headers that it refuses without naming them."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ServerTrait:
    """What was found out about one feature of a server.

    Attributes:
        feature: its name.
        said: what the server said when it refused it, or did instead; empty if it has the feature.
        found_at: when that was found out, in UTC.

    """

    feature: str
    said: str
    found_at: datetime


class ServerDialect:
    """What one server, for one bucket, takes. Safe for threads; `clock` gives the time in UTC.

    `checksum` decides what goes along with bodies: with "crc64nvme" the checksum headers are never left out.
    """

    def __init__(
        self,
        checksum: ChecksumMode = "auto",
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._checksum = checksum
        self._clock = clock
        self._lock = threading.Lock()
        self._traits: dict[str, ServerTrait] = {}
        self._accepted: set[tuple[str, str]] = set()
        self._doubted: set[tuple[str, str]] = set()
        """Headers without which a request was accepted that had been forbidden, once."""
        self._answered: set[tuple[str, str]] = set()
        """Headers of requests that were refused for another matter: they may be looked at for it first."""
        self._fruitless: dict[tuple[str, str], float] = {}
        describing = threading.Lock()
        self._soundings: dict[str, threading.Lock] = {
            name: describing if name in _DESCRIBES_OBJECT else threading.Lock()
            for name in (
                *(*_SUSPECTS, PUT_ETAG, MULTIPART_ETAG, COMPARISON, PART_COMPARISON, HEEDED_IF_NONE_MATCH),
            )
        }
        self.on_changed: Callable[[Sequence[ServerTrait]], None] = lambda _: None
        """Called, in the thread that found it out, with `traits` once one is new or no longer true."""
        self.on_restored: Callable[[], None] = lambda: None
        """Called after `restore`."""

    @property
    def traits(self) -> tuple[ServerTrait, ...]:
        """What is known and worth remembering, in the order of the names."""
        with self._lock:
            return tuple(found for _, found in sorted(self._traits.items()) if self._is_current(found))

    @property
    def unsupported(self) -> tuple[ServerTrait, ...]:
        """What the server is known not to take, in the order of the names."""
        return tuple(found for found in self.traits if found.said)

    @property
    def sends_checksums(self) -> bool:
        """Whether the configuration wants CRC64NVME headers."""
        return self._checksum in ("auto", "crc64nvme")

    def restore(self, known: Iterable[ServerTrait]) -> None:
        """Take over what an earlier process found out."""
        with self._lock:
            self._traits.update({found.feature: found for found in known})
        self.on_restored()

    def takes(self, feature: str, operation: str = "") -> bool:
        """Whether the server is not known to refuse a feature, or a header in an operation."""
        with self._lock:
            return not self._is_refused(_feature(operation, feature))

    def max_parts(self, otherwise: int) -> int:
        """How many parts the server was found to take, at most `otherwise`."""
        limits = [
            int(found.feature.removeprefix(_MANY_PARTS))
            for found in self.unsupported
            if found.feature.startswith(_MANY_PARTS)
        ]
        return min([otherwise, *limits])

    def accept(self, feature: str) -> None:
        """Note that the server has the feature, for as long as a refusal is remembered."""
        with self._lock:
            if self._known(feature) is not None:
                return
            self._traits[feature] = ServerTrait(feature, "", self._clock())
        self.on_changed(self.traits)

    def known(self, feature: str) -> bool | None:
        """Whether the server has the feature; None while that is unknown."""
        with self._lock:
            return self._known(feature)

    def find_out(self, feature: str, ask: Callable[[], bool]) -> bool:
        """Whether the server has the feature: known, or found out by `ask`, in one thread at a time."""
        if (known := self.known(feature)) is not None:
            return known
        with self._alone(feature):
            known = self.known(feature)
            return ask() if known is None else known

    def said_about(self, feature: str) -> str:
        """What the server said when it refused a feature; empty if it did not."""
        with self._lock:
            found = self._traits.get(feature)
        return found.said if found is not None else ""

    def learn(self, feature: str, said: str) -> None:
        """Do without a feature from now on, and say so once."""
        found = ServerTrait(feature, said, self._clock())
        with self._lock:
            if self._is_refused(feature):
                return
            self._traits[feature] = found
        # Only what the operator has set is missed: the rest is replaced by something as good.
        tell = _log.warning if feature in (TAGGING, STORAGE_CLASS) else _log.info
        tell("dialect_learned", feature=feature, said=said)
        self.on_changed(self.traits)

    def forget(self, feature: str) -> None:
        """Send a feature again from now on: the server turned out to take it."""
        with self._lock:
            found = self._traits.pop(feature, None)
        if found is not None:
            _log.info("dialect_forgotten", feature=feature)
            self.on_changed(self.traits)

    def body_headers(
        self, content: memoryview, checksum: str, omit: Collection[str]
    ) -> list[tuple[str, str]]:
        """The headers by which the server compares a body with what was read; `checksum` is its CRC64NVME."""
        if self.sends_checksums and CRC not in omit:
            # Some servers keep a checksum only if its algorithm is named too.
            return kept(((CRC, checksum), (SDK_ALGORITHM, "CRC64NVME")), omit)
        if self._checksum == "none" or CONTENT_MD5 in omit:
            return []
        return [("Content-MD5", base64.b64encode(checksums.md5(content)).decode("ascii"))]

    def is_sounded(self, operation: str, names: Collection[str]) -> bool:
        """Whether the server is known to take, or not to take, every one of the headers."""
        with self._lock:
            omit = self._omitted(operation)
            return not self._suspects(operation, names, omit)

    def negotiate(
        self,
        operation: str,
        names: Collection[str],
        attempt: Callable[[frozenset[str]], _T],
        *,
        remember: bool = True,
    ) -> _T:
        """Call `attempt` with the headers to leave out, again without one more while that may be the reason.

        `names` are those of the request, in lower case. The result is that of the attempt that succeeds;
        raises what the first one raised if no header explains the refusal. With `remember` false nothing is
        learned. The first request with headers that the server has not answered yet goes alone, so that what
        it refuses is refused once.
        """
        with self._sounding(operation, names):
            with self._lock:
                known = self._omitted(operation)
            search = _Search(known, partial(self._suspects_of, operation, names))
            refusals = search.refusals
            while True:
                try:
                    result = attempt(search.omit)
                except StorageError as exc:
                    if exc.is_refusal and search.leave_out_another(exc):
                        continue
                    if not refusals:
                        if exc.status in _OTHER_MATTERS:
                            self._note_answered(operation, names, search.omit)
                        raise
                    if exc.is_refusal:
                        self._note_fruitless(operation, refusals[0][1])
                    elif exc.status in _OTHER_MATTERS:
                        self._conclude(operation, refusals, exc, remember=remember)
                        raise
                    if exc.is_outage or exc.status is None:
                        raise
                    raise refusals[0][1] from exc
                self._conclude(operation, refusals, None, remember=remember)
                if search.is_cumulative and ACL in search.omit and self.takes(ACL):
                    # Whether it was refused is unknown: the object is looked at, which tells.
                    self.learn(ACL, refusals[0][1].said)
                with self._lock:
                    accepted = {(operation, name) for name in self._sent(names, search.omit)}
                    self._accepted |= accepted
                    self._doubted -= accepted
                return result

    @contextmanager
    def _sounding(self, operation: str, names: Collection[str]) -> Iterator[None]:
        with ExitStack() as alone:
            if self._must_go_alone(operation, names):
                alone.enter_context(self._alone(operation))
                if not self._must_go_alone(operation, names):
                    # The request that this one has waited for was answered.
                    alone.close()
            yield

    def _must_go_alone(self, operation: str, names: Collection[str]) -> bool:
        """Whether no answer to a request with one of the headers has come yet."""
        with self._lock:
            suspects = self._suspects(operation, names, self._omitted(operation))
            return any((operation, name) not in self._answered for name in suspects)

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Wait for the threads that find out the same, but not for long."""
        lock = self._soundings[name]
        is_held = lock.acquire(timeout=SOUNDING_SECONDS)
        try:
            yield
        finally:
            if is_held:
                lock.release()

    def _conclude(
        self,
        operation: str,
        refusals: Sequence[tuple[str, StorageError]],
        last: StorageError | None,
        *,
        remember: bool,
    ) -> None:
        """Learn the headers whose absence changed the answer, and those that mean nothing without them."""
        if not remember:
            return
        answers = [*(refusal for _, refusal in refusals), last]
        guilty = {
            suspect
            for (suspect, refusal), after in zip(refusals, answers[1:], strict=True)
            if _is_guilty(suspect, refusal, after)
        }
        for suspect, refusal in dict(refusals).items():
            depends = any(suspect in _DEPENDENT.get(other, ()) for other in guilty)
            if (suspect in guilty or depends) and self._is_certain(operation, suspect, refusal):
                self.learn(_feature(operation, suspect), refusal.said)

    def _is_certain(self, operation: str, suspect: str, refusal: StorageError) -> bool:
        """Whether a refusal was because of the header, and no permission that was given in between.

        The second one of a kind is. Without the ACL the object is looked at, which tells anyway; a HEAD was
        asked again at once.
        """
        is_forbidden = refusal.status == HTTPStatus.FORBIDDEN and suspect not in {ACL, MODE}
        if not is_forbidden or _names(suspect, refusal.said):
            return True
        with self._lock:
            is_second = (operation, suspect) in self._doubted
            self._doubted.add((operation, suspect))
        return is_second

    def _suspects_of(
        self, operation: str, names: Collection[str], omit: Collection[str], refusal: StorageError
    ) -> list[str]:
        """The headers that may be the reason of a refusal, the most likely one first."""
        with self._lock:
            if self._fruitless.get((operation, refusal.code), 0.0) > time.monotonic():
                return []
            sent = self._sent(names, omit)
            named = [name for name in _SUSPECTS[operation] if name in sent and _names(name, refusal.said)]
            if named:
                return [max(named, key=len)]
            suspects = self._suspects(operation, names, omit)
            suspects.sort(key=partial(_likelihood, refusal))
            suspects.sort(key=self._experience)
        if "checksum" in refusal.said.lower():
            suspects = [name for name in suspects if name in _CHECKSUMS] or suspects
        if refusal.status == HTTPStatus.FORBIDDEN:
            # Permissions exist for these options, not for the others.
            suspects = [name for name in suspects if name not in {TAGGING, STORAGE_CLASS, *_CONDITIONS}]
        return suspects

    def _suspects(self, operation: str, names: Collection[str], omit: Collection[str]) -> list[str]:
        """What is sent and was never accepted in this operation."""
        sent = self._sent(names, omit)
        return [
            name for name in _SUSPECTS[operation] if name in sent and (operation, name) not in self._accepted
        ]

    def _experience(self, name: str) -> tuple[bool, bool, bool]:
        """A sort key: first what other operations refuse, then its kin, last what others accept.

        What means nothing without another header was most likely refused for that one's sake.
        """
        refused = {feature.rpartition(" ")[2] for feature, found in self._traits.items() if found.said}
        refused = refused.difference(*(_DEPENDENT.get(each, ()) for each in refused))
        is_kin = name in _DEPENDENT and not refused.isdisjoint(_CHECKSUMS)
        is_accepted = any(name == accepted for _, accepted in self._accepted)
        return name not in refused, not is_kin, is_accepted

    def _sent(self, names: Collection[str], omit: Collection[str]) -> set[str]:
        """Which of the names a request has that leaves out `omit`."""
        sent = set(names) - set(omit)
        if not self.sends_checksums:
            sent -= {CRC, SDK_ALGORITHM}
        if self._checksum == "crc64nvme":
            sent -= _CHECKSUMS
        if CRC in sent or self._checksum in ("none", "crc64nvme"):
            sent.discard(CONTENT_MD5)
        return sent

    def _omitted(self, operation: str) -> frozenset[str]:
        names = {name for name in _SUSPECTS[operation] if self._is_refused(_feature(operation, name))}
        return frozenset(names.union(*(_DEPENDENT.get(name, ()) for name in names)))

    def _is_refused(self, feature: str) -> bool:
        return self._known(feature) is False

    def _known(self, feature: str) -> bool | None:
        found = self._traits.get(feature)
        return None if found is None or not self._is_current(found) else not found.said

    def _is_current(self, found: ServerTrait) -> bool:
        return abs(self._clock() - found.found_at) < REMEMBERED

    def _note_answered(self, operation: str, names: Collection[str], omit: Collection[str]) -> None:
        with self._lock:
            self._answered |= {(operation, name) for name in self._sent(names, omit)}

    def _note_fruitless(self, operation: str, refusal: StorageError) -> None:
        now = time.monotonic()
        with self._lock:
            fresh = {key: until for key, until in self._fruitless.items() if until > now}
            fresh[operation, refusal.code] = now + FRUITLESS_SECONDS
            self._fruitless = dict(list(fresh.items())[-MAX_FRUITLESS:])


class _Search:
    """The search for what a server refuses in one request; see the module's docstring.

    `suspects` gives the headers that may be the reason of a refusal of what is sent without others, the most
    likely one first.
    """

    def __init__(
        self, known: frozenset[str], suspects: Callable[[frozenset[str], StorageError], list[str]]
    ) -> None:
        self.omit = known
        """What the next attempt leaves out."""
        self.refusals: list[tuple[str, StorageError]] = []
        """Every header that was left out then, with the refusal that led to it."""
        self.is_cumulative = False
        """Whether several were left out that no answer had told apart."""
        self._known = known
        self._suspects = suspects
        self._tried = {known}

    def leave_out_another(self, refusal: StorageError) -> bool:
        """Choose what to leave out after a refusal; false if there is nothing left to try."""
        if self.refusals and _is_guilty(*self.refusals[-1], refusal):
            self._known = self.omit
        for suspect in self._suspects(self._known, refusal):
            if self._try(suspect, self._known, refusal):
                return True
        omit = self._known
        while suspects := self._suspects(omit, refusal):
            # A condition is the last to go: without it an object may be replaced unseen.
            suspect = min(suspects, key=lambda name: name in _CONDITIONS)
            if self._try(suspect, omit, refusal):
                self.is_cumulative = True
                return True
            omit = _without(omit, suspect)
        return False

    def _try(self, suspect: str, omit: frozenset[str], refusal: StorageError) -> bool:
        omit = _without(omit, suspect)
        if omit in self._tried:
            return False
        self._tried.add(omit)
        self.omit = omit
        self.refusals.append((suspect, refusal))
        return True


def _without(omit: frozenset[str], name: str) -> frozenset[str]:
    """What is left out together with one more header, and with what means nothing without that."""
    return omit | {name} | _DEPENDENT.get(name, frozenset())


def _likelihood(refusal: StorageError, name: str) -> int:
    """A sort key: without naming it, servers say "not implemented" of conditions and options, forbid ACLs.

    First comes what this make of server is known for. One that says 501 and nothing else does so of ACLs.
    """
    if name in _KNOWN_REFUSALS.get(refusal.make.partition("/")[0].lower(), ()):
        return 0
    is_wordless = refusal.code == "http-501"
    is_unimplemented = refusal.code == "NotImplemented" or is_wordless
    if is_unimplemented and name in _CONDITIONS:
        return 3 if is_wordless else 1
    if name == ACL and (is_unimplemented or refusal.status == HTTPStatus.FORBIDDEN):
        return 2
    return 4 if is_unimplemented and name in _OBJECT_OPTIONS else 5


def _is_guilty(suspect: str, refusal: StorageError, after: StorageError | None) -> bool:
    """Whether a header is the reason of a refusal, given what came of the same request without it."""
    return after is None or after.said != refusal.said or _names(suspect, refusal.said)


def kept(headers: Iterable[tuple[str, str]], omit: Collection[str]) -> list[tuple[str, str]]:
    """The headers without those whose names, in lower case, are in `omit`."""
    return [(name, value) for name, value in headers if name.lower() not in omit]


def names_of(headers: Iterable[tuple[str, str]]) -> frozenset[str]:
    """The names of the headers, in lower case."""
    return frozenset(name.lower() for name, _ in headers)


def more_parts_than(limit: int) -> str:
    """The feature of a server that takes parts with higher numbers; see `ServerDialect.max_parts`."""
    return f"{_MANY_PARTS}{limit}"


def _feature(operation: str, name: str) -> str:
    """The name of a header in an operation; options of the object are the same for every operation."""
    return name if not operation or name in _OBJECT_OPTIONS else f"{operation} {name}"


def _names(header: str, said: str) -> bool:
    """Whether an answer names a header as the reason."""
    text = said.lower()
    if header in text:
        # One name may be the beginning of another.
        longer = [name for name in (*_CHECKSUMS, CONTENT_MD5) if name != header and header in name]
        return not any(name in text for name in longer)
    return any(word in text for word in _WORDS.get(header, ()))
