"""CDN invalidations of replaced objects, and the check of a URL before it is published."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from structlog.testing import capture_logs

from db import State
from tests.support.cloudfront_server import Cdn, asked_to_forget
from tests.support.daemon_process import DaemonProcess, running_daemon
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request
from tests.support.harness import BUCKET, VIDEO_ID, Harness, MakeHarness, MakeSettings
from tests.support.s3_server import S3Server
from watcher.app.single_pass import SinglePass
from watcher.settings.model import Settings

pytestmark = pytest.mark.long

PATH = f"{VIDEO_ID}/my video_720p.mp4"
CDN_PATH = f"/videos/{VIDEO_ID}/my%20video_720p.mp4"
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OURS = {"PYTHONPATH": ROOT}
NO_ACCESS = Answer(
    403,
    {"content-type": "text/xml"},
    b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>No.</Message></Error></ErrorResponse>",
)


def longer(video: bytes) -> bytes:
    """The video with other content: a box of free space at its end."""
    return video + b"\0\0\0\x08free"


@pytest.fixture
def cdn(server: S3Server) -> Iterator[Cdn]:
    with closing(Cdn(server.url)) as cdn:
        yield cdn


@pytest.fixture
def with_cdn(cdn: Cdn, proxy: FaultProxy) -> dict[str, Any]:
    """The settings that name the distribution."""
    return {"CLOUDFRONT_DISTRIBUTION_ID": cdn.id, "AWS_ENDPOINT_URL_CLOUDFRONT": proxy.url}


def flush(harness: Harness) -> None:
    assert harness.app.context.invalidator is not None
    harness.app.context.invalidator.flush()


def test_a_first_upload_is_not_invalidated(
    make_harness: MakeHarness, proxy: FaultProxy, with_cdn: dict[str, Any], video: bytes
) -> None:
    harness = make_harness(**with_cdn)
    harness.put(PATH, video)
    assert harness.finish(PATH).state is State.RELEASED
    flush(harness)
    assert asked_to_forget(proxy) == []


@pytest.mark.parametrize("state", [State.VERIFIED, State.PUBLISHED, State.RELEASED])
def test_an_object_that_is_replaced_leaves_the_caches(
    make_harness: MakeHarness, cdn: Cdn, with_cdn: dict[str, Any], video: bytes, state: State
) -> None:
    """In whichever state the row of the earlier content is."""
    harness = make_harness(**with_cdn)
    harness.put(PATH, video)
    for stage in (State.PENDING, State.VERIFIED, State.PUBLISHED)[
        : [State.VERIFIED, State.PUBLISHED, State.RELEASED].index(state) + 1
    ]:
        harness.step(stage)
    assert harness.row(PATH).state is state
    harness.put(PATH, longer(video))
    (row,) = harness.step(State.PENDING)
    assert row.state is State.VERIFIED
    assert "replaced" in harness.events(PATH)
    flush(harness)
    assert cdn.forgotten() == [[CDN_PATH]]


def test_the_same_content_again_is_no_replacement(
    make_harness: MakeHarness, proxy: FaultProxy, with_cdn: dict[str, Any], video: bytes
) -> None:
    harness = make_harness(**with_cdn)
    for _ in range(2):
        harness.put(PATH, video)
        assert harness.finish(PATH).state is State.RELEASED
    flush(harness)
    assert asked_to_forget(proxy) == []


def test_nothing_is_invalidated_before_the_new_object_is_confirmed(
    make_harness: MakeHarness, proxy: FaultProxy, with_cdn: dict[str, Any], video: bytes
) -> None:
    """A cache that is invalidated too early caches the old object again."""
    harness = make_harness(**with_cdn)
    harness.put(PATH, video)
    harness.finish(PATH)
    proxy.fault = lambda request, forward: Answer(503) if request.action == "PutObject" else forward()
    harness.put(PATH, longer(video))
    (row,) = harness.step(State.PENDING)
    assert row.state is State.PENDING
    flush(harness)
    assert asked_to_forget(proxy) == []


def test_a_receipt_and_its_invalidation_are_written_together_or_not_at_all(
    make_harness: MakeHarness, with_cdn: dict[str, Any], video: bytes
) -> None:
    harness = make_harness(**with_cdn)
    harness.put(PATH, video)
    harness.finish(PATH)
    harness.put(PATH, longer(video))
    with harness.app.context.database.operation("take the table away") as connected:
        connected.execute_sql("ALTER TABLE invalidations RENAME TO hidden")
    (row,) = harness.step(State.PENDING)
    assert (row.state, row.error_code) == (State.PENDING, "database")


def test_an_invalidation_survives_a_restart(
    make_harness: MakeHarness, cdn: Cdn, with_cdn: dict[str, Any], video: bytes
) -> None:
    harness = make_harness(**with_cdn)
    harness.put(PATH, video)
    harness.finish(PATH)
    harness.put(PATH, longer(video))
    harness.step(State.PENDING)
    flush(make_harness(**with_cdn))
    assert cdn.forgotten() == [[CDN_PATH]]


def test_without_a_distribution_nothing_is_asked_or_kept(make_harness: MakeHarness, video: bytes) -> None:
    harness = make_harness()
    assert harness.app.context.invalidator is None
    assert set(harness.app.breakers) == {"upload", "publish", "release"}
    for content in (video, longer(video)):
        harness.put(PATH, content)
        assert harness.finish(PATH).state is State.RELEASED
    with harness.app.context.database.operation("look") as connected:
        assert connected.execute_sql("SELECT * FROM invalidations").fetchall() == []


def run_once(settings: Settings) -> tuple[int, list[dict[str, Any]]]:
    with running_daemon(settings, "--once", environment=OURS) as daemon:
        return daemon.wait(50), daemon.events


def write(settings: Settings, content: bytes) -> None:
    full = os.path.join(settings.completed_dir, PATH)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "wb") as file:
        file.write(content)


def test_run_once_tells_the_cdn_before_it_ends(
    settings: MakeSettings, cdn: Cdn, with_cdn: dict[str, Any], video: bytes
) -> None:
    given = settings(**with_cdn, LOG_FORMAT="json", KEEP_LOCAL=True)
    for content in (video, longer(video)):
        write(given, content)
        code, events = run_once(given)
        assert code == 0, events
    assert cdn.forgotten() == [[CDN_PATH]]


def test_run_once_says_that_the_cdn_could_not_be_told(
    settings: MakeSettings, cdn: Cdn, proxy: FaultProxy, with_cdn: dict[str, Any], video: bytes
) -> None:
    given = settings(**with_cdn, LOG_FORMAT="json", KEEP_LOCAL=True)
    write(given, video)
    assert run_once(given)[0] == 0
    proxy.fault = lambda request, forward: NO_ACCESS if request.path.endswith("/invalidation") else forward()
    write(given, longer(video))
    code, events = run_once(given)
    assert code == 1
    said = [event["line"] for event in events if "line" in event]
    assert any("invalidation is paused" in line and "cloudfront:CreateInvalidation" in line for line in said)
    assert any("some CDN invalidations are not done yet" in line for line in said)
    proxy.fault = lambda _request, forward: forward()
    assert run_once(given)[0] == 0
    assert cdn.forgotten() == [[CDN_PATH]]


def test_an_interrupted_run_asks_nothing_more(
    make_harness: MakeHarness, proxy: FaultProxy, with_cdn: dict[str, Any]
) -> None:
    harness = make_harness(**with_cdn)
    assert harness.app.context.invalidator is not None
    harness.app.context.invalidator.request("a")
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    signals.put(signal.SIGTERM)
    with capture_logs():
        undone = SinglePass(harness.app, signals=signals).run()
    assert any("interrupted" in line for line in undone)
    assert asked_to_forget(proxy) == []


def test_the_daemon_tells_the_cdn_and_stops_promptly(
    settings: MakeSettings, cdn: Cdn, with_cdn: dict[str, Any], video: bytes
) -> None:
    given = settings(**with_cdn, LOG_FORMAT="json", KEEP_LOCAL=True)
    write(given, video)
    with running_daemon(given, environment=OURS) as daemon:
        daemon.expect("upload_published")
        write(given, longer(video))
        assert daemon.expect("cdn_invalidated")["paths"] == 1
        stop(daemon)
    assert cdn.forgotten() == [[CDN_PATH]]


def test_a_refused_invalidation_is_said_everywhere_and_holds_up_no_upload(
    settings: MakeSettings,
    make_harness: MakeHarness,
    proxy: FaultProxy,
    with_cdn: dict[str, Any],
    video: bytes,
) -> None:
    proxy.fault = lambda request, forward: NO_ACCESS if request.path.endswith("/invalidation") else forward()
    given = settings(**with_cdn, LOG_FORMAT="json", KEEP_LOCAL=True)
    write(given, video)
    with running_daemon(given, environment=OURS) as daemon:
        daemon.expect("upload_published")
        write(given, longer(video))
        paused = daemon.expect("stage_paused", stage="invalidation")
        assert "cloudfront:CreateInvalidation" in paused["reason"]
        daemon.expect("upload_published", count=2)
        stop(daemon)
    report = make_harness(**with_cdn).app.ledger.instance_report()
    assert report is not None
    said = report.report["paused"]
    assert isinstance(said, dict)
    assert "cloudfront:CreateInvalidation" in said["invalidation"]


def stop(daemon: DaemonProcess) -> None:
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert daemon.expect("daemon_stopped")["in_time"]


def test_a_domain_of_the_cdn_makes_the_urls_and_wins(make_harness: MakeHarness, video: bytes) -> None:
    harness = make_harness(CLOUDFRONT_DOMAIN="d1.cloudfront.net", AWS_S3_BASE_URL="https://other.example")
    harness.put(PATH, video)
    assert harness.finish(PATH).url == f"https://d1.cloudfront.net{CDN_PATH}"


def test_a_url_that_everyone_can_fetch_is_published(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    harness = make_harness(VERIFY_PUBLIC_URL=True)
    harness.put(PATH, video)
    harness.step(State.PENDING)
    (row,) = harness.step(State.VERIFIED)
    assert row.state is State.PUBLISHED
    asked = [request for request in proxy.requests if request.method == "GET"]
    assert [(request.path, "Authorization" in request.headers) for request in asked] == [
        (f"/{BUCKET}{CDN_PATH}", False)
    ]


def test_by_default_no_url_is_fetched(make_harness: MakeHarness, proxy: FaultProxy, video: bytes) -> None:
    harness = make_harness()
    harness.put(PATH, video)
    assert harness.finish(PATH).state is State.RELEASED
    assert [request for request in proxy.requests if request.method == "GET"] == []


def test_a_url_that_cannot_be_fetched_is_not_published_and_pauses_the_stage(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes
) -> None:
    harness = make_harness(VERIFY_PUBLIC_URL=True, AWS_S3_ACL="none")
    harness.put(PATH, video)
    harness.step(State.PENDING)
    with pytest.raises(HTTPError):
        urlopen(harness.row(PATH).url or "")
    (row,) = harness.step(State.VERIFIED)
    assert (row.state, row.attempts, row.error_code) == (State.VERIFIED, 0, "not-public")
    assert harness.catalog_urls()[0].startswith("file:")
    failure = harness.app.breakers["publish"].failure
    assert failure is not None
    for word in ("AWS_S3_ACL=public-read", "bucket policy", "CLOUDFRONT_DOMAIN"):
        assert word in failure.sentence
    harness.server.client().put_object_acl(Bucket=BUCKET, Key=row.object_key, ACL="public-read")
    (row,) = harness.step(State.VERIFIED)
    assert row.state is State.PUBLISHED
    assert harness.app.breakers["publish"].failure is None


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"content_range": "bytes 0-0/1"}, "public-length"),
        ({"content_type": "text/html"}, "public-type"),
    ],
)
def test_a_row_waits_while_its_url_gives_something_else(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, change: dict[str, str], code: str
) -> None:
    """A cache that still has the earlier object, or an error page."""

    def lie(request: Request, forward: Forward) -> Answer:
        return forward().having(**change) if request.method == "GET" else forward()

    proxy.fault = lie
    harness = make_harness(VERIFY_PUBLIC_URL=True)
    harness.put(PATH, video)
    harness.step(State.PENDING)
    (row,) = harness.step(State.VERIFIED)
    assert (row.state, row.attempts, row.error_code) == (State.VERIFIED, 1, code)
    assert harness.app.breakers["publish"].failure is None
    assert harness.catalog_urls()[0].startswith("file:")
    proxy.fault = lambda _request, forward: forward()
    harness.app.ledger.make_due([row.id])
    (row,) = harness.step(State.VERIFIED)
    assert row.state is State.PUBLISHED


def test_a_url_that_drips_delays_no_other_publication(
    make_harness: MakeHarness, proxy: FaultProxy, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer does not come before the others are published; then it has a backoff of its own."""
    harness = make_harness(VERIFY_PUBLIC_URL=True)
    public_check = harness.app.context.public_check
    assert public_check is not None
    monkeypatch.setattr(public_check._http, "_timeout", 60)
    paths = [f"{VIDEO_ID}/film{number}_720p.mp4" for number in range(8)]
    others_published = threading.Event()

    def hold(request: Request, forward: Forward) -> Answer:
        if request.method == "GET" and "film0_" in request.path:
            assert others_published.wait(60)
            return Answer(200)
        return forward()

    for path in paths:
        harness.put(path, video)
    harness.step(State.PENDING)
    proxy.fault = hold
    runner = harness.app.runners[State.VERIFIED]
    runner.start()
    try:
        deadline = time.monotonic() + 60
        while not all(harness.row(path).state is State.PUBLISHED for path in paths[1:]):
            assert time.monotonic() < deadline
            others_published.wait(0.01)
        slow = harness.row(paths[0])
        assert slow.state is State.VERIFIED
        assert slow.claimed_by is not None
    finally:
        others_published.set()
        runner.request_stop()
        assert runner.join(60)
    assert harness.row(paths[0]).state is State.VERIFIED
