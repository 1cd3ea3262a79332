"""`video-uploader list`: the uploads in the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Annotated
from uuid import UUID

import typer

from db import HELD, LedgerReader, State, Upload, format_time
from watcher.cli.exit_codes import EXIT_USAGE, CommandError
from watcher.cli.ledger_access import open_ledger, settings_of
from watcher.cli.output import AsJson, echo, print_json_array
from watcher.telemetry import human_size, human_time

_OUTCOMES = {
    "live": {State.PUBLISHED, State.RELEASED},
    "waiting": {State.PENDING, State.VERIFIED},
    "failed": {State.FAILED, State.REJECTED, State.GONE},
}
_LINE = "{:>8}  {:10}  {:8}  {:>10}  {:>5}  {:20}  {}"


def list_uploads(
    context: typer.Context,
    state: Annotated[State | None, typer.Option(help="Only uploads in this state.")] = None,
    video: Annotated[str | None, typer.Option(metavar="UUID", help="Only uploads of this video.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many uploads, or videos.")] = None,
    by_video: Annotated[
        bool, typer.Option("--videos", help="A line for each video: its live, waiting and failed qualities.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the uploads, newest first."""
    video_id = _canonical(video)
    if by_video and state is not None:
        raise CommandError("--videos shows the qualities in every state; leave out --state.", EXIT_USAGE)
    with open_ledger(settings_of(context), read_only=True) as ledger:
        if by_video:
            videos = islice(_videos(ledger, video_id), limit)
            if as_json:
                print_json_array(found.as_dict() for found in videos)
                return
            print("{:36}  {:20}  {}".format("VIDEO", "CHANGED", "QUALITIES"))
            for found in videos:
                echo(f"{found.video_id}  {human_time(found.changed_at):20}  {found.sentence}")
            return
        uploads = islice(ledger.iter_uploads(newest_first=True, state=state, video_id=video_id), limit)
        if as_json:
            print_json_array(upload.as_dict() for upload in uploads)
            return
        print(_LINE.format("ID", "STATE", "QUALITY", "SIZE", "SENT", "CHANGED", "PATH"))
        for upload in uploads:
            echo(_LINE.format(*_row(upload)))


@dataclass(frozen=True, slots=True)
class _Video:
    """The qualities of a video by what became of their newest uploads, and when the last of these changed."""

    video_id: str
    changed_at: datetime
    qualities: Mapping[str, Sequence[str]]

    @property
    def sentence(self) -> str:
        """The qualities for people."""
        shown = [f"{name} {', '.join(words)}" for name, words in self.qualities.items() if words]
        return "; ".join(shown) or "none"

    def as_dict(self) -> dict[str, object]:
        """The video, ready for JSON."""
        times = {"video_id": self.video_id, "changed_at": format_time(self.changed_at)}
        return {**times, **{name: list(words) for name, words in self.qualities.items()}}


def _videos(ledger: LedgerReader, video_id: str | None) -> Iterator[_Video]:
    """The videos, that of the newest upload first; reads the uploads of one video at a time."""
    for upload in ledger.iter_uploads(newest_first=True, video_id=video_id):
        of_video = ledger.uploads(video_id=upload.video_id)
        if upload.id != max(other.id for other in of_video):
            continue
        newest = {other.path: other for other in sorted(of_video, key=lambda other: other.id)}
        by_outcome: dict[str, set[str]] = {name: set() for name in _OUTCOMES}
        for other in newest.values():
            for name, states in _OUTCOMES.items():
                if other.state in states:
                    by_outcome[name].add(other.quality)
        qualities = {name: sorted(words, key=_size) for name, words in by_outcome.items()}
        yield _Video(upload.video_id, max(other.changed_at for other in of_video), qualities)


def _size(quality: str) -> tuple[bool, int, str]:
    """The sort key of qualities: by height, those without one last."""
    digits = quality.removesuffix("p")
    return not digits.isdecimal(), int(digits) if digits.isdecimal() else 0, quality


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
