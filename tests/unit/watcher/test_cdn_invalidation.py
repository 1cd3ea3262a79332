"""Replaced objects are invalidated in batches, at most once a minute, in spite of failures."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from db import Database, Invalidations, migrate, open_database
from storage import MAX_INVALIDATION_PATHS, Distribution
from tests.support.cloudfront_server import Cdn, asked_to_forget, references
from tests.support.databases import Clock
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request
from tests.support.s3_server import S3Server, config_for, forget_aws
from watcher.errors import FailureKind
from watcher.stages.cdn_invalidation import (
    DATABASE_RETRY_SECONDS,
    MAX_REQUESTS,
    MAX_WAIT_SECONDS,
    NAME,
    REFUSED_SECONDS,
    Invalidator,
)
from watcher.supervision.background_thread import Supervisor
from watcher.supervision.backoff import Backoff
from watcher.telemetry.metrics import Metrics

pytestmark = pytest.mark.long

WAITED_LONGEST = Backoff(base=60, factor=2, cap=900, uniform=lambda _low, high: high)
REFUSED = Answer(
    403,
    {"content-type": "text/xml"},
    b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>No.</Message></Error></ErrorResponse>",
)
INVALID = Answer(
    400,
    {"content-type": "text/xml"},
    b"<ErrorResponse><Error><Code>InvalidArgument</Code><Message>No.</Message></Error></ErrorResponse>",
)


@dataclass
class InvalidatorFixture:
    """An invalidator with two clocks that a test sets, its table, and the CDN."""

    database: Database
    distribution: Distribution
    proxy: FaultProxy
    cdn: Cdn
    clock: Clock = field(default_factory=Clock)
    metrics: Metrics = field(default_factory=Metrics)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.supervisor = Supervisor(
            self.metrics, session=self.database.session, backoff=Backoff(base=0, cap=0)
        )
        self.invalidations = Invalidations(self.database, "main", clock=self.clock)
        self.invalidator = self.another_process()

    def another_process(self) -> Invalidator:
        """An invalidator of a new process: it knows only what is in the table."""
        return Invalidator(
            self.distribution,
            self.invalidations,
            supervisor=self.supervisor,
            metrics=self.metrics,
            backoff=WAITED_LONGEST,
            clock=lambda: self.seconds,
        )

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        self.clock.advance(seconds=seconds)

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"video_uploader_{name}", labels) or 0.0


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def fixture(place: str, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[InvalidatorFixture]:
    forget_aws(monkeypatch)
    url = f"sqlite://{place}/ledger.sqlite3"
    with FaultProxy(server.url) as proxy, closing(Cdn(server.url)) as cdn:
        config = config_for(
            server.url, "b", cloudfront_distribution_id=cdn.id, cloudfront_endpoint_url=proxy.url
        )
        with closing(open_database(url)) as database, Distribution(config) as distribution:
            migrate(database)
            with database.session():
                yield InvalidatorFixture(database, distribution, proxy, cdn)


def test_nothing_is_sent_while_nothing_was_replaced(fixture: InvalidatorFixture) -> None:
    assert fixture.invalidator.flush() == MAX_WAIT_SECONDS
    assert not fixture.invalidator.has_waiting()
    assert fixture.proxy.requests == []


def test_what_was_replaced_is_sent_at_once_and_only_once(fixture: InvalidatorFixture) -> None:
    fixture.invalidator.request("videos/v/my video_720p.mp4")
    assert fixture.invalidator.has_waiting()
    with capture_logs() as logs:
        fixture.invalidator.flush()
    assert fixture.cdn.forgotten() == [["/videos/v/my%20video_720p.mp4"]]
    (line,) = logs
    assert (line["event"], line["paths"], line["distribution"]) == ("cdn_invalidated", 1, fixture.cdn.id)
    assert fixture.sample("invalidated_paths_total") == 1
    fixture.advance(3600)
    fixture.invalidator.flush()
    assert len(fixture.cdn.forgotten()) == 1
    assert not fixture.invalidator.has_waiting()


def test_what_is_replaced_within_a_minute_goes_in_one_request_after_it(fixture: InvalidatorFixture) -> None:
    fixture.invalidator.request("a")
    assert fixture.invalidator.flush() == 60
    for key in ("b", "c"):
        fixture.advance(10)
        fixture.invalidator.request(key)
        assert fixture.invalidator.flush() == 50 if key == "b" else 40
    fixture.advance(39.5)
    assert fixture.invalidator.flush() == pytest.approx(0.5)
    assert fixture.cdn.forgotten() == [["/a"]]
    fixture.advance(0.5)
    fixture.invalidator.flush()
    assert fixture.cdn.forgotten() == [["/a"], ["/b", "/c"]]


def test_the_minute_counts_across_a_restart(fixture: InvalidatorFixture) -> None:
    fixture.invalidator.request("a")
    fixture.invalidator.flush()
    fixture.invalidator.request("b")
    later = fixture.another_process()
    fixture.advance(15)
    assert later.flush() == 45
    assert fixture.cdn.forgotten() == [["/a"]]
    fixture.advance(45)
    later.flush()
    assert fixture.cdn.forgotten() == [["/a"], ["/b"]]


def test_a_clock_that_was_set_back_delays_by_a_minute_and_no_more(fixture: InvalidatorFixture) -> None:
    fixture.invalidator.request("a")
    fixture.invalidator.flush()
    fixture.invalidator.request("b")
    fixture.clock.advance(days=-30)
    assert fixture.another_process().flush() == 60


def test_a_key_that_was_replaced_twice_is_one_path(fixture: InvalidatorFixture) -> None:
    for key in ("a", "b", "a"):
        fixture.invalidator.request(key)
    fixture.invalidator.flush()
    assert fixture.cdn.forgotten() == [["/a", "/b"]]
    assert not fixture.invalidator.has_waiting()


def test_more_paths_than_fit_wait_for_the_next_minute(fixture: InvalidatorFixture) -> None:
    with fixture.database.transaction():
        for number in range(MAX_INVALIDATION_PATHS + 2):
            fixture.invalidator.request(f"{number:04}.mp4")
    fixture.invalidator.flush()
    fixture.advance(60)
    fixture.invalidator.flush()
    assert [len(paths) for paths in fixture.cdn.forgotten()] == [MAX_INVALIDATION_PATHS, 2]
    assert fixture.cdn.forgotten()[1] == ["/1000.mp4", "/1001.mp4"]


def test_paths_are_counted_and_not_keys(fixture: InvalidatorFixture) -> None:
    """A key with an awkward name has two paths."""
    with fixture.database.transaction():
        for number in range(MAX_INVALIDATION_PATHS // 2 + 1):
            fixture.invalidator.request(f"a+{number}.mp4")
    fixture.invalidator.flush()
    fixture.advance(60)
    fixture.invalidator.flush()
    assert [len(paths) for paths in fixture.cdn.forgotten()] == [MAX_INVALIDATION_PATHS, 2]


def test_a_failure_is_tried_again_later_and_later_but_never_within_a_minute(
    fixture: InvalidatorFixture,
) -> None:
    fixture.invalidator.request("a")
    fixture.proxy.fault = lambda _request, _forward: Answer(503)
    waits = []
    with capture_logs() as logs:
        for _ in range(6):
            fixture.invalidator.flush()
            waits.append(logs[-1]["retry_in_seconds"])
            fixture.advance(waits[-1] - 1)
            assert fixture.invalidator.flush() == 1
            fixture.advance(1)
    assert waits == [60, 120, 240, 480, 900, 900]
    assert {(line["event"], line["stage"], line["code"]) for line in logs} == {
        ("attempt_failed", NAME, "http-503")
    }
    assert [line["attempts"] for line in logs] == [1, 2, 3, 4, 5, 6]
    assert asked_to_forget(fixture.proxy) == [["/a"]] * 6
    assert fixture.sample("setbacks_total", stage=NAME, kind="transient") == 6
    assert fixture.invalidator.breaker.failure is None
    fixture.proxy.fault = lambda _request, forward: forward()
    fixture.invalidator.flush()
    assert fixture.cdn.forgotten() == [["/a"]]


def test_an_attempt_after_an_answer_that_was_lost_is_the_same_request(fixture: InvalidatorFixture) -> None:
    def lose_the_answer(request: Request, forward: Forward) -> None:
        forward()

    fixture.invalidator.request("a")
    fixture.proxy.fault = lose_the_answer
    with capture_logs():
        fixture.invalidator.flush()
    fixture.proxy.fault = lambda _request, forward: forward()
    fixture.advance(60)
    fixture.another_process().flush()
    first, second = references(fixture.proxy)
    assert first == second
    fixture.advance(60)
    fixture.invalidator.request("a")
    fixture.another_process().flush()
    assert references(fixture.proxy)[2] != first


def test_an_environment_error_pauses_it_and_is_logged_once(fixture: InvalidatorFixture) -> None:
    changes: list[str] = []
    fixture.invalidator.breaker.on_change(lambda: changes.append("changed"))
    fixture.invalidator.request("a")
    fixture.proxy.fault = lambda _request, _forward: REFUSED
    with capture_logs() as logs:
        for _ in range(3):
            fixture.invalidator.flush()
            fixture.advance(900)
    (line,) = logs
    assert (line["event"], line["stage"], line["code"]) == ("stage_paused", NAME, "AccessDenied")
    assert "cloudfront:CreateInvalidation" in line["reason"]
    failure = fixture.invalidator.breaker.failure
    assert failure is not None
    assert failure.kind is FailureKind.ENVIRONMENT
    assert len(asked_to_forget(fixture.proxy)) == 3
    assert fixture.sample("setbacks_total", stage=NAME, kind="environment") == 3
    fixture.proxy.fault = lambda _request, forward: forward()
    with capture_logs() as logs:
        fixture.invalidator.flush()
    assert [line["event"] for line in logs] == ["cdn_invalidated", "stage_resumed"]
    assert fixture.invalidator.breaker.failure is None
    assert changes == ["changed", "changed"]


def refuse(proxy: FaultProxy, *paths: str) -> None:
    """Answer as CloudFront does to a request in which one of the paths is invalid."""

    def answer(request: Request, forward: Forward) -> Answer:
        return (
            INVALID if any(f"<Path>{path}</Path>".encode() in request.body for path in paths) else forward()
        )

    proxy.fault = answer


def test_a_path_that_is_refused_keeps_back_no_other_and_is_told_of(fixture: InvalidatorFixture) -> None:
    """It is found by halving; its key is set aside for an hour."""
    keys = [f"{number:04}.mp4" for number in range(MAX_INVALIDATION_PATHS)]
    with fixture.database.transaction():
        for key in keys:
            fixture.invalidator.request(key)
    refuse(fixture.proxy, "/0007.mp4", "/0500.mp4")
    with capture_logs() as logs:
        assert fixture.invalidator.flush() == 60
    told = [(line["code"], line["key"]) for line in logs if line["event"] == "attempt_failed"]
    assert told == [("InvalidArgument", "0007.mp4"), ("InvalidArgument", "0500.mp4")]
    accepted = [path for paths in fixture.cdn.forgotten() for path in paths]
    assert sorted(accepted) == [f"/{key}" for key in keys if key not in {"0007.mp4", "0500.mp4"}]
    assert fixture.invalidator.breaker.failure is None
    assert fixture.sample("setbacks_total", stage=NAME, kind="object") == 2
    (aside,) = fixture.supervisor.set_aside()
    assert (aside.items, aside.count) == ("invalidations", 2)
    assert "0500.mp4" in aside.error
    assert fixture.invalidator.has_waiting()
    asked = len(fixture.proxy.requests)
    fixture.advance(REFUSED_SECONDS - 1)
    fixture.invalidator.request("0007.mp4")
    fixture.invalidator.flush()
    assert len(fixture.proxy.requests) == asked
    fixture.proxy.fault = lambda _request, forward: forward()
    fixture.advance(1)
    fixture.invalidator.flush()
    assert fixture.supervisor.set_aside() == []
    assert not fixture.invalidator.has_waiting()


def test_the_requests_for_a_batch_that_is_refused_are_bounded(fixture: InvalidatorFixture) -> None:
    """Each minute tells of some of the paths, and sends nothing of what is known to be refused."""
    keys = [f"{number}.mp4" for number in range(64)]
    with fixture.database.transaction():
        for key in keys:
            fixture.invalidator.request(key)
    refuse(fixture.proxy, *(f"/{key}" for key in keys))
    told: list[str] = []
    for _ in range(8):
        before = len(fixture.proxy.requests)
        with capture_logs() as logs:
            fixture.invalidator.flush()
        told += [line["key"] for line in logs]
        assert len(fixture.proxy.requests) <= before + MAX_REQUESTS
        fixture.advance(60)
    assert sorted(told) == sorted(keys)


def test_a_failure_in_the_middle_of_a_split_is_that_of_what_is_left(fixture: InvalidatorFixture) -> None:
    for key in ("a", "b", "c", "d"):
        fixture.invalidator.request(key)
    refuse(fixture.proxy, "/a")
    refused = fixture.proxy.fault
    fixture.proxy.fault = lambda request, forward: (
        refused(request, forward) if b"/a</Path>" in request.body else Answer(503)
    )
    with capture_logs() as logs:
        fixture.invalidator.flush()
    assert [(line["event"], line["code"]) for line in logs] == [
        ("attempt_failed", "InvalidArgument"),
        ("attempt_failed", "http-503"),
    ]
    fixture.proxy.fault = lambda _request, forward: forward()
    fixture.advance(60)
    fixture.invalidator.flush()
    assert fixture.cdn.forgotten() == [["/b", "/c", "/d"]]


def test_a_database_that_is_away_pauses_it_until_it_is_back(fixture: InvalidatorFixture) -> None:
    fixture.invalidator.request("a")
    with fixture.database.operation("take the table away") as connected:
        connected.execute_sql("ALTER TABLE invalidations RENAME TO hidden")
    with capture_logs() as logs:
        assert fixture.invalidator.flush() == DATABASE_RETRY_SECONDS
    assert [(line["event"], line["code"]) for line in logs] == [("stage_paused", "database")]
    with fixture.database.operation("bring it back") as connected:
        connected.execute_sql("ALTER TABLE hidden RENAME TO invalidations")
    with capture_logs() as logs:
        fixture.invalidator.flush()
    assert [line["event"] for line in logs] == ["stage_resumed", "cdn_invalidated"]


def test_the_thread_sends_when_it_is_woken_and_ends_when_it_is_stopped(fixture: InvalidatorFixture) -> None:
    sent = threading.Event()

    def forward_and_set(request: Request, forward: Forward) -> Answer:
        answer = forward()
        sent.set()
        return answer

    fixture.proxy.fault = forward_and_set
    fixture.invalidator.start()
    fixture.invalidator.request("a")
    fixture.invalidator.wake()
    assert sent.wait(20)
    assert fixture.supervisor.liveness.stalled() == []
    fixture.invalidator.request_stop()
    assert fixture.invalidator.join(20)
    assert fixture.cdn.forgotten() == [["/a"]]
    assert fixture.supervisor.liveness.stalled() == []


def test_a_thread_in_the_middle_of_a_request_does_not_hold_up_the_stop(fixture: InvalidatorFixture) -> None:
    asked, release = threading.Event(), threading.Event()

    def be_silent(request: Request, forward: Forward) -> None:
        asked.set()
        release.wait(20)

    fixture.proxy.fault = be_silent
    fixture.invalidator.request("a")
    fixture.invalidator.start()
    assert asked.wait(20)
    fixture.invalidator.request_stop()
    assert not fixture.invalidator.join(0.01)
    release.set()
    with capture_logs():
        assert fixture.invalidator.join(20)
    assert fixture.invalidator.has_waiting()


def test_a_thread_that_was_never_started_has_ended(fixture: InvalidatorFixture) -> None:
    fixture.invalidator.request_stop()
    assert fixture.invalidator.join(0)


def test_a_thread_that_died_is_a_stall(fixture: InvalidatorFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixture.invalidations, "unsent", lambda _limit: 1 // 0)
    fixture.invalidator.start()
    assert fixture.invalidator.join(20)
    assert any(NAME in stall for stall in fixture.supervisor.liveness.stalled())
    fixture.invalidator.request_stop()
