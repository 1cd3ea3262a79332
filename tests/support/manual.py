"""The man page, made from the commands; ``python -m`` this module prints it."""

from __future__ import annotations

import inspect
import re
from typing import Any

import typer

from watcher.cli.app import COMMANDS, app, loaded
from watcher.cli.exit_codes import EXIT_FAILED, EXIT_OK, EXIT_USAGE

PATH = "watcher/share/video-uploader.1"
"""Where it is in the tree."""


def man_page() -> str:
    """The page in man(7)'s language."""
    program = typer.main.get_command(app)
    lines = [
        '.TH VIDEO-UPLOADER 1 "" "video-uploader" "User Commands"',
        ".SH NAME",
        "video\\-uploader \\- upload finished videos to S3, publish their URLs and free the disk",
        ".SH SYNOPSIS",
        ".B video\\-uploader",
        "[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]",
        ".SH DESCRIPTION",
        _text(program.help or ""),
        ".SH OPTIONS",
        *_options(program),
        ".SH COMMANDS",
    ]
    for name in COMMANDS:
        command = loaded(name)
        inner = getattr(command, "commands", {})
        lines += _command(f"{name}", command)
        for sub, one in inner.items():
            lines += _command(f"{name} {sub}", one)
    lines += [".SH EXIT STATUS"]
    meanings = {EXIT_OK: "Success.", EXIT_FAILED: "Failure.", EXIT_USAGE: "Wrong usage or settings."}
    for code, meaning in meanings.items():
        lines += [".TP", f".B {code}", meaning]
    lines += [
        ".SH FILES",
        ".TP",
        ".I /etc/video\\-uploader.env",
        "The settings of the service: lines NAME=value.",
        ".TP",
        ".I /var/lib/video\\-uploader",
        "The ledger of the service, unless DATABASE_URL names another one.",
        ".SH SEE ALSO",
        ".BR systemctl (1),",
        ".BR journalctl (1)",
    ]
    return "\n".join(lines) + "\n"


def _command(title: str, command: Any) -> list[str]:
    context = typer.Context(command, info_name=title)
    arguments = [
        piece
        for parameter in command.params
        if parameter.param_type_name == "argument"
        for piece in parameter.get_usage_pieces(context)
    ]
    lines = [f".SS {_text(' '.join([title, *arguments]))}"]
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        lines += [".PP", _text(" ".join(paragraph.split()))]
    return [*lines, *_options(command)]


def _options(command: Any) -> list[str]:
    context = typer.Context(command)
    records = [parameter.get_help_record(context) for parameter in command.params]
    return [
        line
        for names, meaning in filter(None, records)
        for line in (".TP", f".B {_text(names)}", _text(meaning))
    ]


def _text(text: str) -> str:
    """A text with what man(7) would read as its own escaped."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "\\&...")
    return re.sub(r"(?m)^([.'])", r"\\&\1", text)


if __name__ == "__main__":
    print(man_page(), end="")
