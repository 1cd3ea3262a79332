"""The systemd service: `video-uploader systemd`, and the commands of root, which run as the service does.

They have its settings, its ledger and its user. Otherwise `sudo video-uploader status` would look at another
ledger, a migration would leave files that the service cannot write, and `doctor` would find everything
permitted.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Final

import typer

from watcher import operations
from watcher.cli.exit_codes import EXIT_USAGE, CommandError
from watcher.cli.output import echo

NAME: Final = "video-uploader"
UNIT: Final = f"{NAME}.service"
_UNIT: Final = re.compile(rf"{NAME}(@[\w.:\\-]+)?(\.service)?")
SYSTEMCTL_SECONDS: Final = 5.0
_PROPERTIES: Final = ("LoadState", "ExecStart", "Environment", "User", "StateDirectory", "WorkingDirectory")
_ARGUMENTS: Final = re.compile(r"argv\[\]=(.*?) ;")
_CREDENTIAL: Final = re.compile(r"^LoadCredential(Encrypted|)=\s*([^:\s]+):(/.*?)\s*$", re.MULTILINE)
CREDENTIALS: Final = "/run/credentials"
"""Where systemd puts them while a service runs (systemd.exec(5), "Credentials")."""


@dataclass(frozen=True, slots=True)
class Service:
    """What an installed unit gives to the daemon."""

    unit: str
    env_files: tuple[str, ...]
    environment: dict[str, str]
    user: str
    state_directory: str
    working_directory: str
    credentials: dict[str, tuple[str, bool]]
    """By the path at which the daemon has it, what a credential is loaded from, and if that is encrypted."""

    def become(self) -> pwd.struct_passwd:
        """Give this process, which is root's, the service's user, environment and working directory.

        The user is the owner of the state directory, whoever the unit names since it was made. Before the
        first start it is made as systemd would make it. Raises `CommandError`.
        """
        try:
            account = self._account()
            for name, value in self.environment.items():
                os.environ.setdefault(name, self._readable(value))
            os.environ["STATE_DIRECTORY"] = self.state_directory
            os.environ.update(HOME=account.pw_dir, USER=account.pw_name, LOGNAME=account.pw_name)
            os.umask(0o077)
            os.initgroups(account.pw_name, account.pw_gid)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            os.chdir(self.working_directory if os.path.isdir(self.working_directory) else "/")
        except (OSError, KeyError) as exc:
            raise CommandError(
                f"{self.unit} is installed, and the command cannot be run as its user ({exc}); use "
                "--no-service to run it as root, with the settings that are given."
            ) from exc
        return account

    def _readable(self, value: str) -> str:
        """A value of the environment; while the service does not run, a copy of the credential it names."""
        if value not in self.credentials or os.path.exists(value):
            return value
        source, is_encrypted = self.credentials[value]
        try:
            if is_encrypted:
                content = _output(
                    "systemd-creds", "decrypt", f"--name={os.path.basename(value)}", source, "-"
                )
            else:
                with open(source, "rb") as file:
                    content = file.read()
        except (OSError, subprocess.SubprocessError):
            return value
        copy = os.memfd_create(os.path.basename(value))
        with open(copy, "wb", closefd=False) as file:
            file.write(content)
        return f"/proc/self/fd/{copy}"

    def _account(self) -> pwd.struct_passwd:
        try:
            return pwd.getpwuid(os.stat(self.state_directory).st_uid)
        except FileNotFoundError:
            account = pwd.getpwnam(self.user)
            # Where it cannot be made, the command says what it cannot do without.
            with suppress(OSError):
                os.mkdir(self.state_directory, 0o700)
                os.chown(self.state_directory, account.pw_uid, account.pw_gid)
            return account


def chosen_service(name: str) -> Service:
    """The unit of a name, such as that of an instance of the template. Raises `CommandError`."""
    if not _UNIT.fullmatch(name):
        raise CommandError(
            f"{name} is no unit of this program; --service takes {NAME} or {NAME}@INSTANCE.", EXIT_USAGE
        )
    found = installed_service(f"{name.removesuffix('.service')}.service")
    if found is None:
        raise CommandError(f"{name} is not installed; `systemctl list-units '{NAME}*'` shows what is.")
    return found


def installed_service(unit: str = UNIT) -> Service | None:
    """The unit of this machine's systemd; None where there is none, or no systemd."""
    try:
        shown = os.fsdecode(_output("systemctl", "show", unit, f"--property={','.join(_PROPERTIES)}"))
        # What `show` says of credentials is "[unprintable]".
        text = os.fsdecode(_output("systemctl", "cat", unit)) if CREDENTIALS in shown else ""
    except (OSError, subprocess.SubprocessError):
        return None
    found = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    arguments = _ARGUMENTS.search(found.get("ExecStart", ""))
    if found.get("LoadState") != "loaded" or arguments is None:
        return None
    name = found.get("StateDirectory", "").split(" ")[0] or unit.removesuffix(".service")
    state_directory = os.path.normpath(f"/var/lib/{name}")
    return Service(
        unit,
        _env_files(shlex.split(arguments[1])),
        dict(entry.split("=", 1) for entry in shlex.split(found.get("Environment", "")) if "=" in entry),
        found.get("User") or "root",
        state_directory,
        found.get("WorkingDirectory", "").lstrip("!-") or state_directory,
        {
            f"{CREDENTIALS}/{unit}/{name}": (source, bool(encrypted))
            for encrypted, name, source in _CREDENTIAL.findall(text)
        },
    )


def _output(*command: str) -> bytes:
    """What a tool of systemd prints. Raises `OSError` and `subprocess.SubprocessError`."""
    return subprocess.run(command, capture_output=True, timeout=SYSTEMCTL_SECONDS, check=True).stdout  # noqa: S603 - root's own PATH


def _env_files(arguments: list[str]) -> tuple[str, ...]:
    """The settings files among the arguments of the daemon."""
    following = zip(arguments, [*arguments[1:], ""], strict=True)
    separate = [value for name, value in following if name == "--env-file"]
    return (*separate, *(one.partition("=")[2] for one in arguments if one.startswith("--env-file=")))


systemd = typer.Typer(
    help="The service: its unit and what belongs to it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Root = Annotated[str, typer.Option(help="Directory that stands for /, as of systemctl(1).", metavar="DIR")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")]


@systemd.command("install")
def install(
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="The compressor's user, which the service runs as.")
    ] = None,
    directory: Annotated[
        str | None, typer.Option(metavar="DIR", help="The compressor's directory: COMPLETED_DIR.")
    ] = None,
    env_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="The settings file.", show_default=f"/etc/{NAME}.env")
    ] = None,
    root: Root = "/",
    dry_run: DryRun = False,
) -> None:
    """Install unit, drop-in, sysusers, tmpfiles and a sample settings file.

    With --dry-run, print them. A settings file that exists is kept, as are user and directory of an earlier
    installation that are not given.
    """
    given = {} if env_file is None else {"env_file": os.path.abspath(env_file)}
    with _as_root(root):
        earlier_user, earlier_directory = operations.earlier_choices(root)
    made = operations.Installation(user or earlier_user, directory or earlier_directory, **given)
    try:
        if dry_run:
            texts = made.files(root) | {
                f"{made.env_file} (0640 root:{made.group}), unless it exists": made.sample()
            }
            for path, text in texts.items():
                for line in (f"# {path}", *text.splitlines(), ""):
                    echo(line)
            return
        with _as_root(root):
            written = made.install(root)
    except operations.InstallationError as exc:
        raise CommandError(str(exc), EXIT_USAGE) from exc
    for path in written:
        echo(f"Wrote {path}.")
    if root == "/" and _is_booted():
        _call("systemd-sysusers")
        _call("systemd-tmpfiles", "--create", f"{NAME}.conf")
        _call("systemctl", "daemon-reload")
    echo(f"Edit {made.env_file}, then: systemctl enable --now {NAME}")


@systemd.command("uninstall")
def uninstall(root: Root = "/", dry_run: DryRun = False) -> None:
    """Stop the service and remove what `install` has written; the ledger and edited settings stay."""
    with _as_root(root):
        found = operations.installed_files(root)
    if not found:
        raise CommandError(
            f"Nothing that `video-uploader systemd install` writes is below {root}; --root names another "
            "directory."
        )
    is_here = root == "/" and _is_booted() and not dry_run
    if is_here:
        _call("systemctl", "stop", UNIT, f"{NAME}@*.service")
        _call("systemctl", "disable", UNIT, f"{NAME}@.service")
    with _as_root(root):
        for path in found if dry_run else operations.uninstall(root):
            echo(f"{'Would remove' if dry_run else 'Removed'} {path}.")
    if is_here:
        _call("systemctl", "daemon-reload")


@contextmanager
def _as_root(root: str) -> Iterator[None]:
    """Read or write the service's files below `root`. Raises `CommandError` where that is not possible."""
    try:
        yield
    except OSError as exc:
        raise CommandError(f"{exc.filename or root}: {exc.strerror}; run this as root.") from exc


def _is_booted() -> bool:
    """Whether systemd runs here; see sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


def _call(*command: str) -> None:
    """Call a tool of systemd. Raises `CommandError`."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - constants
    except OSError as exc:
        called = " ".join(command)
        raise CommandError(f"`{called}` cannot be called: {exc.strerror}. Call it by hand.") from exc
    if done.returncode:
        raise CommandError(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.returncode}")
