"""Runs the commands of root as the installed service: with its settings, on its ledger, as its user.

Otherwise `sudo video-uploader status` would look at another ledger, a migration would leave files that the
service cannot write, and `doctor` would find everything permitted.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import subprocess
from dataclasses import dataclass
from typing import Final

from watcher.cli.exit_codes import CommandError

UNIT: Final = "video-uploader.service"
SYSTEMCTL_SECONDS: Final = 5.0
_PROPERTIES: Final = ("LoadState", "ExecStart", "Environment", "User", "StateDirectory", "WorkingDirectory")
_ARGUMENTS: Final = re.compile(r"argv\[\]=(.*?) ;")


@dataclass(frozen=True, slots=True)
class Service:
    """What an installed unit gives to the daemon."""

    env_files: tuple[str, ...]
    environment: dict[str, str]
    user: str
    state_directory: str
    working_directory: str

    def become(self) -> pwd.struct_passwd:
        """Give this process, which is root's, the service's user, environment and working directory.

        The user is the owner of the state directory, whoever the unit names since it was made. Raises
        `CommandError`.
        """
        try:
            account = self._account()
            for name, value in self.environment.items():
                os.environ.setdefault(name, value)
            os.environ["STATE_DIRECTORY"] = self.state_directory
            os.environ.update(HOME=account.pw_dir, USER=account.pw_name, LOGNAME=account.pw_name)
            os.umask(0o077)
            os.initgroups(account.pw_name, account.pw_gid)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            os.chdir(self.working_directory if os.path.isdir(self.working_directory) else "/")
        except (OSError, KeyError) as exc:
            raise CommandError(
                f"{UNIT} is installed, and the command cannot be run as its user ({exc}); use --no-service "
                "to run it as root, with the settings that are given."
            ) from exc
        return account

    def _account(self) -> pwd.struct_passwd:
        try:
            return pwd.getpwuid(os.stat(self.state_directory).st_uid)
        except FileNotFoundError:
            return pwd.getpwnam(self.user)


def installed_service() -> Service | None:
    """The unit of this machine's systemd; None where there is none, or no systemd."""
    try:
        shown = subprocess.run(  # noqa: S603 - nothing of it is given by anyone
            ["systemctl", "show", UNIT, f"--property={','.join(_PROPERTIES)}"],  # noqa: S607 - root's own PATH
            capture_output=True,
            text=True,
            timeout=SYSTEMCTL_SECONDS,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    arguments = _ARGUMENTS.search(found.get("ExecStart", ""))
    if found.get("LoadState") != "loaded" or arguments is None:
        return None
    name = found.get("StateDirectory", "").split(" ")[0] or UNIT.removesuffix(".service")
    state_directory = os.path.normpath(f"/var/lib/{name}")
    return Service(
        _env_files(shlex.split(arguments[1])),
        dict(entry.split("=", 1) for entry in shlex.split(found.get("Environment", "")) if "=" in entry),
        found.get("User") or "root",
        state_directory,
        found.get("WorkingDirectory", "").lstrip("!-") or state_directory,
    )


def _env_files(arguments: list[str]) -> tuple[str, ...]:
    """The settings files among the arguments of the daemon."""
    following = zip(arguments, [*arguments[1:], ""], strict=True)
    separate = [value for name, value in following if name == "--env-file"]
    return (*separate, *(one.partition("=")[2] for one in arguments if one.startswith("--env-file=")))
