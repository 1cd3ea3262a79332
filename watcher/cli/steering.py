"""The commands with which operators steer uploads; a running daemon follows them within seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated
from uuid import UUID

import typer

from db import ClaimLostError, Ledger, Left, State, Steering, Upload, format_time
from watcher.cli.exit_codes import EXIT_FAILED, EXIT_OK, EXIT_USAGE, CommandError
from watcher.cli.ledger_access import daemon_is_running, open_ledger, path_below, settings_of
from watcher.cli.output import AsJson, echo, echo_error, print_json
from watcher.operations.daemons import is_served
from watcher.operations.draining import View, wait_until_drained
from watcher.settings import Settings
from watcher.telemetry.formatting import describe_pause

RETRIABLE = (State.REJECTED, State.FAILED, State.GONE, State.PENDING, State.VERIFIED, State.PUBLISHED)
LINE = "\r\x1b[K"
"""Begins a line of the terminal anew (ECMA-48)."""

Subject = Annotated[str, typer.Argument(metavar="PATH_OR_VIDEO_ID", help="A file, or a video's UUID.")]
Path = Annotated[str, typer.Argument(metavar="PATH", help="A file, below the watched directory.")]


def retry(
    context: typer.Context,
    ids: Annotated[
        list[int] | None, typer.Argument(metavar="[ID]...", help="Ids shown by `list`.", min=1, max=2**63 - 1)
    ] = None,
    state: Annotated[State | None, typer.Option(help="Every upload in this state.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every upload that stopped, or waits after an error.")
    ] = False,
) -> None:
    """Retry uploads now: stopped ones become pending, ones that wait after an error become due."""
    if bool(ids) + (state is not None) + everything != 1:
        raise CommandError("Give either ids, or --state STATE, or --all.", EXIT_USAGE)
    if state is not None and state not in RETRIABLE:
        raise CommandError(
            f"Uploads in the state {state} have ended; there is nothing to retry. --state takes "
            f"{', '.join(RETRIABLE)}.",
            EXIT_USAGE,
        )
    with open_ledger(settings_of(context), read_only=False) as ledger:
        chosen = ledger.uploads(ids=ids) if ids else _in_states(ledger, (state,) if state else RETRIABLE)
        unknown = sorted(set(ids or ()) - {upload.id for upload in chosen})
        _retry(ledger, chosen)
    if unknown:
        ids_text = ", ".join(map(str, unknown))
        raise CommandError(f"This instance has no upload {ids_text}; `list` shows its uploads.")


def prioritize(context: typer.Context, subject: Subject, as_json: AsJson = False) -> None:
    """Upload a file, or all files of a video, before everything else.

    The files of a video are those of every daemon that uses the ledger's database.
    """
    with _steering(context) as (settings, ledger, steering):
        found = _uploads_of(settings, ledger, subject, all_instances=True)
        changed = steering.prioritize(upload for upload in found if upload.state is State.PENDING)
        if not changed:
            raise CommandError(_nothing_is(State.PENDING, subject, found))
        gate = " It still waits for its catalog row." if any(upload.awaits_row for upload in changed) else ""
        held = [upload.path for upload in changed if steering.is_held(upload.path)]
        gate += f" {', '.join(held)} is held; `unhold` lets it be uploaded." if held else ""
        sentence = f"{_uploads(len(changed))} of {subject} precede everything else.{gate}"
        _tell(settings, as_json, sentence, uploads=[upload.id for upload in changed])


def pause(
    context: typer.Context,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for others to read.")] = "",
    as_json: AsJson = False,
) -> None:
    """Begin no upload until `resume`, on every machine that uses the ledger.

    Uploads under way are finished; files are found, and what is uploaded is published and released.
    """
    with _steering(context) as (settings, _, steering):
        before = steering.pause(reason)
        sentence = (
            f"Uploads were paused {describe_pause(before)}; they still are."
            if before
            else "No upload begins any more; those under way are finished. `video-uploader resume` ends that."
        )
        _tell(settings, as_json, sentence, paused=True, reason=reason)


def resume(context: typer.Context, as_json: AsJson = False) -> None:
    """Begin uploads again after `pause`."""
    with _steering(context) as (settings, _, steering):
        before = steering.resume()
        sentence = "Uploads begin again." if before else "Uploads were not paused by hand; nothing changed."
        since = format_time(before.at) if before else None
        _tell(settings, as_json, sentence, paused=False, paused_since=since)


def hold(context: typer.Context, path: Path, as_json: AsJson = False) -> None:
    """Do not upload a file until `unhold`.

    It need not exist yet; an upload under way is finished.
    """
    with _steering(context) as (settings, ledger, steering):
        path = path_below(settings, path)
        upload = steering.hold(path)
        sentence = f"{path} is not uploaded until `video-uploader unhold`."
        if upload is not None and upload.state is State.PENDING and ledger.is_claimed(upload):
            sentence += " It is being uploaded now, and that attempt goes on."
        elif upload is not None and upload.state in {State.VERIFIED, State.PUBLISHED, State.RELEASED}:
            sentence += " Its present content is uploaded already."
        _tell(settings, as_json, sentence, path=path, held=True)


def unhold(context: typer.Context, path: Path, as_json: AsJson = False) -> None:
    """Upload a held file again."""
    with _steering(context) as (settings, _, steering):
        path = path_below(settings, path)
        if not steering.unhold(path):
            raise CommandError(f"{path} is not held; `video-uploader status` shows the held files.")
        _tell(settings, as_json, f"{path} is held no longer.", path=path, held=False)


def release(context: typer.Context, subject: Subject, as_json: AsJson = False) -> None:
    """Release the local copies of published uploads now instead of after their retention.

    The daemon does it, and checks the object and the file as always.
    """
    with _steering(context) as (settings, ledger, steering):
        if settings.keep_local:
            raise CommandError(
                f"The copy of {subject} is not released: KEEP_LOCAL is true. Set it to false, reload the "
                "daemon, and call this again."
            )
        found = _uploads_of(settings, ledger, subject)
        changed = steering.release_now(upload for upload in found if upload.state is State.PUBLISHED)
        if not changed:
            raise CommandError(_nothing_is(State.PUBLISHED, subject, found))
        sentence = f"{_uploads(len(changed))} of {subject} may be released now: the retention is over."
        _tell(settings, as_json, sentence, uploads=[upload.id for upload in changed])


def forget(
    context: typer.Context,
    path: Path,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Have the ledger forget a file: its uploads, events and receipts.

    Object and catalog rows stay. A file that still exists is found again, and its object is adopted.
    """
    with _steering(context) as (settings, ledger, steering):
        path = path_below(settings, path)
        found = ledger.uploads(path=path)
        if not found:
            raise CommandError(f"The ledger knows no upload of {path}; `list` shows the uploads.")
        if not yes:
            if as_json or not sys.stdin.isatty():
                raise CommandError(f"Forgetting {path} has to be confirmed; pass --yes.", EXIT_USAGE)
            typer.confirm(f"Forget {_uploads(len(found))} of {path}, with their events?", abort=True)
        try:
            number = steering.forget(path)
        except ClaimLostError as exc:
            raise CommandError(
                f"Upload {exc.upload_id} of {path} is being worked on; try again once that is done."
            ) from exc
        sentence = (
            f"{_uploads(number)} of {path} are forgotten. The object and the catalog rows stay; a file that "
            "still exists is found by the next scan, and its object is adopted."
        )
        _tell(settings, as_json, sentence, path=path, uploads=[upload.id for upload in found])


def drain(
    context: typer.Context,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="Wait no longer than this, also while uploads are paused or no daemon runs; exit with 1.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Wait until nothing is left to upload or publish, as before a reboot.

    Not for what is held, has failed or waits for its catalog row. Exits with 1 if something is left: without
    --timeout at once while uploads are paused, and once no daemon has run for 30 seconds.
    """
    settings = settings_of(context)
    shows = sys.stderr.isatty() and not as_json

    def show(view: View) -> None:
        if shows:
            line = f"{LINE}{_progress(view.left)}{f': {view.reason}' if view.reason else ''}"
            print(line, end="", file=sys.stderr, flush=True)

    with open_ledger(settings, read_only=True) as ledger:
        steering = Steering(ledger)
        view = wait_until_drained(
            lambda: View(
                steering.left(), daemon_is_running(settings) or is_served(ledger), steering.orders().pause
            ),
            timeout=timeout,
            show=show,
        )
    left = view.left
    if shows:
        print(LINE, end="", file=sys.stderr, flush=True)
    sentence = "Nothing is left to upload or publish."
    if left.moving:
        why = view.reason or f"the {timeout:g} seconds of --timeout are over."
        sentence = f"{_progress(left)}: {why}"
    if as_json:
        print_json({"drained": not left.moving, **left._asdict(), "message": sentence})
    else:
        echo(sentence)
        if rest := _not_waited_for(left):
            echo(f"Not waited for: {rest}.")
    return EXIT_FAILED if left.moving else EXIT_OK


def _progress(left: Left) -> str:
    return f"{left.pending} left to upload, {left.verified} to publish"


def _not_waited_for(left: Left) -> str:
    kinds = {"held": left.held, "failed or rejected": left.failed, "waiting for a catalog row": left.at_gate}
    return ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number)


@contextmanager
def _steering(context: typer.Context) -> Iterator[tuple[Settings, Ledger, Steering]]:
    settings = settings_of(context)
    with open_ledger(settings, read_only=False) as ledger:
        yield settings, ledger, Steering(ledger)


def _uploads_of(
    settings: Settings, ledger: Ledger, subject: str, *, all_instances: bool = False
) -> list[Upload]:
    """The uploads of a video, or those of a path. Raises CommandError if there are none."""
    try:
        video_id = str(UUID(subject))
    except ValueError:
        found = ledger.uploads(path=path_below(settings, subject))
    else:
        found = ledger.uploads(video_id=video_id, all_instances=all_instances)
    if not found:
        raise CommandError(f"The ledger knows no upload of {subject}; `list` shows the uploads.")
    return found


def _nothing_is(state: State, subject: str, found: list[Upload]) -> str:
    """Why nothing was done with a file or a video of which no upload in the state could be changed."""
    if any(upload.state is state for upload in found):
        return f"{subject} is being worked on at this moment; try again once that is done."
    states = ", ".join(sorted({upload.state for upload in found}))
    return f"{subject} has no upload in the state {state}: {states}. `explain` tells why."


def _tell(settings: Settings, as_json: bool, sentence: str, **facts: object) -> None:
    """Say what was done, and who follows."""
    is_running = daemon_is_running(settings)
    if as_json:
        print_json({**facts, "daemon_running": is_running, "message": sentence})
        return
    echo(sentence)
    if not is_running:
        echo_error("No daemon of this instance runs on this machine; one that is started follows.")


def _uploads(number: int) -> str:
    return "1 upload" if number == 1 else f"{number} uploads"


def _in_states(ledger: Ledger, states: tuple[State, ...]) -> list[Upload]:
    return [
        upload
        for state in states
        for upload in ledger.iter_uploads(state=state)
        if upload.state.is_stopped or upload.last_error
    ]


def _retry(ledger: Ledger, chosen: list[Upload]) -> None:
    reopened = [upload for upload in chosen if upload.state.is_stopped]
    for upload in reopened:
        ledger.reopen(upload.id, reason="retried by hand")
        echo(f"{upload.id} {upload.path}: was {upload.state}, is pending again")
    waiting = [upload.id for upload in chosen if upload.state.is_open]
    made_due = ledger.make_due(waiting) if waiting else 0
    ended = [upload for upload in chosen if not upload.state.is_stopped and not upload.state.is_open]
    for upload in ended:
        echo(f"{upload.id} {upload.path}: is {upload.state}, nothing to retry")
    echo(
        f"{len(reopened)} pending again, {made_due} due now instead of later, "
        f"{len(chosen) - len(reopened) - made_due} left as they were. "
        "A running daemon picks them up within 30 seconds."
    )
