"""The command line itself: its commands, and how every expected error leaves it."""

from __future__ import annotations

import io
import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from db import DatabaseError, LedgerError
from storage import StorageError
from watcher.cli import audit, doctor, explain, objects, retry, run, show
from watcher.cli.bucket import bucket
from watcher.cli.common import EXIT_FAILED, EXIT_OK, EXIT_USAGE, CommandError, Invocation, echo_error
from watcher.cli.database import database
from watcher.filesystem.instance_lock import InstanceRunningError, LockUnavailableError
from watcher.filesystem.openat import TreeError
from watcher.settings.loading import SettingsError

app = typer.Typer(
    name="video-uploader",
    help="Puts finished videos into S3, proves that they arrived, publishes their URLs and frees the disk.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


_UNDOABLE = (DatabaseError, LedgerError, StorageError, TreeError, InstanceRunningError, LockUnavailableError)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"video-uploader {version('video-uploader')}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    env_file: Annotated[
        str | None,
        typer.Option(
            help="A file of settings, NAME=value a line; the environment wins over it.", show_default=".env"
        ),
    ] = None,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    if env_file is not None and (not os.path.exists(env_file) or os.path.isdir(env_file)):
        raise CommandError(f"There is no file {env_file}; --env-file takes a file of settings.", EXIT_USAGE)
    context.obj = Invocation(env_file or ".env")


app.command("run")(run.run)
app.command("status")(show.status)
app.command("list")(show.list_uploads)
app.command("explain")(explain.explain)
app.command("retry")(retry.retry)
app.command("upload")(objects.upload)
app.command("exists")(objects.exists)
app.command("delete")(objects.delete)
app.command("audit")(audit.audit)
app.command("config")(show.config)
app.command("doctor")(doctor.doctor)
app.add_typer(bucket, name="bucket")
app.add_typer(database, name="db")


def main() -> None:
    """Run the command line and exit: 0 fine, 1 something could not be done, 2 usage or configuration."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal whose encoding lacks a file name's characters gets escapes.
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_exit_code())


def _exit_code() -> int:
    try:
        outcome = app(prog_name="video-uploader", standalone_mode=False)
        sys.stdout.flush()
    except SettingsError as exc:
        return _refuse(exc.problems, EXIT_USAGE)
    except CommandError as exc:
        return _refuse([str(exc)], exc.code)
    except typer.TyperException as exc:
        return _refuse([_of_usage(exc)], EXIT_USAGE)
    except typer.Abort:
        return _refuse(["It was interrupted."], EXIT_FAILED)
    except _UNDOABLE as exc:
        return _refuse([str(exc)], EXIT_FAILED)
    except BrokenPipeError:
        # What is left in the buffer must not fail once more when the interpreter ends: Python's own advice.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    return outcome if isinstance(outcome, int) else EXIT_OK


def _of_usage(exc: typer.TyperException) -> str:
    """What the user typed wrong, in one sentence; empty arguments show the help, which says nothing else."""
    sentence = exc.format_message().removesuffix(".").replace("Value error, ", "")
    return f"{sentence or 'It was not said what to do'}; see --help."


def _refuse(sentences: list[str], code: int) -> int:
    for sentence in sentences:
        echo_error(f"video-uploader: {sentence}")
    return code
