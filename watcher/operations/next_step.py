"""Describes what happens next with an upload, and when, for `explain`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from db import CatalogRow, State, Upload
from watcher.errors import FILE_SYSTEM_CODES, Code
from watcher.telemetry import human_duration, human_size, human_time
from watcher.telemetry.formatting import BY_HAND

STAGES: Mapping[State, str] = {
    State.PENDING: "upload",
    State.VERIFIED: "publish",
    State.PUBLISHED: "release",
}

_ENDED: Mapping[State, str] = {
    State.REJECTED: "Nothing is sent and the file stays; new content at its path is checked again.",
    State.FAILED: "Nothing happens without action; the file stays.",
    State.GONE: "Nothing happens unless the file reappears at its path; then it is uploaded.",
    State.SUPERSEDED: "Nothing: newer content at the same path has a row of its own.",
    State.RELEASED: "Nothing: it is done, and this row is its receipt.",
}

_WITH_READY_ROW = "It is uploaded once its video has a ready catalog row; the file stays."
_ENDED_WITH_CODE: Mapping[str, str] = {
    Code.ROW_GONE: _WITH_READY_ROW,
    Code.ENCODE_FAILED: _WITH_READY_ROW,
    **dict.fromkeys(FILE_SYSTEM_CODES, "Every scan checks the file again; the file stays."),
}
"""For stopped uploads that something else resolves than their state says, by error code."""


def describe_next_step(
    upload: Upload, *, now: datetime, is_running: bool, paused: Mapping[str, str], keep_local: bool
) -> str:
    """Return one or two sentences; `paused` maps the names of paused stages to the reasons."""
    if upload.state.is_stopped:
        next_step = _ENDED_WITH_CODE.get(upload.error_code or "", _ENDED[upload.state])
        return f"{next_step} `video-uploader retry {upload.id}` retries it unchanged."
    if not upload.state.is_open:
        return _ENDED[upload.state]
    if not is_running:
        return "The daemon is not running; the upload continues when it is started."
    if upload.awaits_row:
        if reason := paused.get("catalog"):
            return f"The catalog cannot be read, and is tried again by itself: {reason}"
        return "It is uploaded when its catalog row is ready, and rejected if the row is failed."
    if reason := _reason_to_wait(upload, paused):
        return reason
    if upload.state is State.PUBLISHED and keep_local:
        return "Nothing: KEEP_LOCAL is set, so the local copy stays."
    if upload.claimed_by is not None:
        return _describe_claimed(upload)
    return _describe_waiting(upload, now)


def _reason_to_wait(upload: Upload, paused: Mapping[str, str]) -> str:
    """What an operator or a failure keeps the upload waiting for; empty if neither does."""
    if upload.state is State.PENDING and upload.error_code == Code.HELD:
        return f"It is held by hand; `video-uploader unhold {shlex.quote(upload.path)}` lets it be uploaded."
    if upload.state is State.PENDING and upload.claimed_by is None and (reason := paused.get(BY_HAND)):
        return f"Uploads are paused {reason}."
    stage = STAGES[upload.state]
    if reason := paused.get(stage):
        return f"The {stage} stage is paused and resumes by itself when this is resolved: {reason}"
    return ""


def describe_gate(
    upload: Upload, rows: Sequence[CatalogRow], *, now: datetime, timeout: timedelta, others: str = ""
) -> str:
    """Return since when an upload waits at the catalog gate, and which of its file's `rows` is the newest.

    `rows` are in order; `timeout` is `CATALOG_ROW_TIMEOUT`; `others` describes the rows of other files.
    """
    waited = now - upload.due_at
    description = (
        f"It has waited for its catalog row since {human_time(upload.due_at)}, for {human_duration(waited)}"
    )
    if waited > timeout:
        description += f", longer than CATALOG_ROW_TIMEOUT ({human_duration(timeout)})"
    if not rows:
        return f"{description}. The catalog has no row for it. {others}".rstrip()
    newest = rows[-1]
    among = "" if len(rows) == 1 else f", the newest of {len(rows)},"
    return f"{description}. Its row {newest.id}{among} is {newest.status} and shows {newest.url}."


def _describe_claimed(upload: Upload) -> str:
    if upload.state is State.PENDING and upload.bytes_sent:
        share = 100 * upload.bytes_sent // max(1, upload.size)
        done, size = human_size(upload.bytes_sent), human_size(upload.size)
        return f"It is being uploaded: {done} of {size} ({share} %)."
    return f"The {STAGES[upload.state]} stage is working on it."


def _describe_waiting(upload: Upload, now: datetime) -> str:
    left = upload.due_at - now
    when = "now" if left <= timedelta(0) else f"at {human_time(upload.due_at)} (in {human_duration(left)})"
    match upload.state:
        case State.PENDING if upload.attempts:
            return f"It is retried {when}; {upload.attempts} attempts have failed."
        case State.PENDING:
            return f"It is uploaded as soon as a slot is free; due {when}."
        case State.VERIFIED:
            return f"Its URL is published; due {when}."
        case _:
            return f"Its local copy is released once the object is confirmed again; due {when}."
