"""The daemon tells real receivers of events, at least once and beside the uploads."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest

from db import Outbox, State, open_database
from tests.support.catalog_rows import CatalogRows
from tests.support.daemon_process import command, place_file, running_daemon
from tests.support.fault_proxy import FaultProxy, s3_error
from tests.support.harness import VIDEO_ID, Harness, MakeHarness, MakeSettings
from tests.support.http_receiver import HttpReceiver, http_receiver
from tests.support.media import Media
from tests.support.ports import free_address
from tests.support.served_site import served_site
from tests.support.video_files import PATH
from watcher.cli.status import report_lines
from watcher.failpoints import CRASH_AT_VARIABLE, Point
from watcher.settings import Settings
from watcher.stages.notifications import Channel, Notifier

KEY = "k3y-of-the-signature"
TOKEN = "T0B4-d1st1nct1ve-token"


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with http_receiver() as running:
        yield running


def until(receiver: HttpReceiver, event: str, **facts: object) -> dict[str, Any]:
    """Wait for an event with these facts."""
    while True:
        told = receiver.next().told
        if told["event"] == event and all(told[name] == value for name, value in facts.items()):
            return told


def waiting(settings: Settings) -> dict[str, int]:
    with closing(open_database(settings.ledger_url, read_only=True)) as database:
        return Outbox(database, settings.instance).counts()


def notifier_of(harness: Harness) -> Notifier:
    notifier = harness.app.notifier
    assert notifier is not None
    return notifier


def test_a_publication_in_the_transaction_of_its_confirmation_is_told(
    make_harness: MakeHarness, receiver: HttpReceiver, video: bytes
) -> None:
    """What the stages of a real upload record is what the webhook is sent."""
    harness = make_harness(WEBHOOK_URL=receiver.url, SETTLE_SECONDS=0.1)
    row = harness.put(PATH, video)
    harness.step(State.PENDING, publishes=True)
    notifier_of(harness).flush(20)
    told = [got.told for got in receiver.received]
    assert [one["event"] for one in told] == ["rendition_published", "video_complete"]
    published = harness.row(PATH)
    assert (told[0]["url"], told[0]["checksum"]) == (published.url, published.checksum)
    assert [one["upload"] for one in told[1]["renditions"]] == [row.id]


def test_a_damaged_file_is_told_as_rejected(
    make_harness: MakeHarness, receiver: HttpReceiver, video: bytes
) -> None:
    harness = make_harness(WEBHOOK_URL=receiver.url)
    harness.put(PATH, video[: len(video) // 2])
    notifier_of(harness).flush(20)
    told = receiver.next().told
    assert (told["event"], told["code"], told["path"]) == ("upload_rejected", "incomplete", PATH)


def test_the_page_shows_what_waits_for_a_receiver_that_fails(make_harness: MakeHarness, video: bytes) -> None:
    """Its number, its age, and the reason; and nothing at all where there is no receiver."""
    with served_site(make_harness()) as site:
        assert json.loads(site.get("/api/status"))["notifications"] == {}
        assert "Notifications" not in site.get("/")
    harness = make_harness(WEBHOOK_URL=f"http://{free_address()}/", SETTLE_SECONDS=0.1)
    harness.put(PATH, video)
    harness.step(State.PENDING, publishes=True)
    rows = harness.app.context.database.tables.notifications
    rows.update(occurred_at=harness.app.ledger.now() - timedelta(hours=2)).execute()
    notifier_of(harness).deliver_step(Channel.WEBHOOK)
    with served_site(harness) as site:
        told = json.loads(site.get("/api/status"))["notifications"]["webhook"]
        assert (told["waiting"], told["delivered"], told["failed"], told["dropped"]) == (1, 0, 1, 0)
        assert 7200 <= told["oldest_seconds"] < 10_000
        page = site.get("/")
        assert "Notifications" in page
        assert "<b>fails:</b>" in page
        site.report()
        report = harness.app.ledger.instance_report()
        assert report is not None
        assert any("webhook fails" in line and "the oldest for 2 h" in line for line in report_lines(report))


def test_without_a_receiver_nothing_is_queued(make_harness: MakeHarness, video: bytes) -> None:
    harness = make_harness()
    harness.put(PATH, video)
    harness.finish(PATH)
    assert harness.app.notifier is None
    assert Outbox(harness.app.context.database, "test").counts() == {}


def test_events_for_a_receiver_that_is_not_configured_any_more_are_deleted(
    make_harness: MakeHarness, receiver: HttpReceiver, video: bytes
) -> None:
    harness = make_harness(WEBHOOK_URL=receiver.url)
    harness.put(PATH, video)
    harness.finish(PATH)
    outbox = Outbox(harness.app.context.database, "test")
    assert outbox.counts() == {"webhook": 1, "video": 1}
    again = make_harness(ON_PUBLISHED="true")
    again.app.forget_undeliverable()
    assert outbox.counts() == {"video": 1}
    make_harness().app.forget_undeliverable()
    assert outbox.counts() == {}


def test_with_the_compressors_rows_a_video_is_complete_once_each_ready_one_is_public(
    make_catalog_harness: MakeHarness, rows: CatalogRows, receiver: HttpReceiver, video: bytes
) -> None:
    """A row that is processed, or shows a local file, keeps it from being complete."""
    harness = make_catalog_harness(WEBHOOK_URL=receiver.url)
    notifier = notifier_of(harness)
    outbox = Outbox(harness.app.context.database, harness.app.ledger.instance)

    def told() -> list[str]:
        outbox.make_due(Channel.VIDEO)
        notifier.queue_step()
        while notifier.deliver_step(Channel.WEBHOOK) == 0:
            continue
        return [got.told["event"] for got in receiver.received]

    size = str(len(video))
    rows.insert("my video_720p.mp4", "720p", file_size=size)
    rows.insert("my video_360p.mp4", "360p", file_size=size)
    encoded = rows.insert("my video_144p.mp4", "144p", "processing")
    for quality in ("720p", "360p"):
        harness.put(f"{VIDEO_ID}/my video_{quality}.mp4", video)
        harness.admit_waiting()
        harness.step(State.PENDING, publishes=True)
        assert "video_complete" not in told()
    rows.update(encoded, status="failed")
    assert told() == ["rendition_published", "rendition_published", "video_complete"]
    complete = receiver.received[-1].told
    assert sorted(one["quality"] for one in complete["renditions"]) == ["360p", "720p"]


@pytest.mark.long
@pytest.mark.parametrize("point", [Point.ROW_PUBLISHED, Point.PUBLISHED])
def test_a_daemon_killed_about_its_publication_tells_of_it_after_the_restart(
    settings: MakeSettings, receiver: HttpReceiver, media: Media, point: Point
) -> None:
    """Neither before nor after the commit is anything lost, and the state is never without its event."""
    chosen = settings(WEBHOOK_URL=receiver.url, WEBHOOK_SECRET=KEY)
    place_file(chosen, PATH, media.faststart)
    with running_daemon(chosen, environment={CRASH_AT_VARIABLE: point.value}) as daemon:
        assert daemon.wait(30) == -signal.SIGKILL
    with running_daemon(chosen):
        assert until(receiver, "rendition_published")["path"] == PATH
        assert until(receiver, "video_complete")["video_id"] == VIDEO_ID


@pytest.mark.long
def test_a_receiver_that_is_silent_blocks_nothing_and_is_told_again_after_a_kill(
    settings: MakeSettings, receiver: HttpReceiver, media: Media
) -> None:
    """The file is released while the answer is kept back; both daemons tell the same event."""
    chosen = settings(WEBHOOK_URL=receiver.url)
    receiver.silent.set()
    place_file(chosen, PATH, media.faststart)
    with running_daemon(chosen) as daemon:
        first = until(receiver, "rendition_published")
        daemon.expect("upload_released", path=PATH)
        daemon.signal(signal.SIGKILL)
        daemon.wait(20)
    assert waiting(chosen)["webhook"] >= 1
    receiver.silent.clear()
    with running_daemon(chosen) as daemon:
        assert until(receiver, "rendition_published")["id"] == first["id"]
        until(receiver, "video_complete")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait(20) == 0
    assert waiting(chosen) == {}


@pytest.mark.long
def test_pauses_are_told_and_the_heart_beats_only_while_all_is_well(
    settings: MakeSettings, proxy: FaultProxy, receiver: HttpReceiver, media: Media
) -> None:
    """The heartbeat of a daemon that is ready comes at once, and none while a stage is paused."""
    proxy.fault = lambda request, forward: (
        s3_error(403, "AccessDenied") if request.action == "PutObject" else forward()
    )
    with http_receiver() as monitor:
        chosen = settings(WEBHOOK_URL=receiver.url, HEARTBEAT_URL=f"{monitor.url}/{TOKEN}")
        place_file(chosen, PATH, media.faststart)
        with running_daemon(chosen) as daemon:
            paused = until(receiver, "stage_paused", stage="upload")
            assert "AccessDenied" in paused["reason"]
            before = len(monitor.received)
            daemon.expect("daemon_ready")
            proxy.fault = lambda _request, forward: forward()
            until(receiver, "stage_resumed", stage="upload")
            until(receiver, "rendition_published")
            assert before <= 1
            assert monitor.next().path == f"/{TOKEN}"


@pytest.mark.long
def test_one_pass_runs_the_commands_before_it_ends(settings: MakeSettings, media: Media, place: str) -> None:
    script = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + chr(10))"
    words = f'{sys.executable} -c "{script}" {place}'
    chosen = settings(
        ON_PUBLISHED=f"{words}/published", ON_VIDEO_COMPLETE=f"{words}/complete", SETTLE_SECONDS=0.5
    )
    place_file(chosen, PATH, media.faststart)
    with running_daemon(chosen, "--once") as daemon:
        assert daemon.wait(60) == 0
        assert daemon.expect("hook_ended", channel="on_published")["status"] == 0
    with open(f"{place}/published", encoding="utf-8") as published, open(f"{place}/complete") as complete:
        assert [json.loads(line)["path"] for line in published] == [PATH]
        assert [json.loads(line)["event"] for line in complete] == ["video_complete"]
    assert waiting(chosen) == {}


@pytest.mark.long
def test_a_receiver_that_fails_is_shown_without_its_secrets(
    settings: MakeSettings, media: Media, place: str
) -> None:
    """In `config`, `status` and the log there is neither the token of a URL nor a password nor the key."""
    url = f"http://me:p4ssw0rd-of-it@{free_address()}/hooks/{TOKEN}"
    chosen = settings(WEBHOOK_URL=url, WEBHOOK_SECRET=KEY, HEARTBEAT_URL=url)
    place_file(chosen, PATH, media.faststart)
    with running_daemon(chosen) as daemon:
        daemon.expect("notification_failed", channel="webhook")
        daemon.expect("upload_released", path=PATH)
        daemon.expect("daemon_ready")
        shown = command(chosen, "config", "--json").stdout + command(chosen, "status", "--json").stdout
        masked = command(chosen, "config").stdout
        daemon.signal(signal.SIGTERM)
        daemon.wait(20)
        shown += masked + daemon.raw.decode()
    for secret in (TOKEN, KEY, "p4ssw0rd-of-it"):
        assert secret not in shown
    assert f"http://{url.rpartition('@')[2].partition('/')[0]}/********" in masked
