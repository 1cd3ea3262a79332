"""What will happen next with an upload, and when: the answer that `explain` gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from db import CatalogRow, State, Upload
from watcher.telemetry.formatting import human_duration, human_size, human_time

STAGES: Mapping[State, str] = {
    State.PENDING: "upload",
    State.VERIFIED: "publish",
    State.PUBLISHED: "release",
}


def outlook(
    upload: Upload, *, now: datetime, is_running: bool, paused: Mapping[str, str], keep_local: bool
) -> str:
    """One sentence or two about the next step; `paused` maps names of stages to their reasons."""
    if not upload.state.is_open:
        return _of_ended(upload)
    if not is_running:
        return "The daemon is not running; this goes on when it is started."
    if upload.awaits_row:
        return _of_gate(paused)
    stage = STAGES[upload.state]
    if reason := paused.get(stage):
        return f"The {stage} stage is paused and goes on by itself when this is mended: {reason}"
    if upload.state is State.PUBLISHED and keep_local:
        return "Nothing: KEEP_LOCAL is set, so the local copy stays."
    if upload.claimed_by is not None:
        return _of_claimed(upload)
    return _of_waiting(upload, now)


def at_gate(upload: Upload, rows: Sequence[CatalogRow], *, now: datetime, timeout: timedelta) -> str:
    """Since when an upload waits at the catalog gate, and what is seen there: `rows` of its file, in order.

    What has waited for longer than `timeout` (`CATALOG_ROW_TIMEOUT`) says so.
    """
    waited = now - upload.due_at
    told = f"It waits for its catalog row since {human_time(upload.due_at)}, for {human_duration(waited)}"
    if waited > timeout:
        told += f", longer than CATALOG_ROW_TIMEOUT ({human_duration(timeout)})"
    if not rows:
        return f"{told}. The catalog has no row of it."
    newest = rows[-1]
    of_several = "" if len(rows) == 1 else f", the newest of {len(rows)},"
    return f"{told}. Its row {newest.id}{of_several} is {newest.status} and shows {newest.url}."


def _of_gate(paused: Mapping[str, str]) -> str:
    if reason := paused.get("catalog"):
        return f"The catalog cannot be asked now, and is asked again by itself: {reason}"
    return "It is uploaded when its catalog row is ready, and rejected if the row says failed."


def _of_claimed(upload: Upload) -> str:
    if upload.state is State.PENDING and upload.bytes_sent:
        share = 100 * upload.bytes_sent // max(1, upload.size)
        done, size = human_size(upload.bytes_sent), human_size(upload.size)
        return f"It is being uploaded: {done} of {size} ({share} %)."
    return f"The {STAGES[upload.state]} stage is working on it."


def _of_waiting(upload: Upload, now: datetime) -> str:
    left = upload.due_at - now
    when = "now" if left <= timedelta(0) else f"at {human_time(upload.due_at)} (in {human_duration(left)})"
    match upload.state:
        case State.PENDING if upload.attempts:
            return f"It is tried again {when}; {upload.attempts} attempts have failed."
        case State.PENDING:
            return f"It is uploaded as soon as there is room; due {when}."
        case State.VERIFIED:
            return f"Its URL is published; due {when}."
        case _:
            return f"Its local copy is released after one more look at the object; due {when}."


def _of_ended(upload: Upload) -> str:
    again = f"`video-uploader retry {upload.id}` tries it again as it is."
    match upload.state:
        case State.REJECTED:
            return f"Nothing is sent and the file stays; new content at its path is looked at anew. {again}"
        case State.FAILED:
            return f"Nothing until somebody acts; the file stays. {again}"
        case State.GONE:
            return f"Nothing, unless the file comes back. {again}"
        case State.SUPERSEDED:
            return "Nothing: newer content at the same path has a row of its own."
        case _:
            return "Nothing: it is done, and this row is its receipt."
