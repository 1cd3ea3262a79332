"""What the HTTP server tells of a daemon: health, readiness, the API and the pages, over a real ledger."""

from __future__ import annotations

import html
import json
import re
import socket
from collections.abc import Iterator
from datetime import timedelta
from http.client import HTTPConnection
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote
from urllib.request import urlopen

import pytest

from db import State
from tests.support.databases import advance_to, claim, enqueue
from tests.support.harness import MakeHarness
from tests.support.served_site import ServedSite, served_site
from tests.support.video_files import OTHER_VIDEO
from watcher.errors import Failure, FailureKind
from watcher.http import live
from watcher.http.live import MAX_STREAMS
from watcher.http.source import PAGE
from watcher.telemetry.formatting import quoted

AWKWARD = [
    f"{OTHER_VIDEO}/<script>alert(1)</script>_720p.mp4",
    f"{OTHER_VIDEO}/\" onmouseover='x' {{{{7*7}}}} &amp;_720p.mp4",
    f"{OTHER_VIDEO}/\N{RIGHT-TO-LEFT OVERRIDE}4pm.\N{PILE OF POO}_720p.mp4",
    f"{OTHER_VIDEO}/{'n' * 246}_720p.mp4",
]


@pytest.fixture
def site(make_harness: MakeHarness) -> Iterator[ServedSite]:
    with served_site(make_harness(RELEASE_AFTER_SECONDS=86400)) as served:
        yield served


def fetched(site: ServedSite, path: str) -> tuple[int, dict[str, Any]]:
    """The status and the JSON of an answer, which may be an error."""
    try:
        with urlopen(f"http://{site.address}{path}", timeout=10) as answer:
            return answer.status, json.load(answer)
    except HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)


def test_a_daemon_is_ready_once_its_first_scan_is_done(site: ServedSite) -> None:
    site.status.phase = "starting"
    code, told = fetched(site, "/readyz")
    assert (code, told["ready"]) == (503, False)
    assert told["reasons"] == [
        {"part": "daemon", "reason": "The first scan of the directory is not finished."}
    ]
    site.status.phase = "running"
    assert fetched(site, "/readyz") == (200, {"ready": True, "reasons": []})


def test_a_paused_stage_is_a_reason_not_to_be_ready(
    site: ServedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So are S3 and database that are away; the page and its health sentence say the same."""
    failure = Failure(FailureKind.ENVIRONMENT, "NoSuchBucket", "The bucket is missing; create it.")
    breaker = site.harness.app.breakers["upload"]
    monkeypatch.setattr(type(breaker), "failure", property(lambda one: failure if one is breaker else None))
    code, told = fetched(site, "/readyz")
    assert (code, told["reasons"]) == (
        503,
        [{"part": "upload", "reason": "The bucket is missing; create it."}],
    )
    page = site.get("/")
    assert "Paused: upload." in page
    assert "The bucket is missing; create it." in page


def test_uploads_that_an_operator_has_paused_are_a_reason_too(site: ServedSite) -> None:
    """In page, metrics and `/readyz`, and none of them says that it resumes by itself."""
    orders = site.harness.app.context.orders
    metric = 'video_uploader_stage_paused{stage="uploads"}'
    assert f"{metric} 0.0" in site.get("/metrics")
    orders.steering.pause("moving house")
    orders.look()
    code, told = fetched(site, "/readyz")
    (reason,) = told["reasons"]
    assert (code, reason["part"]) == (503, "uploads")
    assert "(moving house); `video-uploader resume` resumes them" in reason["reason"]
    page = site.get("/")
    assert "Uploads are paused by hand since" in page
    assert "by itself" not in page
    assert f"{metric} 1.0" in site.get("/metrics")


def test_a_pause_by_hand_is_told_apart_in_the_metrics(site: ServedSite) -> None:
    """For how long it has lasted, also beyond a restart of the daemon."""
    orders = site.harness.app.context.orders

    def seconds() -> float:
        (line,) = re.findall(
            r"^video_uploader_operator_pause_seconds (\S+)", site.get("/metrics"), re.MULTILINE
        )
        return float(line)

    assert seconds() == 0
    orders.steering.pause("the line is needed")
    given = site.harness.app.context.database.tables.orders
    given.update(given_at=site.harness.app.ledger.now() - timedelta(days=2)).execute()
    orders.look()
    assert 172_800 <= seconds() < 190_000
    assert 'video_uploader_stage_paused{stage="uploads"} 1.0' in site.get("/metrics")
    orders.steering.resume()
    orders.look()
    assert seconds() == 0


def test_a_database_that_is_away_is_said_and_the_page_is_still_served(
    site: ServedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was replaced by another file, which is the fault that needs no second process."""
    monkeypatch.setattr(site.harness.app.context.database, "_file_id", (1, 1))
    code, told = fetched(site, "/readyz")
    assert code == 503
    assert [reason["part"] for reason in told["reasons"]] == ["database"]
    assert fetched(site, "/api/uploads")[0] == 503
    assert "The database does not answer" in site.get("/")


def test_a_thread_that_is_stuck_is_not_healthy(site: ServedSite) -> None:
    assert fetched(site, "/healthz") == (200, {"healthy": True, "stalls": []})
    site.status.stalls = ["scan has made no progress for 700 s"]
    assert fetched(site, "/healthz") == (503, {"healthy": False, "stalls": site.status.stalls})


def test_the_status_has_every_state_with_its_oldest(site: ServedSite) -> None:
    ledger = site.harness.app.ledger
    first = {state: advance_to(ledger, enqueue(ledger, f"v/{state}_720p.mp4"), state) for state in State}
    for state in State:
        advance_to(ledger, enqueue(ledger, f"v/{state}-later_720p.mp4"), state)
    site.report()
    told = json.loads(site.get("/api/status"))
    assert told["counts"] == {state.value: 2 for state in State}
    oldest = {row["state"]: row["oldest"]["id"] for row in told["queue"]}
    assert oldest == {state: first[State(state)].id for state in oldest}
    assert set(oldest) == {state.value for state in State} - {"released", "superseded"}
    assert [one["path"] for one in told["recent"]][:2] == [
        "v/released-later_720p.mp4",
        "v/published-later_720p.mp4",
    ]
    assert told["delay"]["uploads"] == 4
    (instance,) = told["instances"]
    assert (instance["instance"], instance["condition"]) == ("test", "running")


def test_failures_are_grouped_by_their_reason(site: ServedSite) -> None:
    ledger = site.harness.app.ledger
    for number in range(3):
        enqueue(ledger, f"v/{number}_720p.mp4")
    for upload in claim(ledger):
        ledger.advance(
            upload, State.REJECTED, error="It is cut off. Compress again.", error_code="incomplete"
        )
    (group,) = json.loads(site.get("/api/status"))["failures"]
    assert (group["code"], group["state"], group["uploads"]) == ("incomplete", "rejected", 3)
    assert group["reason"] == "It is cut off. Compress again."
    assert "video-uploader retry" in group["next"]


def test_the_pages_of_uploads_have_each_once_newest_first(site: ServedSite) -> None:
    ledger = site.harness.app.ledger
    ids = [enqueue(ledger, f"v/{number}_720p.mp4").id for number in range(2 * PAGE + 1)]
    found: list[int] = []
    path: str | None = "/api/uploads?state=pending"
    pages = 0
    while path is not None:
        told = json.loads(site.get(path))
        found += [upload["id"] for upload in told["uploads"]]
        path = told["next"]
        pages += 1
    assert found == ids[::-1]
    assert pages == 3


def test_uploads_are_found_by_video_name_and_state(site: ServedSite) -> None:
    ledger = site.harness.app.ledger
    mine = enqueue(ledger, f"{OTHER_VIDEO}/Holiday 100%_720p.mp4", video_id=OTHER_VIDEO)
    advance_to(ledger, enqueue(ledger, "v/other_720p.mp4"), State.FAILED)

    def found(query: str) -> list[int]:
        return [upload["id"] for upload in json.loads(site.get(f"/api/uploads?{query}"))["uploads"]]

    for query in ("q=holiday", "q=100%25_", f"q={OTHER_VIDEO.upper()}", f"video={OTHER_VIDEO}"):
        assert found(query) == [mine.id]
    assert found("q=nothing") == found("q=%25%25") == found("q=holiday&state=failed") == []
    assert found("") != [mine.id]


def test_a_search_reads_a_bounded_number_of_rows_and_goes_on_from_there(
    site: ServedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.ledger_reader.MAX_SEARCHED", 10)
    ledger = site.harness.app.ledger
    sought = enqueue(ledger, "v/needle_720p.mp4")
    for number in range(25):
        enqueue(ledger, f"v/{number}_720p.mp4")
    told = json.loads(site.get("/api/uploads?q=needle"))
    assert told["uploads"] == []
    pages = 1
    while not told["uploads"]:
        told = json.loads(site.get(told["next"]))
        pages += 1
    assert [upload["id"] for upload in told["uploads"]] == [sought.id]
    assert (pages, told["next"]) == (3, None)


@pytest.mark.parametrize(
    "query", ["state=lost", "video=7", "after=x", "after=0", "limit=-1", "q=%00", f"q={'x' * 301}"]
)
def test_a_wrong_query_is_refused_with_a_sentence_and_its_value(site: ServedSite, query: str) -> None:
    code, told = fetched(site, f"/api/uploads?{query}")
    name, _, value = query.partition("=")
    assert code == 400
    assert str(told["error"]).startswith(f"{name}: it is {quoted(unquote(value))}, no")
    assert str(told["error"]).isprintable()


def test_the_story_of_an_upload_is_what_explain_tells(site: ServedSite) -> None:
    ledger = site.harness.app.ledger
    upload = advance_to(ledger, enqueue(ledger), State.FAILED)
    told = json.loads(site.get(f"/api/uploads/{upload.id}"))
    assert [event["event"] for event in told["events"]] == ["discovered", "failed"]
    assert told["next"].startswith("Nothing happens without action")
    page = site.get(f"/uploads/{upload.id}")
    for sentence in (told["on_disk"], "my_video_720p.mp4", "discovered"):
        assert html.escape(sentence) in page
    assert fetched(site, "/api/uploads/99") == (
        404,
        {"error": "There is no upload 99; /uploads lists the uploads."},
    )


@pytest.mark.parametrize("path", AWKWARD)
def test_an_awkward_name_is_only_text_on_every_page(site: ServedSite, path: str) -> None:
    ledger = site.harness.app.ledger
    upload = advance_to(ledger, enqueue(ledger, path, video_id=OTHER_VIDEO), State.FAILED)
    site.report()
    for page in ("/", "/uploads", f"/uploads/{upload.id}", f"/uploads?q={quote(path[40:60])}"):
        text = site.get(page)
        assert "<script>alert" not in text
        assert "' {{" not in text
        assert " 49 " not in text
        assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in text
    shown = path.replace("\N{RIGHT-TO-LEFT OVERRIDE}", "\\u202e").rpartition("/")[2]
    assert html.unescape(site.get(f"/uploads/{upload.id}")).count(shown) >= 2


def test_what_the_page_loads_is_named_by_its_hash_and_kept(site: ServedSite) -> None:
    page = site.get("/")
    names = [part.partition('"')[0] for part in page.split('"/static/')[1:]]
    assert sorted(name.rpartition(".")[2] for name in names) == ["css", "js", "svg"]
    for name in names:
        with urlopen(f"http://{site.address}/static/{name}", timeout=10) as answer:
            assert "immutable" in answer.headers["Cache-Control"]
    assert "style=" not in page
    assert "<script>" not in page


def stream(site: ServedSite) -> tuple[HTTPConnection, int]:
    """Open a stream of events; returns the connection and the status of the answer."""
    connection = HTTPConnection(site.address, timeout=10)
    connection.request("GET", "/events")
    assert isinstance(connection.sock, socket.socket)
    return connection, connection.getresponse().status


def test_a_stream_has_all_parts_first_and_then_what_has_changed(
    site: ServedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "INTERVAL_SECONDS", 0.05)
    with urlopen(f"http://{site.address}/events", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")

        def next_parts() -> dict[str, str]:
            for line in answer:
                if line.startswith(b"data: "):
                    parts: dict[str, str] = json.loads(line[6:])
                    return parts
            raise AssertionError("the stream has ended")

        first = next_parts()
        assert {"live_health", "live_moving", "live_plot", "live_queue", "live_recent"} < set(first)
        advance_to(site.harness.app.ledger, enqueue(site.harness.app.ledger), State.FAILED)
        changed = next_parts()
        while "live_health" not in changed:
            changed = next_parts()
        assert "1 file needs a decision" in changed["live_health"]
        assert "live_plot" not in changed


def test_streams_are_bounded_and_end_with_the_daemon(make_harness: MakeHarness) -> None:
    with served_site(make_harness()) as site:
        opened = [stream(site) for _ in range(MAX_STREAMS)]
        assert [status for _, status in opened] == [200] * MAX_STREAMS
        refused, status = stream(site)
        assert status == 503
        assert site.get("/healthz"), "others are still answered"
    for connection, _ in [*opened, (refused, 0)]:
        connection.close()
