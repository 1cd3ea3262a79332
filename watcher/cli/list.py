"""`video-uploader list`: the uploads in the ledger."""

from __future__ import annotations

from itertools import islice
from typing import Annotated
from uuid import UUID

import typer

from db import HELD, State, Upload
from watcher.cli.exit_codes import EXIT_USAGE, CommandError
from watcher.cli.ledger_access import open_ledger, settings_of
from watcher.cli.output import AsJson, echo, print_json_array
from watcher.telemetry import human_size, human_time

_LINE = "{:>8}  {:10}  {:8}  {:>10}  {:>5}  {:20}  {}"


def list_uploads(
    context: typer.Context,
    state: Annotated[State | None, typer.Option(help="Only uploads in this state.")] = None,
    video: Annotated[str | None, typer.Option(metavar="UUID", help="Only uploads of this video.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many uploads.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the uploads, newest first."""
    video_id = _canonical(video)
    with open_ledger(settings_of(context), read_only=True) as ledger:
        uploads = islice(ledger.iter_uploads(newest_first=True, state=state, video_id=video_id), limit)
        if as_json:
            print_json_array(upload.as_dict() for upload in uploads)
            return
        print(_LINE.format("ID", "STATE", "QUALITY", "SIZE", "SENT", "CHANGED", "PATH"))
        for upload in uploads:
            echo(_LINE.format(*_row(upload)))


def _canonical(video: str | None) -> str | None:
    try:
        return None if video is None else str(UUID(video))
    except ValueError as exc:
        raise CommandError(f"{video} is not a UUID; --video takes a video's id.", EXIT_USAGE) from exc


def _state(upload: Upload) -> str:
    if upload.awaits_row:
        return "awaits-row"
    return HELD if upload.state is State.PENDING and upload.error_code == HELD else upload.state


def _row(upload: Upload) -> list[str]:
    done = upload.state in {State.VERIFIED, State.PUBLISHED, State.RELEASED}
    sent = upload.size if done else upload.bytes_sent
    return [
        str(upload.id),
        _state(upload),
        upload.quality,
        human_size(upload.size),
        f"{100 * sent // upload.size if upload.size else 100 * done} %",
        human_time(upload.changed_at),
        upload.path,
    ]
