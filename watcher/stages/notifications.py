"""Tells receivers of events: what is told, and its way from the ledger's outbox to a command or a webhook.

An event about an upload is committed in the transaction that changes the upload's state, so that neither is
without the other, and is deleted once its receiver has it. So it is told at least once.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial

import structlog

from db import JSON, CatalogRow, DatabaseError, Ledger, Notification, Outbox, State, Upload, format_time
from watcher.renditions import Naming
from watcher.stages.receivers import DeliveryError, Receiver, Trouble
from watcher.supervision.background_thread import BackgroundThread, Supervisor, Worker
from watcher.supervision.backoff import Backoff
from watcher.telemetry import Metrics

log = structlog.get_logger()

KEPT = timedelta(days=3)
"""How long the delivery of an event is tried."""
POLL_SECONDS = 30.0
"""The outbox is read at least this often: another daemon on the directory may have left something."""
DATABASE_RETRY_SECONDS = 5.0
LOOK_AGAIN = timedelta(seconds=2), timedelta(seconds=60)
"""How soon a video that is not complete is looked at again: after its age, within these limits."""
VIDEOS_AT_ONCE = 64
MAX_CHANGES = 256
"""How many pauses and resumptions are kept in memory while the database does not answer."""
PATIENCE_SECONDS = 120.0
OUTAGE_FAILURES = 3
"""After so many failures in a row a success makes due at once what waits on its own."""

RETRIES = Backoff(base=5.0, factor=2.0, cap=900.0)
"""Of one event."""
PAUSES = Backoff(base=1.0, factor=2.0, cap=60.0)
"""Of a receiver that fails."""


class Event(StrEnum):
    """What is told."""

    RENDITION_PUBLISHED = "rendition_published"
    VIDEO_COMPLETE = "video_complete"
    UPLOAD_FAILED = "upload_failed"
    UPLOAD_REJECTED = "upload_rejected"
    STAGE_PAUSED = "stage_paused"
    STAGE_RESUMED = "stage_resumed"


class Channel(StrEnum):
    """Where an event waits: for a receiver, or, of a video, to become one."""

    WEBHOOK = "webhook"
    ON_PUBLISHED = "on_published"
    ON_VIDEO_COMPLETE = "on_video_complete"
    VIDEO = "video"


OUTCOMES = ("delivered", "failed", "dropped")
"""What can become of an attempt to tell an event."""
TOLD: Mapping[Channel, Collection[Event]] = {
    Channel.WEBHOOK: frozenset(Event),
    Channel.ON_PUBLISHED: frozenset({Event.RENDITION_PUBLISHED}),
    Channel.ON_VIDEO_COMPLETE: frozenset({Event.VIDEO_COMPLETE}),
}
OF_STATE = {
    State.PUBLISHED: Event.RENDITION_PUBLISHED,
    State.FAILED: Event.UPLOAD_FAILED,
    State.REJECTED: Event.UPLOAD_REJECTED,
}

_LIVE = frozenset({State.PUBLISHED, State.RELEASED})
_UNDER_WAY = frozenset({State.PENDING, State.VERIFIED})
_STOPPED = frozenset({State.FAILED, State.REJECTED})


@dataclass(frozen=True, slots=True)
class Videos:
    """Decides whether all renditions of a video are live.

    With the compressor's catalog they are if none of its rows is being processed and every ready one, of
    which there is one at least, has a public URL. Elsewhere no row says what is to come: they are if no
    upload of the video is left to be sent or published, no file of it is being settled, and one is published.

    `rows` reads the compressor's rows of a video, and is None elsewhere. `is_settling` says whether a file
    of a video is being settled here.
    """

    ledger: Ledger
    naming: Naming
    is_settling: Callable[[str], bool]
    rows: Callable[[str], Sequence[CatalogRow]] | None = None

    def facts(self, video_id: str) -> Mapping[str, JSON] | None:
        """What is told of a complete video; None if it is not complete. Raises `db.DatabaseError`."""
        newest = {
            (upload.instance, upload.path): upload
            for upload in self.ledger.uploads(video_id=video_id, all_instances=True)
        }
        uploads = list(newest.values())
        live = [upload for upload in uploads if upload.state in _LIVE]
        if self.rows is not None:
            rows = self.rows(video_id)
            ready = [row for row in rows if row.status == "ready"]
            is_decided = all(row.status in {"ready", "failed"} for row in rows)
            if not ready or not is_decided or any(self.naming.key_of(row.url) is None for row in ready):
                return None
            shown = {row.url for row in ready}
            live = [upload for upload in live if upload.url in shown]
        elif not live or any(upload.state in _UNDER_WAY for upload in uploads) or self.is_settling(video_id):
            return None
        return {
            "video_id": video_id,
            "renditions": [facts_of(upload) for upload in live],
            "failed": [facts_of(upload) for upload in uploads if upload.state in _STOPPED],
        }


def facts_of(upload: Upload) -> dict[str, JSON]:
    """What is told of an upload."""
    return {
        "upload": upload.id,
        "video_id": upload.video_id,
        "quality": upload.quality,
        "filename": upload.filename,
        "path": upload.path,
        "object_key": upload.object_key,
        "url": upload.url,
        "size": upload.size,
        "checksum": upload.checksum,
    }


class Notifier(Worker):
    """Queues events, and delivers them in one thread for each receiver, so that none waits for another one.

    Is the `db.Observer` of the ledger. `quiet` is how long after a publication a video is looked at. `clock`
    gives monotonic seconds.
    """

    def __init__(
        self,
        outbox: Outbox,
        receivers: Mapping[Channel, Receiver],
        videos: Videos,
        *,
        instance: str,
        quiet: timedelta,
        supervisor: Supervisor,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(supervisor, "notification threads")
        self._outbox = outbox
        self._receivers = receivers
        self._videos = videos
        self._instance = instance
        self._quiet = quiet
        self._metrics = metrics
        self._clock = clock
        self._told_failures: Mapping[str, str] = {}
        self._changes: deque[tuple[Event, datetime, Mapping[str, JSON]]] = deque(maxlen=MAX_CHANGES)
        """Pauses and resumptions that are not in the outbox yet."""
        self._trouble = {channel: Trouble(channel, clock) for channel in receivers}
        self._not_before = dict.fromkeys(receivers, clock())
        self._main = self.add_thread("notify", self.queue_step, patience=PATIENCE_SECONDS)
        self._threads_of = {
            channel: self.add_thread(
                f"notify-{channel.replace('_', '-')}",
                partial(self.deliver_step, channel),
                patience=PATIENCE_SECONDS + receiver.seconds,
            )
            for channel, receiver in receivers.items()
        }
        for channel in receivers:
            for outcome in OUTCOMES:
                metrics.notifications.labels(channel=channel, outcome=outcome)

    # What is told

    def record(self, upload: Upload) -> bool:
        """Queue what is told of an upload that has come into its state, within the open transaction."""
        event = OF_STATE.get(upload.state)
        if event is None:
            return False
        facts: dict[str, JSON] = facts_of(upload)
        if upload.state in _STOPPED:
            facts |= {"code": upload.error_code, "reason": upload.last_error}
        at = upload.changed_at
        is_queued = self._queue(event, at, facts)
        if event is Event.RENDITION_PUBLISHED and self._is_told(Event.VIDEO_COMPLETE):
            due_at = at + self._quiet
            self._outbox.add(Channel.VIDEO, upload.video_id, "", at=at, due_at=due_at)
            is_queued = True
        return is_queued

    def report_failures(self, failures: Mapping[str, str]) -> None:
        """Tell of the parts of the daemon that have paused or resumed since the last call.

        `failures` has the reasons by part. Does not wait for the database.
        """
        if failures.keys() == self._told_failures.keys():
            return
        now = datetime.now(UTC)
        for stage in sorted(failures.keys() - self._told_failures.keys()):
            self._changes.append((Event.STAGE_PAUSED, now, {"stage": stage, "reason": failures[stage]}))
        for stage in sorted(self._told_failures.keys() - failures.keys()):
            self._changes.append((Event.STAGE_RESUMED, now, {"stage": stage, "reason": None}))
        self._told_failures = dict(failures)
        self._main.wake()

    def _queue(
        self, event: Event, at: datetime, facts: Mapping[str, JSON], *, due_at: datetime | None = None
    ) -> bool:
        """Queue an event for those who are told of it; False if there are none."""
        subject = str(uuid.uuid4())
        told: dict[str, JSON] = {
            "event": event,
            "id": subject,
            "occurred_at": format_time(at),
            "instance": self._instance,
        }
        payload = json.dumps(told | dict(facts))
        channels = [channel for channel in self._receivers if event in TOLD[channel]]
        for channel in channels:
            self._outbox.add(channel, subject, payload, at=at, due_at=due_at or at)
        return bool(channels)

    def _is_told(self, event: Event) -> bool:
        return any(event in TOLD[channel] for channel in self._receivers)

    # What waits

    def waiting(self) -> Mapping[str, int]:
        """How many events wait for each receiver. Raises `db.DatabaseError`."""
        counts = self._outbox.counts()
        return {channel.value: counts.get(channel, 0) for channel in self._receivers}

    def oldest_seconds(self) -> Mapping[str, float]:
        """How old the oldest event is that waits, by receiver. Raises `db.DatabaseError`."""
        now, oldest = self._outbox.now(), self._outbox.oldest()
        return {
            channel.value: max(0.0, (now - oldest[channel]).total_seconds())
            for channel in self._receivers
            if channel in oldest
        }

    def troubles(self) -> Mapping[str, str]:
        """Why the last attempt failed, by the channel whose receiver fails."""
        return {
            channel.value: trouble.reason for channel, trouble in self._trouble.items() if trouble.failures
        }

    def flush(self, seconds: float) -> None:
        """Deliver what can be delivered within `seconds`, in the calling thread; for a process that ends."""
        deadline = self._clock() + seconds
        while not self._main.stopping.is_set():
            wait = min([self.queue_step(), *(self.deliver_step(channel) for channel in self._receivers)])
            try:
                is_done = not any(self._outbox.counts().values())
            except DatabaseError:
                return
            if is_done or self._clock() + wait > deadline:
                return
            self._main.stopping.wait(wait)

    def request_stop(self) -> None:
        """Begin nothing more, and end what is under way."""
        super().request_stop()
        for receiver in self._receivers.values():
            receiver.interrupt()

    # Steps

    def queue_step(self) -> float:
        """Queue pauses and resumptions, and look at videos; returns the seconds until the next call."""
        try:
            self._queue_changes()
            return self._look_at_videos()
        except DatabaseError as exc:
            log.debug("notifications_wait", reason=str(exc))
            return DATABASE_RETRY_SECONDS

    def deliver_step(self, channel: Channel) -> float:
        """Deliver what is due on a channel; returns the seconds until the next call."""
        if (wait := self._not_before[channel] - self._clock()) > 0:
            return wait
        receiver = self._receivers[channel]
        lease = timedelta(seconds=receiver.batch * receiver.seconds + PATIENCE_SECONDS)
        try:
            batch = self._outbox.take(channel, receiver.batch, lease=lease)
            if not batch:
                return self._seconds_to_next(channel)
            self._deliver(channel, batch)
        except DatabaseError as exc:
            # What was delivered is delivered again once the claim has ended.
            log.debug("notifications_wait", reason=str(exc))
            return DATABASE_RETRY_SECONDS
        return max(0.0, self._not_before[channel] - self._clock())

    def _queue_changes(self) -> None:
        while self._changes:
            event, at, facts = self._changes[0]
            with self._outbox.database.transaction("queue a notification"):
                # The clock of this machine may not be the database's.
                self._queue(event, at, facts, due_at=self._outbox.now())
            self._changes.popleft()
            self._wake_receivers()

    def _look_at_videos(self) -> float:
        if not self._is_told(Event.VIDEO_COMPLETE):
            return POLL_SECONDS
        taken = self._outbox.take(Channel.VIDEO, VIDEOS_AT_ONCE, lease=timedelta(seconds=PATIENCE_SECONDS))
        for video in taken:
            _beat(self._main)
            self._look_at(video)
        return 0.0 if len(taken) == VIDEOS_AT_ONCE else self._seconds_to_next(Channel.VIDEO)

    def _look_at(self, video: Notification) -> None:
        now = self._outbox.now()
        with self._outbox.database.transaction("look whether a video is complete"):
            # All of the video, before it is looked at: what is published meanwhile has a row of its own.
            if not self._outbox.withdraw(Channel.VIDEO, video.subject):
                return
            facts = self._videos.facts(video.subject)
            age = now - video.occurred_at
            if facts is not None:
                self._queue(Event.VIDEO_COMPLETE, now, facts)
            elif age <= KEPT:
                shortest, longest = LOOK_AGAIN
                due_at = now + min(max(age, shortest), longest)
                self._outbox.add(Channel.VIDEO, video.subject, "", at=video.occurred_at, due_at=due_at)
        if facts is not None:
            log.info("video_complete", video_id=video.subject)
            self._wake_receivers()
        elif age > KEPT:
            log.info("video_incomplete", video_id=video.subject)

    def _deliver(self, channel: Channel, batch: Sequence[Notification]) -> None:
        """Deliver a batch up to the first failure, after which the receiver is left alone for a while."""
        receiver, thread, trouble = (
            self._receivers[channel],
            self._threads_of[channel],
            self._trouble[channel],
        )
        done: list[Notification] = []
        failed: Notification | None = None
        failures_before = trouble.failures
        for one in batch:
            if thread.stopping.is_set():
                break
            if self._is_dropped(channel, one):
                done.append(one)
                continue
            _beat(thread)
            try:
                receiver.deliver(one.subject, one.payload)
            except DeliveryError as exc:
                failed = one
                trouble.failed(str(exc))
                break
            trouble.succeeded()
            self._count(channel, "delivered")
            done.append(one)
        untried = batch[len(done) + (failed is not None) :]
        retry_in = timedelta()
        if failed is not None:
            self._count(channel, "failed")
            retry_in = RETRIES.delay(failed.attempts - 1)
            self._not_before[channel] = self._clock() + PAUSES.ceiling(trouble.failures - 1)
        self._outbox.finish(done, failed=failed, retry_in=retry_in, untried=untried)
        if failures_before >= OUTAGE_FAILURES and failed is None:
            self._outbox.make_due(channel)

    def _is_dropped(self, channel: Channel, one: Notification) -> bool:
        """Whether an event is given up, because it has been tried for long enough."""
        if one.attempts == 1 or self._outbox.now() - one.occurred_at <= KEPT:
            return False
        self._count(channel, "dropped")
        reason = self._trouble[channel].reason
        log.warning(
            "notification_dropped", channel=channel, id=one.subject, attempts=one.attempts - 1, reason=reason
        )
        return True

    def _seconds_to_next(self, channel: Channel) -> float:
        due_at = self._outbox.next_due(channel)
        if due_at is None:
            return POLL_SECONDS
        return min(POLL_SECONDS, max(0.0, (due_at - self._outbox.now()).total_seconds()))

    def _count(self, channel: Channel, outcome: str) -> None:
        self._metrics.notifications.labels(channel=channel, outcome=outcome).inc()

    def _wake_receivers(self) -> None:
        for thread in self._threads_of.values():
            thread.wake()


def _beat(thread: BackgroundThread) -> None:
    """Note progress, unless `flush` does the work of the thread."""
    if thread.is_alive:
        thread.beat()
