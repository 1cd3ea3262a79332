"""What a server refuses is found out from its refusals, header by header, and remembered for a week."""

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from itertools import combinations

import pytest
import structlog

from storage import ErrorKind, ServerDialect, ServerTrait, StorageError
from storage.dialect import (
    ACL,
    ALGORITHM,
    BODY_HEADERS,
    CONTENT_MD5,
    CRC,
    IF_NONE_MATCH,
    MODE,
    OBJECT_SIZE,
    PART_CHECKSUMS,
    SDK_ALGORITHM,
    STORAGE_CLASS,
    TAGGING,
    TYPE,
    ChecksumMode,
)

PUT = BODY_HEADERS | {IF_NONE_MATCH, ACL, TAGGING, STORAGE_CLASS}
CREATE = frozenset({ALGORITHM, TYPE, ACL})


def refusal(status: int = 400, code: str = "InvalidArgument", message: str = "") -> StorageError:
    said = f"{code}: {message}" if message else code
    return StorageError(ErrorKind.ENVIRONMENT, "upload", "k", code, "", status=status, said=said)


class Server:
    """Refuses some headers of every request, and counts what it is sent."""

    def __init__(self, refused: Collection[str], error: Callable[[str], StorageError]) -> None:
        self.refused = refused
        self.error = error
        self.requests: list[frozenset[str]] = []

    def request(self, names: Collection[str]) -> Callable[[frozenset[str]], str]:
        """A request with these headers; Content-MD5 is sent only in place of a checksum."""

        def attempt(omit: frozenset[str]) -> str:
            sent = frozenset(names) - omit
            if CRC in sent:
                sent -= {CONTENT_MD5}
            self.requests.append(sent)
            for name in sorted(sent & frozenset(self.refused)):
                raise self.error(name)
            return "done"

        return attempt

    @property
    def refusals(self) -> int:
        return sum(bool(sent & frozenset(self.refused)) for sent in self.requests)


def named(name: str) -> StorageError:
    return refusal(message=f"Unsupported header '{name}' received for this API call.")


def nameless(_: str) -> StorageError:
    return refusal()


@pytest.fixture
def dialect() -> ServerDialect:
    return ServerDialect()


@pytest.mark.parametrize("header", sorted(PUT - {CONTENT_MD5}))
@pytest.mark.parametrize("error", [named, nameless])
def test_a_header_that_is_refused_is_done_without_from_then_on(
    dialect: ServerDialect, header: str, error: Callable[[str], StorageError]
) -> None:
    server = Server({header}, error)
    for _ in range(3):
        assert dialect.negotiate("PutObject", PUT, server.request(PUT)) == "done"
    assert not server.requests[-1] & {header}
    learned = {found.feature.rpartition(" ")[2] for found in dialect.unsupported}
    assert header in learned
    # Nothing is missed that the server takes, but what means nothing without the header.
    assert server.requests[-1] >= PUT - {header, SDK_ALGORITHM if header == CRC else header, CONTENT_MD5}


ORDERS = {
    ("PutObject", 400): [SDK_ALGORITHM, CRC, IF_NONE_MATCH, ACL, TAGGING, STORAGE_CLASS],
    ("PutObject", 501): [IF_NONE_MATCH, ACL, TAGGING, STORAGE_CLASS, SDK_ALGORITHM, CRC],
    ("PutObject", 403): [ACL, SDK_ALGORITHM, CRC],
    ("CreateMultipartUpload", 400): [TYPE, ALGORITHM, ACL, TAGGING, STORAGE_CLASS],
    ("CreateMultipartUpload", 501): [ACL, TAGGING, STORAGE_CLASS, TYPE, ALGORITHM],
    ("UploadPart", 400): [SDK_ALGORITHM, CRC],
    ("UploadPart", 501): [SDK_ALGORITHM, CRC],
    ("CompleteMultipartUpload", 400): [OBJECT_SIZE, TYPE, CRC, PART_CHECKSUMS, IF_NONE_MATCH],
    ("CompleteMultipartUpload", 501): [IF_NONE_MATCH, OBJECT_SIZE, TYPE, CRC, PART_CHECKSUMS],
    ("HeadObject", 400): [MODE],
}
"""By operation and status, what is suspected of a refusal that names nothing, in order."""
WITH = {CRC: {SDK_ALGORITHM}, ALGORITHM: {TYPE}}
NAMELESS = [(*case, header) for case, order in ORDERS.items() for header in order]


@pytest.mark.parametrize(("operation", "status", "header"), NAMELESS)
def test_a_header_that_no_answer_names_costs_as_many_refused_requests_as_its_place(
    dialect: ServerDialect, operation: str, status: int, header: str
) -> None:
    """And no other header is left out of the request that succeeds, but what means nothing without it."""
    order = ORDERS[operation, status]
    names = {*order, CONTENT_MD5} if CRC in order else {*order}
    server = Server({header}, lambda _: refusal(status, "NotImplemented" if status == 501 else "NoReason"))
    dialect.negotiate(operation, names, server.request(names))
    assert server.refusals == order.index(header) + 1
    assert {*order} - server.requests[-1] == {header} | (WITH.get(header, set()) & {*order})


@pytest.mark.parametrize("status", [400, 501])
@pytest.mark.parametrize("pair", list(combinations(ORDERS["PutObject", 400], 2)))
def test_two_headers_that_no_answer_tells_apart_are_both_found(
    dialect: ServerDialect, pair: tuple[str, str], status: int
) -> None:
    """Each is tried alone first, then several together, a condition last; no request is made twice."""
    order = ORDERS["PutObject", status]
    server = Server(pair, lambda _: refusal(status, "NotImplemented" if status == 501 else "NoReason"))
    dialect.negotiate("PutObject", PUT, server.request(PUT))
    assert len(server.requests) == len(set(server.requests))
    # Content-MD5, which takes the place of a checksum, is a suspect, too.
    assert server.refusals <= 2 * len(order)
    assert (IF_NONE_MATCH in server.requests[-1]) == (IF_NONE_MATCH not in pair)
    assert dialect.takes(ACL) == (ACL in server.requests[-1])
    for _ in range(2):
        dialect.negotiate("PutObject", PUT, server.request(PUT))
    assert server.requests[-1].isdisjoint(pair)


def test_what_an_operation_refuses_is_suspected_first_in_another_and_so_is_its_kin(
    dialect: ServerDialect,
) -> None:
    refused = {CRC, SDK_ALGORITHM, ALGORITHM, TYPE}
    server = Server(refused, lambda _: refusal(501, "NotImplemented"))
    put = PUT - {TAGGING, STORAGE_CLASS}
    dialect.negotiate("PutObject", put, server.request(put))
    before = server.refusals
    dialect.negotiate("UploadPart", BODY_HEADERS, server.request(BODY_HEADERS))
    assert server.refusals == before + 1
    # ACLs are accepted, and so not suspected before the checksums.
    dialect.negotiate("CreateMultipartUpload", CREATE, server.request(CREATE))
    assert server.refusals == before + 2


@pytest.mark.parametrize("first", sorted(PUT - {CONTENT_MD5}))
@pytest.mark.parametrize("second", sorted(PUT - {CONTENT_MD5}))
def test_headers_that_the_answer_names_cost_one_refused_request_each(
    dialect: ServerDialect, first: str, second: str
) -> None:
    server = Server({first, second}, named)
    dialect.negotiate("PutObject", PUT, server.request(PUT))
    assert server.refusals <= len(dialect.unsupported)
    dialect.negotiate("PutObject", PUT, server.request(PUT))
    assert server.refusals <= len(dialect.unsupported)
    assert not server.requests[-1] & {first, second}


@pytest.mark.parametrize("status", [400, 403, 405, 411, 501])
def test_every_status_of_a_refusal_is_learned_from(dialect: ServerDialect, status: int) -> None:
    server = Server({MODE}, lambda _: refusal(status, f"http-{status}"))
    dialect.negotiate("HeadObject", {MODE}, server.request({MODE}))
    assert [found.feature for found in dialect.unsupported] == [f"HeadObject {MODE}"]
    assert server.requests == [frozenset({MODE}), frozenset()]


@pytest.mark.parametrize(
    "code",
    ["BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "ExpiredToken", "InvalidStorageClass"],
)
def test_a_refusal_because_of_a_value_or_the_credentials_is_not_learned_from(
    dialect: ServerDialect, code: str
) -> None:
    server = Server(BODY_HEADERS, lambda _: refusal(400, code))
    with pytest.raises(StorageError, match=code):
        dialect.negotiate("PutObject", BODY_HEADERS, server.request(BODY_HEADERS))
    assert len(server.requests) == 1
    assert not dialect.unsupported


def test_a_refusal_that_no_header_explains_is_raised_and_not_examined_again(dialect: ServerDialect) -> None:
    asked: list[frozenset[str]] = []

    def deny(omit: frozenset[str]) -> str:
        asked.append(omit)
        raise refusal(403, "AccessDenied", f"number {len(asked)}")

    with pytest.raises(StorageError, match="could not upload") as caught:
        dialect.negotiate("PutObject", PUT, deny)
    assert caught.value.said == "AccessDenied: number 1"
    examined = len(asked)
    with pytest.raises(StorageError):
        dialect.negotiate("PutObject", PUT, deny)
    assert len(asked) == examined + 1
    assert not dialect.unsupported


def test_tags_storage_class_and_conditions_are_not_dropped_for_a_missing_permission(
    dialect: ServerDialect,
) -> None:
    server = Server({TAGGING}, lambda _: refusal(403, "AccessDenied"))
    with pytest.raises(StorageError, match="AccessDenied"):
        dialect.negotiate("PutObject", PUT, server.request(PUT))
    assert all({TAGGING, STORAGE_CLASS, IF_NONE_MATCH} <= sent for sent in server.requests)
    assert not dialect.unsupported


def test_another_error_without_the_header_shows_that_it_was_the_reason(dialect: ServerDialect) -> None:
    def missing(omit: frozenset[str]) -> str:
        raise (
            refusal(400, "http-400")
            if MODE not in omit
            else StorageError(ErrorKind.TRANSIENT, "look up", "k", "http-404", "", status=404)
        )

    with pytest.raises(StorageError, match="http-404"):
        dialect.negotiate("HeadObject", {MODE}, missing)
    assert not dialect.takes(MODE, "HeadObject")


def test_an_outage_in_the_middle_teaches_nothing(dialect: ServerDialect) -> None:
    def away(omit: frozenset[str]) -> str:
        raise (
            refusal()
            if not omit
            else StorageError(ErrorKind.TRANSIENT, "upload", "k", "http-503", "", status=503)
        )

    with pytest.raises(StorageError, match="http-503"):
        dialect.negotiate("PutObject", PUT, away)
    assert not dialect.unsupported


def test_a_permission_that_is_given_in_between_is_not_taken_for_a_header(dialect: ServerDialect) -> None:
    left = 3

    def deny_at_first(_: frozenset[str]) -> str:
        nonlocal left
        if left:
            left -= 1
            raise refusal(403, "AccessDenied")
        return "done"

    dialect.negotiate("PutObject", BODY_HEADERS, deny_at_first)
    assert not dialect.unsupported
    server = Server((), named)
    dialect.negotiate("PutObject", BODY_HEADERS, server.request(BODY_HEADERS))
    assert CRC in server.requests[-1]


def test_an_error_about_the_content_shows_nothing(dialect: ServerDialect) -> None:
    """As of a server that wants the checksum, after a refusal that had another reason."""
    errors = [refusal(403, "AccessDenied"), refusal(400, "BadDigest")]

    def fail(_: frozenset[str]) -> str:
        raise errors.pop(0)

    with pytest.raises(StorageError, match="AccessDenied"):
        dialect.negotiate("UploadPart", BODY_HEADERS, fail)
    assert not dialect.unsupported


def test_the_type_is_not_sent_without_the_algorithm(dialect: ServerDialect) -> None:
    server = Server({ALGORITHM}, named)
    dialect.negotiate("CreateMultipartUpload", CREATE, server.request(CREATE))
    assert server.requests[-1] == {ACL}


def test_with_checksums_required_none_is_left_out() -> None:
    dialect = ServerDialect("crc64nvme")
    server = Server({CRC}, named)
    with pytest.raises(StorageError, match="InvalidArgument"):
        dialect.negotiate("PutObject", BODY_HEADERS, server.request(BODY_HEADERS))
    assert all(CRC in sent for sent in server.requests)


@pytest.mark.parametrize(
    ("checksum", "omit", "sent"),
    [
        ("auto", set(), [CRC, SDK_ALGORITHM]),
        ("auto", {CRC, SDK_ALGORITHM}, ["Content-MD5"]),
        ("auto", {CRC, SDK_ALGORITHM, CONTENT_MD5}, []),
        ("crc64nvme", set(), [CRC, SDK_ALGORITHM]),
        ("md5", set(), ["Content-MD5"]),
        ("none", set(), []),
    ],
)
def test_what_goes_along_with_a_body(checksum: ChecksumMode, omit: set[str], sent: list[str]) -> None:
    headers = dict(ServerDialect(checksum).body_headers(memoryview(b"hello"), "AAAAAAAAAAA=", omit))
    assert list(headers) == sent
    if CONTENT_MD5 in {name.lower() for name in headers}:
        assert headers["Content-MD5"] == "XUFAKrxLKna5cZ2REBfFkg=="


def test_findings_are_told_once_kept_and_forgotten_after_a_week() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    dialect = ServerDialect(clock=lambda: now)
    told: list[Sequence[ServerTrait]] = []
    dialect.on_changed = told.append
    server = Server({SDK_ALGORITHM, TAGGING}, named)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            dialect.negotiate("PutObject", PUT, server.request(PUT))
    assert {event["feature"]: event["log_level"] for event in logs} == {
        TAGGING: "warning",
        f"PutObject {SDK_ALGORITHM}": "info",
    }
    assert len(logs) == len(told) == 2
    later = ServerDialect(clock=lambda: now)
    later.restore(told[-1])
    assert not later.takes(TAGGING)
    assert later.unsupported == dialect.unsupported
    now += timedelta(days=8)
    assert later.takes(TAGGING)
    assert not later.unsupported
    refusals = server.refusals
    later.negotiate("PutObject", PUT, server.request(PUT))
    assert server.refusals == refusals + 2


def test_what_is_not_to_be_remembered_is_only_done_without_once(dialect: ServerDialect) -> None:
    server = Server({CRC}, named)
    dialect.negotiate("UploadPart", BODY_HEADERS, server.request(BODY_HEADERS), remember=False)
    assert not dialect.unsupported


def test_the_first_request_with_new_headers_goes_alone(dialect: ServerDialect) -> None:
    """So that what is refused is refused once, however many uploads begin together."""
    server = Server({CRC}, named)
    begun, go_on = threading.Event(), threading.Event()

    def first(omit: frozenset[str]) -> str:
        begun.set()
        assert go_on.wait(10)
        return server.request(BODY_HEADERS)(omit)

    with ThreadPoolExecutor() as pool:
        one = pool.submit(dialect.negotiate, "PutObject", BODY_HEADERS, first)
        assert begun.wait(10)
        others = [
            pool.submit(dialect.negotiate, "PutObject", BODY_HEADERS, server.request(BODY_HEADERS))
            for _ in range(3)
        ]
        assert not wait(others, timeout=0.1).done
        go_on.set()
        assert {future.result(10) for future in (one, *others)} == {"done"}
    assert server.refusals == 1


@pytest.mark.parametrize("first_answer", [None, refusal(404, "NoSuchKey")], ids=["accepted", "missing"])
def test_the_requests_that_have_waited_for_the_first_one_go_together(
    dialect: ServerDialect, first_answer: StorageError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a missing object told nothing about the headers: one after the other they took seconds."""
    monkeypatch.setattr("storage.dialect.SOUNDING_SECONDS", 3600.0)
    begun, go_on, together = threading.Event(), threading.Event(), threading.Barrier(4)

    def first(_omit: frozenset[str]) -> str:
        begun.set()
        assert go_on.wait(10)
        if first_answer is not None:
            raise first_answer
        return "done"

    def other(_omit: frozenset[str]) -> str:
        together.wait(10)
        return "done"

    with ThreadPoolExecutor() as pool:
        one = pool.submit(dialect.negotiate, "HeadObject", {MODE}, first)
        assert begun.wait(10)
        others = [pool.submit(dialect.negotiate, "HeadObject", {MODE}, other) for _ in range(4)]
        assert not wait(others, timeout=0.1).done
        go_on.set()
        assert one.exception(10) is first_answer
        assert {future.result(10) for future in others} == {"done"}


def test_a_missing_object_tells_nothing_about_the_headers_that_were_asked_with(
    dialect: ServerDialect,
) -> None:
    """A server that looks at them only where there is an object may refuse one of them later."""

    def missing(_omit: frozenset[str]) -> str:
        raise refusal(404, "NoSuchKey")

    with pytest.raises(StorageError):
        dialect.negotiate("HeadObject", {MODE}, missing)
    assert not dialect.is_sounded("HeadObject", {MODE})
    server = Server({MODE}, named)
    assert dialect.negotiate("HeadObject", {MODE}, server.request({MODE})) == "done"
    assert not dialect.takes(MODE, "HeadObject")


def test_what_a_large_file_learns_does_not_lead_a_small_ones_search_astray(dialect: ServerDialect) -> None:
    """They begin together, and their options are the same: each header is refused once in each operation."""

    def error(name: str) -> StorageError:
        return refusal(403, "AccessDenied", "acl") if name == ACL else refusal(501, "NotImplemented")

    small, large = Server({ACL, IF_NONE_MATCH}, error), Server({ACL}, error)
    begun, done = threading.Event(), threading.Event()

    def first(omit: frozenset[str]) -> str:
        begun.set()
        done.wait(0.1)
        return small.request({ACL, IF_NONE_MATCH})(omit)

    def second() -> str:
        answer = dialect.negotiate("CreateMultipartUpload", CREATE, large.request(CREATE))
        done.set()
        return answer

    with ThreadPoolExecutor() as pool:
        one = pool.submit(dialect.negotiate, "PutObject", {ACL, IF_NONE_MATCH}, first)
        assert begun.wait(10)
        assert {pool.submit(second).result(10), one.result(10)} == {"done"}
    assert [sorted(sent) for sent in small.requests] == [sorted({ACL, IF_NONE_MATCH}), [ACL], []]
    assert large.refusals == 0
