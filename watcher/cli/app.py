"""The command line: its commands, and how every expected error ends it."""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module
from typing import Annotated

import typer

from watcher.cli.commands import CommandGroup
from watcher.cli.exit_codes import EXIT_FAILED, EXIT_OK, EXIT_USAGE, CommandError
from watcher.cli.output import echo_error

app = typer.Typer(
    name="video-uploader",
    cls=CommandGroup,
    help="Uploads finished videos to S3, verifies the objects, publishes their URLs and frees the disk.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        print(f"video-uploader {import_module('importlib.metadata').version('video-uploader')}")
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
    except CommandError as exc:
        return _refuse([str(exc)], exc.code)
    except typer.TyperException as exc:
        return _refuse([_usage_error(exc)], EXIT_USAGE)
    except typer.Abort:
        return _refuse(["It was interrupted."], EXIT_FAILED)
    except BrokenPipeError:
        # Keeps the flush at exit from failing again: see the signal module's note on SIGPIPE.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as exc:
        refusal = import_module("watcher.cli.expected_errors").refusal_of(exc)
        if refusal is None:
            raise
        return _refuse(*refusal)
    return outcome if isinstance(outcome, int) else EXIT_OK


def _usage_error(exc: typer.TyperException) -> str:
    """Return what is wrong with the arguments in one sentence; without any, Typer gives no message."""
    sentence = exc.format_message().removesuffix(".").replace("Value error, ", "")
    return f"{sentence or 'No command was given'}; see --help."


def _refuse(sentences: list[str], code: int) -> int:
    for sentence in sentences:
        echo_error(f"video-uploader: {sentence}")
    return code
