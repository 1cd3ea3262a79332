"""The command line: its commands, and how every expected error ends it.

Each command is imported when it is called: the program's help and its version need none of them.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from watcher.cli.exit_codes import EXIT_FAILED, EXIT_OK, EXIT_USAGE, CommandError
from watcher.cli.output import echo_error
from watcher.cli.service import Service, chosen_service, installed_service
from watcher.telemetry.formatting import quoted

COMPLETE: Final = "_VIDEO_UPLOADER_COMPLETE"
"""The environment variable with which a shell asks what can be completed: see watcher/share/completions."""

COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "run": ("run:run", "Watch the directory and upload finished files until stopped."),
    "status": (
        "status:status",
        "Show the daemon, the number of uploads by state, the oldest pending one, the last errors.",
    ),
    "top": ("top:top", "Show live what the daemon does, on a whole terminal, until q or Ctrl-C."),
    "list": ("list:list_uploads", "List the uploads, newest first."),
    "explain": (
        "explain:explain",
        "Show everything known about a file, or about all files of a video, in chronological order.",
    ),
    "retry": (
        "steering:retry",
        "Retry uploads now: stopped ones become pending, ones that wait after an error become due.",
    ),
    "prioritize": ("steering:prioritize", "Upload a file, or all files of a video, before everything else."),
    "pause": ("steering:pause", "Begin no upload until `resume`, on every machine that uses the ledger."),
    "resume": ("steering:resume", "Begin uploads again after `pause`."),
    "hold": ("steering:hold", "Do not upload a file until `unhold`."),
    "unhold": ("steering:unhold", "Upload a held file again."),
    "release": (
        "steering:release",
        "Release the local copies of published uploads now instead of after their retention.",
    ),
    "forget": ("steering:forget", "Have the ledger forget a file: its uploads, events and receipts."),
    "drain": ("steering:drain", "Wait until nothing is left to upload or publish, as before a reboot."),
    "upload": ("objects:upload", "Upload one finished file, confirm the object, and print its public URL."),
    "exists": (
        "objects:exists",
        "Print the public URL of an object, or exit with 1 if it does not exist.",
    ),
    "delete": (
        "objects:delete",
        "Delete an object after confirmation. The daemon uploads it again if its local copy still exists.",
    ),
    "audit": (
        "audit:audit",
        "Compare every object with the ledger and the catalog. Exits with 1 if differences remain.",
    ),
    "config": (
        "config:config",
        "Show every setting, secrets masked, where its value came from, and what a running daemon has.",
    ),
    "doctor": (
        "doctor:doctor",
        "Check credentials, bucket, permissions, public URLs, this machine and the database.",
    ),
    "bucket": ("bucket:bucket", "The bucket's configuration: public access, CORS, lifecycle."),
    "db": ("database:database", "The uploader's tables: their version and pending migrations."),
    "ledger": ("database:ledger", "The ledger: made again if it was lost."),
    "systemd": ("service:systemd", "The service: its unit and what belongs to it."),
}
"""By name: the module and the name in it of what implements the command, and the first line of its help."""


class CommandGroup(TyperGroup):
    """The program's commands."""

    def __init__(self, **attributes: Any) -> None:
        attributes["commands"] = {name: _Unloaded(name, short_help=COMMANDS[name][1]) for name in COMMANDS}
        super().__init__(**attributes)


class _Unloaded(TyperCommand):
    """A command that is imported once it is called."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the command that it stands for."""
        command = loaded(str(self.name))
        collect_cycles()
        return command.make_context(info_name, args, parent, **extra)


def loaded(name: str) -> Any:
    """The command of a name, with its options, or the group."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    if name == "run":
        import_module("watcher.app.memory").import_structlog()
    found = getattr(import_module(f"watcher.cli.{module}"), attribute)
    if not isinstance(found, typer.Typer):
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        alone.command(name)(found)
        found = alone
    return typer.main.get_command(found)


def collect_cycles() -> None:
    """Have reference cycles collected, if `watcher.__main__` has stopped that: those made from now on.

    What is there by now, of which next to nothing is garbage, is not looked at any more (gc.freeze).
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


app = typer.Typer(
    name="video-uploader",
    cls=CommandGroup,
    help="Uploads finished videos to S3, verifies the objects, publishes their URLs and frees the disk.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    # Rich takes longer to import than all else that the help needs.
    rich_markup_mode=None,
)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        print(f"video-uploader {import_module('importlib.metadata').version('video-uploader')}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    env_file: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Settings file with lines NAME=value. Of several a later one takes precedence, and the "
            "environment over all.",
            show_default=".env",
        ),
    ] = None,
    service: Annotated[
        str | None,
        typer.Option(
            metavar="UNIT",
            help="As root: use those of this service, an instance of the template video-uploader@.service.",
            show_default="video-uploader",
        ),
    ] = None,
    no_service: Annotated[
        bool,
        typer.Option(
            "--no-service", help="As root: do not use the settings, the ledger and the user of the service."
        ),
    ] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    if service is not None:
        if no_service or env_file or os.geteuid() != 0:
            raise CommandError(
                f"--service {service} is for root, and goes with neither --no-service nor --env-file.",
                EXIT_USAGE,
            )
        env_file = _become(chosen_service(service))
    elif not (no_service or env_file) and _may_become_a_service(context):
        env_file = _become(installed_service())
    for path in env_file or ():
        if not os.path.exists(path) or os.path.isdir(path):
            raise CommandError(f"There is no file {path}; --env-file takes a settings file.", EXIT_USAGE)
    context.obj = tuple(env_file or [".env"])


def _may_become_a_service(context: typer.Context) -> bool:
    """Whether root calls a command by hand, and not for its help; systemd sets INVOCATION_ID."""
    wants_help = not {"--help", "-h"}.isdisjoint(sys.argv)
    is_by_hand = os.geteuid() == 0 and "INVOCATION_ID" not in os.environ
    return is_by_hand and not wants_help and context.invoked_subcommand not in {None, "systemd"}


def _become(found: Service | None) -> list[str] | None:
    """Have the user, the environment and the settings files of a service, which are returned."""
    if found is None:
        return None
    account = found.become()
    files = ", ".join(found.env_files) or "none"
    echo_error(
        f"video-uploader: runs as {found.unit} does: user {account.pw_name}, settings file {files}, "
        f"state directory {found.state_directory}. --no-service goes without."
    )
    return list(found.env_files) or None


def main() -> None:
    """Run the command line and exit with one of `watcher.cli.exit_codes`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Characters that the terminal's encoding lacks are escaped.
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_exit_code())


def _exit_code() -> int:
    if COMPLETE in os.environ:
        import_module("typer.completion").completion_init()
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
        refusal = import_module("watcher.cli.ledger_access").refusal_of(exc)
        if refusal is None:
            raise
        return _refuse(*refusal)
    return outcome if isinstance(outcome, int) else EXIT_OK


def _usage_error(exc: typer.TyperException) -> str:
    """Return what is wrong with the arguments in one sentence; without any, Typer's message is the help."""
    message = exc.format_message()
    if message.startswith("Usage: "):
        print(message)
        message = ""
    sentence = message.removesuffix(".").replace("Value error, ", "")
    # Typer leaves out the value where pydantic does.
    errors: Callable[[], list[dict[str, Any]]] = getattr(exc.__cause__, "errors", list)
    given = [shown for error in errors() if (shown := quoted(str(error["input"]))) not in sentence]
    sentence += f" (given: {', '.join(given)})" if given else ""
    return f"{sentence or 'No command was given'}; see --help."


def _refuse(sentences: list[str], code: int) -> int:
    for sentence in sentences:
        echo_error(f"video-uploader: {sentence}")
    return code
