"""What the HTTP server tells: the daemon's status, its uploads and their stories, ready for JSON.

Every method may be called from any thread, blocks, and may raise `db.DatabaseError`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

from db import JSON, DatabaseError, State, Upload, format_time
from watcher.app import Application
from watcher.app.status_report import DaemonStatus
from watcher.operations import Storyteller, describe_next_step
from watcher.operations.daemons import summarize_all
from watcher.telemetry import human_duration, redact
from watcher.telemetry.formatting import BY_HAND
from watcher.telemetry.transfer_progress import Snapshot

PAGE = 50
"""Uploads on a page, unless fewer are asked for."""

STATUS_SECONDS = 0.9
"""How long an answer about the status is good for, however many ask."""

SUMMARY_SECONDS = 5.0
"""How long the parts of it that read many rows are good for."""

RECENT, VIDEOS, FAILURES = 6, 8, 12
"""Finished uploads, videos and groups of failures that are shown at most."""

RENDITIONS, MEASURED = 100, 500
"""Uploads of each of those videos, and published files of which the delay is measured, read at most."""

WAITING = (State.PENDING, State.VERIFIED, State.PUBLISHED, State.REJECTED, State.FAILED, State.GONE)
LIVE = frozenset({State.PUBLISHED, State.RELEASED})


@dataclass(frozen=True, slots=True)
class Query:
    """Which uploads to list, newest first. `text` is a video's UUID or a part of a path."""

    state: State | None = None
    video_id: str | None = None
    text: str | None = None
    before: int | None = None
    limit: int = PAGE


class Source:
    """Reads the daemon and its ledger. `clock` gives monotonic seconds."""

    def __init__(
        self, app: Application, status: DaemonStatus, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._daemon = status
        self._ledger = app.ledger
        self._storyteller = Storyteller(
            app.settings, app.ledger, app.tree, is_running=lambda: True, paused=status.failures
        )
        self._status = _Kept(self._read_status, STATUS_SECONDS, clock)
        self._summary = _Kept(self._read_summary, SUMMARY_SECONDS, clock)
        self.registry = app.context.metrics.registry

    def stalls(self) -> list[str]:
        """The threads that make no progress, as sentences."""
        return list(self._daemon.stalls)

    def reasons_not_ready(self) -> list[dict[str, JSON]]:
        """Why the daemon does not do its work at present: the part, and the reason as a sentence."""
        reasons = dict(self._daemon.failures())
        if self._daemon.phase != "running":
            reasons["daemon"] = "The first scan of the directory is not finished."
        try:
            self._ledger.counts()
        except DatabaseError as exc:
            reasons["database"] = redact(str(exc))
        reasons |= {f"stall {number}": stall for number, stall in enumerate(self.stalls(), 1)}
        return [{"part": part, "reason": reason} for part, reason in sorted(reasons.items())]

    def status(self) -> dict[str, Any]:
        """Everything that the status page shows."""
        return self._status()

    def uploads(self, query: Query) -> tuple[list[Upload], int | None]:
        """A page of uploads, and where the next page begins; None at the end."""
        video_id, text = query.video_id, query.text
        if text is not None and (found := as_video_id(text)):
            video_id, text = found, None
        with self._ledger.database.session():
            return self._ledger.page(
                query.limit, before=query.before, text=text, state=query.state, video_id=video_id
            )

    def story(self, number: int) -> dict[str, Any] | None:
        """What `explain` tells about an upload; None if there is no such upload."""
        with self._ledger.database.session():
            upload = next(iter(self._ledger.uploads(ids=[number])), None)
            if upload is None:
                return None
            story = self._storyteller.upload(upload)
            newest = self._ledger.current(upload.path)
            return {
                "upload": upload.as_dict(),
                "on_disk": self._storyteller.on_disk(upload.path),
                "confirmed": story.confirmed,
                "events": [event.as_dict() for event in story.events],
                "waits": story.waits,
                "next": story.next_step,
                "newest": newest.id if newest else None,
                "catalog": [
                    {"id": row.id, "quality": row.quality, "status": row.status, "url": row.url}
                    for row in self._storyteller.catalog_rows(upload.video_id)
                ],
            }

    def _read_status(self) -> dict[str, Any]:
        app, daemon = self._app, self._daemon
        paused = daemon.failures()
        moving = [_moving(one) for one in app.context.transfer_progress.snapshots()]
        status: dict[str, Any] = {
            "at": format_time(datetime.now(UTC)),
            "instance": self._ledger.worker,
            "directory": app.tree.root,
            "phase": daemon.phase,
            "paused": [{"part": part, "reason": reason} for part, reason in paused.items()],
            "stalls": self.stalls(),
            "moving": moving,
            "settling": len(app.settler),
            "ignored": {kind: number for kind, number in app.scanner.ignored_by.items() if number},
            "ready_files_ignored": daemon.ready_files_ignored(),
            "ready_files_missing": daemon.ready_files_missing(),
            "history": [
                {"at": one.began_at, "sent_bytes": round(one.sent), "published": round(one.published)}
                for one in daemon.history.minutes()
            ],
        }
        try:
            with self._ledger.database.session():
                status |= {"counts": {state.value: n for state, n in self._ledger.counts().items()}}
                status |= {"database": None, **self._summary()}
        except DatabaseError as exc:
            status |= {"counts": {}, "database": redact(str(exc)), **NO_SUMMARY}
        return status | {"health": _health(status)}

    def _read_summary(self) -> dict[str, Any]:
        ledger = self._ledger
        now = ledger.now()
        latest = [upload for state in sorted(LIVE) for upload in ledger.latest(state, MEASURED)]
        latest.sort(key=_published_at, reverse=True)
        newest, _ = ledger.page(RECENT)
        chosen = dict.fromkeys(upload.video_id for upload in [*newest, *latest])
        return {
            "queue": [self._queued(state, now) for state in WAITING],
            "failures": [self._failure(*group, now=now) for group in self._groups()],
            "recent": [upload.as_dict() for upload in latest[:RECENT]],
            "delay": _delay([one for one in latest if _published_at(one) > now - timedelta(hours=1)]),
            "videos": [self._video(video_id) for video_id in list(chosen)[:VIDEOS]],
            "instances": summarize_all(ledger)["instances"],
            "notifications": self._daemon.notifications(),
        }

    def _queued(self, state: State, now: datetime) -> dict[str, Any]:
        """The upload of a state that waits longest; those at the catalog gate count by themselves."""
        oldest = self._ledger.oldest_pending() if state is State.PENDING else self._ledger.oldest(state)
        if oldest is None:
            return {"state": state.value, "oldest": None}
        since = oldest.discovered_at if state is State.PENDING else oldest.changed_at
        waited = human_duration(now - since)
        return {
            "state": state.value,
            "oldest": {"id": oldest.id, "path": oldest.path, "since": format_time(since), "waited": waited},
        }

    def _video(self, video_id: str) -> dict[str, Any]:
        """The newest upload of each quality of a video."""
        newest: dict[str, Upload] = {}
        for upload in islice(self._ledger.iter_uploads(newest_first=True, video_id=video_id), RENDITIONS):
            if upload.state is not State.SUPERSEDED:
                newest.setdefault(upload.quality, upload)
        return {
            "video_id": video_id,
            "qualities": [
                {
                    "quality": quality,
                    "state": upload.state.value,
                    "is_live": upload.state in LIVE,
                    "id": upload.id,
                    "url": upload.url if upload.state in LIVE else None,
                }
                for quality, upload in sorted(newest.items(), key=_by_height)
            ],
        }

    def _groups(self) -> Sequence[tuple[str | None, State, int, int]]:
        """The largest groups of uploads with the same error: those that need an operator come first."""
        groups = self._ledger.error_counts()
        return sorted(groups, key=lambda group: (group[1].is_open, -group[2]))[:FAILURES]

    def _failure(
        self, code: str | None, state: State, count: int, newest: int, *, now: datetime
    ) -> dict[str, Any]:
        upload = next(iter(self._ledger.uploads(ids=[newest])), None)
        next_step = upload and describe_next_step(
            upload,
            now=now,
            is_running=True,
            paused=self._daemon.failures(),
            keep_local=self._app.settings.keep_local,
        )
        return {
            "code": code,
            "state": state.value,
            "uploads": count,
            "id": newest,
            "path": upload.path if upload else "",
            "reason": upload.last_error if upload else "",
            "next": next_step or "",
        }


NO_SUMMARY: Mapping[str, Any] = {
    "queue": [],
    "failures": [],
    "recent": [],
    "delay": None,
    "videos": [],
    "instances": [],
    "notifications": {},
}


class _Kept:
    """An answer that is read anew once it is older than `seconds`; those who ask meanwhile share it."""

    def __init__(
        self, read: Callable[[], dict[str, Any]], seconds: float, clock: Callable[[], float]
    ) -> None:
        self._read = read
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._answer: dict[str, Any] = {}
        self._read_at = float("-inf")

    def __call__(self) -> dict[str, Any]:
        with self._lock:
            if self._clock() - self._read_at >= self._seconds:
                self._answer = self._read()
                self._read_at = self._clock()
            return self._answer


def as_video_id(text: str) -> str | None:
    """The canonical form of a video's UUID; None if it is none."""
    try:
        return str(UUID(text.strip()))
    except ValueError:
        return None


def _moving(snapshot: Snapshot) -> dict[str, Any]:
    return {**snapshot.as_dict(), "percent": 100 * snapshot.bytes_sent // max(1, snapshot.size)}


def _delay(published: Sequence[Upload]) -> dict[str, Any] | None:
    """The delay from the end of writing to the publication, in seconds: half, and 95 of 100, take no longer.

    A file's mtime says when it was written last, unless it was copied with its times. Then the delay counts
    from when it was found.
    """
    delays = sorted(map(_seconds_to_publication, published))
    if not delays:
        return None
    p50, p95 = (delays[min(len(delays) - 1, len(delays) * share // 100)] for share in (50, 95))
    return {"uploads": len(delays), "p50_seconds": round(p50, 2), "p95_seconds": round(p95, 2)}


def _published_at(upload: Upload) -> datetime:
    return upload.published_at or upload.changed_at


def _seconds_to_publication(upload: Upload) -> float:
    published, found = _published_at(upload).timestamp(), upload.discovered_at.timestamp()
    written = upload.mtime_ns / 1e9
    return max(0.0, published - (written if found - 3600 < written < found else found))


def _by_height(quality: tuple[str, Upload]) -> tuple[int, str]:
    digits = quality[0].rstrip("p")
    return (int(digits) if digits.isdigit() else 1_000_000, quality[0])


def _health(status: Mapping[str, Any]) -> dict[str, str]:
    """How the daemon is doing: a level (`good`, `busy`, `attention` or `bad`) and a sentence."""
    counts = status["counts"]
    stopped = sum(counts.get(state.value, 0) for state in (State.FAILED, State.REJECTED))
    waiting = counts.get("pending", 0) + counts.get("verified", 0)
    if status["stalls"]:
        return {"level": "bad", "sentence": "A thread is stuck; systemd restarts the daemon."}
    if status["database"]:
        return {"level": "bad", "sentence": "The database does not answer, and everything waits for it."}
    if {one["part"] for one in status["paused"]} == {BY_HAND}:
        return {"level": "attention", "sentence": f"Uploads are paused {status['paused'][0]['reason']}."}
    if status["paused"]:
        parts = ", ".join(one["part"] for one in status["paused"])
        return {"level": "bad", "sentence": f"Paused: {parts}. It resumes by itself when the cause is gone."}
    if status["phase"] == "stopped":
        return {"level": "attention", "sentence": "The daemon is stopping."}
    if status["phase"] != "running":
        return {"level": "busy", "sentence": "Starting: the first scan of the directory is under way."}
    work = f"{_files(waiting)} on the way." if waiting else "Waiting for videos."
    if stopped:
        return {
            "level": "attention",
            "sentence": f"{_files(stopped)} {'needs' if stopped == 1 else 'need'} a decision. {work}",
        }
    return {"level": "busy" if waiting else "good", "sentence": f"All is well. {work}"}


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number:,} files"
