"""Events on their way from the outbox to a receiver: order of attempts, failures, limits of time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from db import Database, Ledger, Outbox, State, migrate, open_database
from tests.support.databases import Clock, advance_to, claim, enqueue, only
from tests.support.http_receiver import HttpReceiver, http_receiver
from watcher.renditions import Naming
from watcher.stages import notifications
from watcher.stages.notifications import KEPT, Channel, Notifier, Videos
from watcher.stages.receivers import Command, Webhook
from watcher.supervision.background_thread import Supervisor
from watcher.supervision.backoff import Backoff
from watcher.telemetry import Metrics

VIDEO = "0b8e3f60-9d5c-4c1a-8f8e-3b1f0a7d2c11"
NAMING = Naming(prefix="videos", public_base="https://cdn.example", local_base="file:///srv")


@dataclass
class NotifierFixture:
    """A notifier with two clocks that a test sets, its ledger, and a webhook's receiver."""

    database: Database
    receiver: HttpReceiver
    clock: Clock = field(default_factory=Clock)
    seconds: float = 0.0
    settling: bool = False

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.database, "main", clock=self.clock)
        self.outbox = Outbox(self.database, "main", clock=self.clock)
        self.metrics = Metrics()
        self.notifier = self.another_process()

    def another_process(self) -> Notifier:
        receivers = {Channel.WEBHOOK: Webhook(self.receiver.url, "key")}
        videos = Videos(self.ledger, NAMING, lambda _: self.settling)
        self.ledger.observer = notifier = Notifier(
            self.outbox,
            receivers,
            videos,
            instance="main",
            quiet=timedelta(seconds=5),
            supervisor=Supervisor(self.metrics, session=self.database.session),
            metrics=self.metrics,
            clock=lambda: self.seconds,
        )
        return notifier

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        self.clock.advance(seconds=seconds)

    def publish(self, name: str = "a_720p.mp4") -> None:
        enqueue(self.ledger, f"{VIDEO}/{name}", video_id=VIDEO)
        advance_to(self.ledger, claim(self.ledger)[0], State.PUBLISHED)

    def fail(self, name: str) -> None:
        enqueue(self.ledger, f"{VIDEO}/{name}", video_id=VIDEO)
        upload = only(claim(self.ledger))
        self.ledger.advance(upload, State.FAILED, error="It is odd.", error_code="x")

    def step(self) -> float:
        return self.notifier.deliver_step(Channel.WEBHOOK)

    def look(self) -> float:
        return self.notifier.queue_step()

    def told(self) -> list[str]:
        return [got.told["event"] for got in self.receiver.received]

    def counted(self, outcome: str) -> float | None:
        labels = {"channel": "webhook", "outcome": outcome}
        return self.metrics.registry.get_sample_value("video_uploader_notifications_total", labels)


@pytest.fixture
def fixture(place: str) -> Iterator[NotifierFixture]:
    url = f"sqlite://{place}/ledger.sqlite3"
    with closing(open_database(url)) as database, http_receiver() as receiver:
        migrate(database)
        with database.session():
            yield NotifierFixture(database, receiver)


def test_what_is_told_of_a_rendition_names_everything_that_is_known(fixture: NotifierFixture) -> None:
    fixture.publish()
    assert fixture.step() == 0
    upload = only(fixture.ledger.uploads())
    told = only(fixture.receiver.received).told
    assert len(told.pop("id")) == 36
    assert told.pop("occurred_at").startswith(upload.changed_at.isoformat()[:19])
    assert told == {
        "event": "rendition_published",
        "instance": "main",
        "upload": upload.id,
        "video_id": VIDEO,
        "quality": upload.quality,
        "filename": upload.filename,
        "path": upload.path,
        "object_key": upload.object_key,
        "url": upload.url,
        "size": upload.size,
        "checksum": upload.checksum,
    }
    assert fixture.notifier.waiting() == {"webhook": 0}
    assert fixture.counted("delivered") == 1


def test_a_failed_upload_is_told_with_its_reason(fixture: NotifierFixture) -> None:
    fixture.fail("a_720p.mp4")
    fixture.step()
    told = only(fixture.receiver.received).told
    assert (told["event"], told["code"], told["reason"]) == ("upload_failed", "x", "It is odd.")


def test_a_receiver_that_drops_the_first_answers_is_told_until_it_has_answered(
    fixture: NotifierFixture,
) -> None:
    """Every attempt has the same id, so that the receiver can tell that it is the same event."""
    fixture.receiver.answers = [0, 500, 302, 503]
    fixture.publish()
    for _ in range(5):
        fixture.step()
        fixture.advance(900)
    ids = [got.told["id"] for got in fixture.receiver.received]
    assert ids == ids[:1] * 5
    assert (fixture.counted("failed"), fixture.counted("delivered")) == (4, 1)
    assert fixture.notifier.troubles() == {}


def test_what_a_killed_process_had_claimed_is_told_by_the_next_one(fixture: NotifierFixture) -> None:
    fixture.publish()
    claimed = fixture.outbox.take(Channel.WEBHOOK, 16, lease=timedelta(minutes=5))
    fixture.notifier = fixture.another_process()
    fixture.step()
    assert fixture.receiver.received == []
    fixture.advance(301)
    fixture.step()
    assert only(fixture.receiver.received).told["id"] == only(claimed).subject


def test_a_failing_receiver_is_left_alone_for_longer_and_longer(fixture: NotifierFixture) -> None:
    """One event at a time is tried meanwhile."""
    fixture.receiver.answers = [500] * 6
    for number in range(6):
        fixture.publish(f"{number}_720p.mp4")
    waits = []
    for _ in range(6):
        wait = fixture.step()
        waits.append(wait)
        assert fixture.step() == wait
        fixture.advance(wait)
    assert waits == [1, 2, 4, 8, 16, 32]
    assert len(fixture.receiver.received) == 6
    assert fixture.notifier.troubles() == {"webhook": "it answered 500"}


def test_after_an_outage_no_event_waits_for_its_own_turn(
    fixture: NotifierFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = Backoff(base=5.0, factor=2.0, cap=900.0, uniform=lambda _low, high: high)
    monkeypatch.setattr(notifications, "RETRIES", longest)
    fixture.receiver.answers = [500] * 4
    fixture.publish("a_720p.mp4")
    for _ in range(4):
        fixture.advance(900)
        fixture.step()
    fixture.advance(8)
    fixture.publish("b_720p.mp4")
    with capture_logs() as logs:
        fixture.step()
        fixture.step()
    paths = [got.told["path"] for got in fixture.receiver.received[4:]]
    assert paths == [f"{VIDEO}/b_720p.mp4", f"{VIDEO}/a_720p.mp4"]
    assert "notifications_resumed" in [entry["event"] for entry in logs]


def test_one_event_that_is_refused_keeps_back_no_other(fixture: NotifierFixture) -> None:
    fixture.receiver.answers = [400]
    for number in range(3):
        fixture.publish(f"{number}_720p.mp4")
    fixture.advance(1)
    fixture.step()
    fixture.advance(1)
    fixture.step()
    assert fixture.told() == ["rendition_published"] * len(fixture.receiver.received)
    assert len(fixture.receiver.received) >= 3
    assert fixture.notifier.waiting()["webhook"] <= 1


def test_an_event_is_given_up_after_three_days_with_a_line_in_the_log(fixture: NotifierFixture) -> None:
    """It is tried once in any case, as after a long time without a daemon."""
    fixture.publish()
    fixture.advance(KEPT.total_seconds() + 1)
    fixture.receiver.answers = [500]
    fixture.step()
    assert len(fixture.receiver.received) == 1
    fixture.advance(900)
    with capture_logs() as logs:
        fixture.step()
    assert len(fixture.receiver.received) == 1
    dropped = only(entry for entry in logs if entry["event"] == "notification_dropped")
    assert (dropped["attempts"], dropped["reason"]) == (1, "it answered 500")
    assert fixture.notifier.waiting() == {"webhook": 0}
    assert fixture.counted("dropped") == 1


def test_a_pause_and_its_end_are_told_once_each(fixture: NotifierFixture) -> None:
    for failures in ({}, {"upload": "No key."}, {"upload": "No key, still."}, {}, {}):
        fixture.notifier.report_failures(failures)
    fixture.look()
    fixture.step()
    told = [got.told for got in fixture.receiver.received]
    assert [(one["event"], one["stage"], one["reason"]) for one in told] == [
        ("stage_paused", "upload", "No key."),
        ("stage_resumed", "upload", None),
    ]


def test_pauses_wait_for_the_database(fixture: NotifierFixture, place: str) -> None:
    file = f"{place}/ledger.sqlite3"
    os.rename(file, f"{file}.away")
    fixture.notifier.report_failures({"upload": "No database."})
    assert fixture.look() == 5
    os.rename(f"{file}.away", file)
    fixture.look()
    fixture.step()
    assert fixture.told() == ["stage_paused"]


def test_a_video_is_complete_once_nothing_of_it_is_under_way(fixture: NotifierFixture) -> None:
    """Without the compressor's rows: no upload to be sent, no file that settles, and a moment of quiet."""
    fixture.publish("a_720p.mp4")
    enqueue(fixture.ledger, f"{VIDEO}/a_1080p.mp4", video_id=VIDEO)
    fixture.look()
    fixture.advance(6)
    fixture.look()
    assert fixture.outbox.counts()["video"] == 1
    advance_to(fixture.ledger, only(claim(fixture.ledger)), State.PUBLISHED)
    fixture.fail("a_144p.mp4")
    fixture.settling = True
    fixture.advance(6)
    fixture.look()
    assert fixture.outbox.counts()["video"] == 1
    fixture.settling = False
    fixture.advance(60)
    fixture.look()
    assert "video" not in fixture.outbox.counts()
    fixture.step()
    assert fixture.told() == ["rendition_published", "rendition_published", "upload_failed", "video_complete"]
    told = fixture.receiver.received[-1].told
    assert told["video_id"] == VIDEO
    assert [one["path"] for one in told["renditions"]] == [f"{VIDEO}/a_720p.mp4", f"{VIDEO}/a_1080p.mp4"]
    assert [one["path"] for one in told["failed"]] == [f"{VIDEO}/a_144p.mp4"]


def test_renditions_that_are_published_together_complete_a_video_once(fixture: NotifierFixture) -> None:
    for number in range(5):
        fixture.publish(f"{number}_720p.mp4")
    fixture.advance(6)
    for _ in range(3):
        fixture.look()
        fixture.advance(60)
    for _ in range(2):
        fixture.step()
    assert fixture.told().count("video_complete") == 1


def test_a_video_that_is_never_complete_is_forgotten_after_three_days(fixture: NotifierFixture) -> None:
    fixture.publish()
    enqueue(fixture.ledger, f"{VIDEO}/b_720p.mp4", video_id=VIDEO)
    for _ in range(4):
        fixture.advance(86_400)
        fixture.look()
    assert "video" not in fixture.outbox.counts()


def test_a_command_for_videos_is_told_of_nothing_else(fixture: NotifierFixture) -> None:
    """What has no receiver is not queued."""
    receivers = {Channel.ON_VIDEO_COMPLETE: Command("on_video_complete", "true")}
    fixture.ledger.observer = fixture.notifier = Notifier(
        fixture.outbox,
        receivers,
        Videos(fixture.ledger, NAMING, lambda _: False),
        instance="main",
        quiet=timedelta(0),
        supervisor=Supervisor(fixture.metrics),
        metrics=fixture.metrics,
        clock=lambda: fixture.seconds,
    )
    fixture.publish()
    assert fixture.outbox.counts() == {"video": 1}
    fixture.look()
    assert fixture.outbox.counts() == {"on_video_complete": 1}
    fixture.notifier.deliver_step(Channel.ON_VIDEO_COMPLETE)
    assert fixture.outbox.counts() == {}
