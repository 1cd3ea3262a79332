"""Replaced objects are invalidated in batches, at most once a minute, in spite of failures."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from db import Database, Invalidations, migrate, open_database
from storage import MAX_PATHS, Distribution
from tests.support.cloudfront_server import Cdn, asked_to_forget, references
from tests.support.databases import Clock
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request
from tests.support.s3_server import S3Server, config_for, forget_aws
from watcher.errors import Kind
from watcher.stages.cdn_invalidation import DATABASE_RETRY_SECONDS, MAX_WAIT_SECONDS, NAME, Invalidator
from watcher.supervision.background_thread import Supervisor
from watcher.supervision.backoff import Backoff
from watcher.telemetry.metrics import Metrics

WAITED_LONGEST = Backoff(base=60, factor=2, cap=900, uniform=lambda _low, high: high)
REFUSED = Answer(
    403,
    {"content-type": "text/xml"},
    b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>No.</Message></Error></ErrorResponse>",
)


@dataclass
class Desk:
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
def desk(place: str, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    forget_aws(monkeypatch)
    url = f"sqlite://{place}/ledger.sqlite3"
    with FaultProxy(server.url) as proxy, closing(Cdn(server.url)) as cdn:
        config = config_for(
            server.url, "b", cloudfront_distribution_id=cdn.id, cloudfront_endpoint_url=proxy.url
        )
        with closing(open_database(url)) as database, Distribution(config) as distribution:
            migrate(database)
            with database.session():
                yield Desk(database, distribution, proxy, cdn)


def test_nothing_is_sent_while_nothing_was_replaced(desk: Desk) -> None:
    assert desk.invalidator.flush() == MAX_WAIT_SECONDS
    assert not desk.invalidator.has_waiting()
    assert desk.proxy.requests == []


def test_what_was_replaced_is_sent_at_once_and_only_once(desk: Desk) -> None:
    desk.invalidator.request("videos/v/my video_720p.mp4")
    assert desk.invalidator.has_waiting()
    with capture_logs() as logs:
        desk.invalidator.flush()
    assert desk.cdn.forgotten() == [["/videos/v/my%20video_720p.mp4"]]
    (line,) = logs
    assert (line["event"], line["paths"], line["distribution"]) == ("cdn_invalidated", 1, desk.cdn.id)
    assert desk.sample("invalidated_paths_total") == 1
    desk.advance(3600)
    desk.invalidator.flush()
    assert len(desk.cdn.forgotten()) == 1
    assert not desk.invalidator.has_waiting()


def test_what_is_replaced_within_a_minute_goes_in_one_request_after_it(desk: Desk) -> None:
    desk.invalidator.request("a")
    assert desk.invalidator.flush() == 60
    for key in ("b", "c"):
        desk.advance(10)
        desk.invalidator.request(key)
        assert desk.invalidator.flush() == 50 if key == "b" else 40
    desk.advance(39.5)
    assert desk.invalidator.flush() == pytest.approx(0.5)
    assert desk.cdn.forgotten() == [["/a"]]
    desk.advance(0.5)
    desk.invalidator.flush()
    assert desk.cdn.forgotten() == [["/a"], ["/b", "/c"]]


def test_the_minute_counts_across_a_restart(desk: Desk) -> None:
    desk.invalidator.request("a")
    desk.invalidator.flush()
    desk.invalidator.request("b")
    later = desk.another_process()
    desk.advance(15)
    assert later.flush() == 45
    assert desk.cdn.forgotten() == [["/a"]]
    desk.advance(45)
    later.flush()
    assert desk.cdn.forgotten() == [["/a"], ["/b"]]


def test_a_clock_that_was_set_back_delays_by_a_minute_and_no_more(desk: Desk) -> None:
    desk.invalidator.request("a")
    desk.invalidator.flush()
    desk.invalidator.request("b")
    desk.clock.advance(days=-30)
    assert desk.another_process().flush() == 60


def test_a_key_that_was_replaced_twice_is_one_path(desk: Desk) -> None:
    for key in ("a", "b", "a"):
        desk.invalidator.request(key)
    desk.invalidator.flush()
    assert desk.cdn.forgotten() == [["/a", "/b"]]
    assert not desk.invalidator.has_waiting()


def test_more_paths_than_fit_wait_for_the_next_minute(desk: Desk) -> None:
    with desk.database.transaction():
        for number in range(MAX_PATHS + 2):
            desk.invalidator.request(f"{number:04}.mp4")
    desk.invalidator.flush()
    desk.advance(60)
    desk.invalidator.flush()
    assert [len(paths) for paths in desk.cdn.forgotten()] == [MAX_PATHS, 2]
    assert desk.cdn.forgotten()[1] == ["/1000.mp4", "/1001.mp4"]


def test_paths_are_counted_and_not_keys(desk: Desk) -> None:
    """A key with an awkward name has two paths."""
    with desk.database.transaction():
        for number in range(MAX_PATHS // 2 + 1):
            desk.invalidator.request(f"a+{number}.mp4")
    desk.invalidator.flush()
    desk.advance(60)
    desk.invalidator.flush()
    assert [len(paths) for paths in desk.cdn.forgotten()] == [MAX_PATHS, 2]


def test_a_failure_is_tried_again_later_and_later_but_never_within_a_minute(desk: Desk) -> None:
    desk.invalidator.request("a")
    desk.proxy.fault = lambda _request, _forward: Answer(503)
    waits = []
    with capture_logs() as logs:
        for _ in range(6):
            desk.invalidator.flush()
            waits.append(logs[-1]["retry_in_seconds"])
            desk.advance(waits[-1] - 1)
            assert desk.invalidator.flush() == 1
            desk.advance(1)
    assert waits == [60, 120, 240, 480, 900, 900]
    assert {(line["event"], line["stage"], line["code"]) for line in logs} == {
        ("attempt_failed", NAME, "http-503")
    }
    assert [line["attempts"] for line in logs] == [1, 2, 3, 4, 5, 6]
    assert asked_to_forget(desk.proxy) == [["/a"]] * 6
    assert desk.sample("setbacks_total", stage=NAME, kind="transient") == 6
    assert desk.invalidator.breaker.failure is None
    desk.proxy.fault = lambda _request, forward: forward()
    desk.invalidator.flush()
    assert desk.cdn.forgotten() == [["/a"]]


def test_an_attempt_after_an_answer_that_was_lost_is_the_same_request(desk: Desk) -> None:
    def lose_the_answer(request: Request, forward: Forward) -> None:
        forward()

    desk.invalidator.request("a")
    desk.proxy.fault = lose_the_answer
    with capture_logs():
        desk.invalidator.flush()
    desk.proxy.fault = lambda _request, forward: forward()
    desk.advance(60)
    desk.another_process().flush()
    first, second = references(desk.proxy)
    assert first == second
    desk.advance(60)
    desk.invalidator.request("a")
    desk.another_process().flush()
    assert references(desk.proxy)[2] != first


def test_an_environment_error_pauses_it_and_is_logged_once(desk: Desk) -> None:
    changes: list[str] = []
    desk.invalidator.breaker.on_change(lambda: changes.append("changed"))
    desk.invalidator.request("a")
    desk.proxy.fault = lambda _request, _forward: REFUSED
    with capture_logs() as logs:
        for _ in range(3):
            desk.invalidator.flush()
            desk.advance(900)
    (line,) = logs
    assert (line["event"], line["stage"], line["code"]) == ("stage_paused", NAME, "AccessDenied")
    assert "cloudfront:CreateInvalidation" in line["reason"]
    failure = desk.invalidator.breaker.failure
    assert failure is not None
    assert failure.kind is Kind.ENVIRONMENT
    assert len(asked_to_forget(desk.proxy)) == 3
    assert desk.sample("setbacks_total", stage=NAME, kind="environment") == 3
    desk.proxy.fault = lambda _request, forward: forward()
    with capture_logs() as logs:
        desk.invalidator.flush()
    assert [line["event"] for line in logs] == ["cdn_invalidated", "stage_resumed"]
    assert desk.invalidator.breaker.failure is None
    assert changes == ["changed", "changed"]


def test_a_database_that_is_away_pauses_it_until_it_is_back(desk: Desk) -> None:
    desk.invalidator.request("a")
    with desk.database.operation("take the table away") as connected:
        connected.execute_sql("ALTER TABLE invalidations RENAME TO hidden")
    with capture_logs() as logs:
        assert desk.invalidator.flush() == DATABASE_RETRY_SECONDS
    assert [(line["event"], line["code"]) for line in logs] == [("stage_paused", "database")]
    with desk.database.operation("bring it back") as connected:
        connected.execute_sql("ALTER TABLE hidden RENAME TO invalidations")
    with capture_logs() as logs:
        desk.invalidator.flush()
    assert [line["event"] for line in logs] == ["stage_resumed", "cdn_invalidated"]


def test_the_thread_sends_when_it_is_woken_and_ends_when_it_is_stopped(desk: Desk) -> None:
    sent = threading.Event()

    def forward_and_tell(request: Request, forward: Forward) -> Answer:
        answer = forward()
        sent.set()
        return answer

    desk.proxy.fault = forward_and_tell
    desk.invalidator.start()
    desk.invalidator.request("a")
    desk.invalidator.wake()
    assert sent.wait(20)
    assert desk.supervisor.liveness.stalled() == []
    desk.invalidator.request_stop()
    assert desk.invalidator.join(20)
    assert desk.cdn.forgotten() == [["/a"]]
    assert desk.supervisor.liveness.stalled() == []


def test_a_thread_in_the_middle_of_a_request_does_not_hold_up_the_stop(desk: Desk) -> None:
    asked, release = threading.Event(), threading.Event()

    def be_silent(request: Request, forward: Forward) -> None:
        asked.set()
        release.wait(20)

    desk.proxy.fault = be_silent
    desk.invalidator.request("a")
    desk.invalidator.start()
    assert asked.wait(20)
    desk.invalidator.request_stop()
    assert not desk.invalidator.join(0.01)
    release.set()
    with capture_logs():
        assert desk.invalidator.join(20)
    assert desk.invalidator.has_waiting()


def test_a_thread_that_was_never_started_has_ended(desk: Desk) -> None:
    desk.invalidator.request_stop()
    assert desk.invalidator.join(0)


def test_a_thread_that_died_is_a_stall(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk.invalidations, "waiting", lambda _limit: 1 // 0)
    desk.invalidator.start()
    assert desk.invalidator.join(20)
    assert any(NAME in stall for stall in desk.supervisor.liveness.stalled())
    desk.invalidator.request_stop()
