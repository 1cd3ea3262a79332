"""Every argument and option that takes a value: what is wrong with a value is said with the value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from tests.support.cli_process import GOOD, Command
from tests.support.harness import VIDEO_ID
from watcher.cli.app import COMMANDS, app, loaded
from watcher.cli.output import MAX_ERROR

pytestmark = pytest.mark.long

NAMED = ("--video-id", VIDEO_ID, "--filename", "my_video.mp4", "--quality", "720p")
OF_OBJECTS = {
    "path": ("{}",),
    "--video-id": ("--video-id", "{}", *NAMED[2:]),
    "--filename": (*NAMED[:2], "--filename", "{}/a.mp4", *NAMED[4:]),
    "--quality": (*NAMED[:5], "{}"),
}
WRONG: dict[str, dict[str, tuple[str, ...] | None]] = {
    "": {name: (name, "{}", "config") for name in ("--env-file", "--service")},
    "list": {name: (name, "{}") for name in ("--state", "--video", "--limit")},
    "explain": {"subject": ("/elsewhere/{}",)},
    "retry": {"ids": ("{}",), "--state": ("--state", "{}")},
    "prioritize": {"subject": ("{}",)},
    "pause": {"--reason": None},
    "hold": {"path": ("/elsewhere/{}",)},
    "unhold": {"path": ("{}",)},
    "release": {"subject": ("{}",)},
    "forget": {"path": ("{}",)},
    "drain": {"--timeout": ("--timeout", "{}")},
    "upload": {name: (GOOD, *words) if name != "path" else words for name, words in OF_OBJECTS.items()},
    "exists": {**OF_OBJECTS},
    "delete": {**OF_OBJECTS},
    "systemd install": {
        "--user": ("--dry-run", "--user", "{}"),
        "--directory": ("--dry-run", "--directory", "{}"),
        "--env-file": ("--dry-run", "--env-file", "{}"),
        "--root": ("--root", "/proc/{}"),
    },
    "systemd uninstall": {"--root": ("--root", "{}")},
}
"""By command and parameter: arguments with a wrong value; None for a parameter that takes any text."""


def parameters(command: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The parameters of a command and of those below it that take a value."""
    for parameter in command.params:
        if not getattr(parameter, "is_flag", False):
            yield name, parameter.opts[-1]
    for below, inner in getattr(command, "commands", {}).items():
        yield from parameters(inner if name else loaded(below), f"{name} {below}".strip())


def test_every_parameter_that_takes_a_value_has_a_wrong_one() -> None:
    assert set(parameters(typer.main.get_command(app))) == {
        (command, parameter) for command, parameters in WRONG.items() for parameter in parameters
    }
    assert WRONG.keys() - {""} <= {*COMMANDS, "systemd install", "systemd uninstall"}


@pytest.mark.parametrize("length", [1, 5_000])
@pytest.mark.parametrize(
    ("command", "parameter"),
    [(command, name) for command, given in WRONG.items() for name, words in given.items() if words],
)
def test_a_wrong_value_is_one_printable_sentence_with_the_value(
    offline_command: Command, command: str, parameter: str, length: int
) -> None:
    offline_command.here("db", "migrate")
    words = WRONG[command][parameter]
    assert words is not None
    value = f"wrong\x1b[31m{'x' * length}"
    ran = offline_command.here(*command.split(), *(word.format(value) for word in words))
    sentence = ran.refused(ran.code or -1)
    assert "wrong\\x1b[31mx" in sentence
    assert sentence.isprintable()
    assert len(f"video-uploader: {sentence}") <= MAX_ERROR
