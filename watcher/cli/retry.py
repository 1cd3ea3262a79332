"""`video-uploader retry`: makes uploads pending or due at once."""

from __future__ import annotations

from typing import Annotated

import typer

from db import Ledger, State, Upload
from watcher.cli.exit_codes import EXIT_USAGE, CommandError
from watcher.cli.ledger_access import open_ledger, settings_of
from watcher.cli.output import echo

RETRIABLE = (State.REJECTED, State.FAILED, State.GONE, State.PENDING, State.VERIFIED, State.PUBLISHED)


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
        raise CommandError(f"Uploads in the state {state} have ended; there is nothing to retry.", EXIT_USAGE)
    with open_ledger(settings_of(context), read_only=False) as ledger:
        chosen = ledger.uploads(ids=ids) if ids else _in_states(ledger, (state,) if state else RETRIABLE)
        unknown = sorted(set(ids or ()) - {upload.id for upload in chosen})
        _retry(ledger, chosen)
    if unknown:
        ids_text = ", ".join(map(str, unknown))
        raise CommandError(f"This instance has no upload {ids_text}; `list` shows its uploads.")


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
