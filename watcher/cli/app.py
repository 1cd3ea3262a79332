"""The command line: its commands, and how every expected error ends it."""

from __future__ import annotations

import io
import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from db import DatabaseError, LedgerError
from storage import StorageError
from watcher.cli import audit, config, doctor, explain, objects, retry, run, status
from watcher.cli.bucket import bucket
from watcher.cli.database import database
from watcher.cli.exit_codes import EXIT_FAILED, EXIT_OK, EXIT_USAGE, CommandError
from watcher.cli.list import list_uploads
from watcher.cli.output import echo_error
from watcher.filesystem import TreeError
from watcher.filesystem.instance_lock import InstanceRunningError, LockUnavailableError
from watcher.settings import SettingsError

app = typer.Typer(
    name="video-uploader",
    help="Uploads finished videos to S3, verifies the objects, publishes their URLs and frees the disk.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


_EXPECTED_ERRORS = (
    DatabaseError,
    LedgerError,
    StorageError,
    TreeError,
    InstanceRunningError,
    LockUnavailableError,
)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        print(f"video-uploader {version('video-uploader')}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    env_file: Annotated[
        str | None,
        typer.Option(
            help="Settings file with lines NAME=value; the environment takes precedence.", show_default=".env"
        ),
    ] = None,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    if env_file is not None and (not os.path.exists(env_file) or os.path.isdir(env_file)):
        raise CommandError(f"There is no file {env_file}; --env-file takes a settings file.", EXIT_USAGE)
    context.obj = env_file or ".env"


app.command("run")(run.run)
app.command("status")(status.status)
app.command("list")(list_uploads)
app.command("explain")(explain.explain)
app.command("retry")(retry.retry)
app.command("upload")(objects.upload)
app.command("exists")(objects.exists)
app.command("delete")(objects.delete)
app.command("audit")(audit.audit)
app.command("config")(config.config)
app.command("doctor")(doctor.doctor)
app.add_typer(bucket, name="bucket")
app.add_typer(database, name="db")


def main() -> None:
    """Run the command line and exit with one of `watcher.cli.exit_codes`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Characters that the terminal's encoding lacks are escaped.
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
        return _refuse([_usage_error(exc)], EXIT_USAGE)
    except typer.Abort:
        return _refuse(["It was interrupted."], EXIT_FAILED)
    except _EXPECTED_ERRORS as exc:
        return _refuse([str(exc)], EXIT_FAILED)
    except BrokenPipeError:
        # Keeps the flush at exit from failing again: see the signal module's note on SIGPIPE.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    return outcome if isinstance(outcome, int) else EXIT_OK


def _usage_error(exc: typer.TyperException) -> str:
    """Return what is wrong with the arguments in one sentence; without any, Typer gives no message."""
    sentence = exc.format_message().removesuffix(".").replace("Value error, ", "")
    return f"{sentence or 'No command was given'}; see --help."


def _refuse(sentences: list[str], code: int) -> int:
    for sentence in sentences:
        echo_error(f"video-uploader: {sentence}")
    return code
