"""Installs the service's files below a root directory, and removes exactly those that it has installed.

Each file of `Installation.files` begins with a line that tells it from one of an operator or of a package.
The settings file is the operator's as soon as it has been edited.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import sys
from dataclasses import dataclass
from importlib.resources import files
from textwrap import wrap
from typing import Final

from watcher.settings import Settings
from watcher.settings.report import format_default

MARK: Final = (
    "# Written by `video-uploader systemd install`; `video-uploader systemd uninstall` removes it.\n"
)
NAME: Final = "video-uploader"
ENV_FILE: Final = f"/etc/{NAME}.env"
UNITS: Final = tuple(f"/etc/systemd/system/{name}.service" for name in (NAME, f"{NAME}@"))
PACKAGED_UNIT: Final = f"/usr/lib/systemd/system/{NAME}.service"
DROP_IN: Final = f"/etc/systemd/system/{NAME}.service.d/10-compressor.conf"
SYSUSERS, TMPFILES = f"/etc/sysusers.d/{NAME}.conf", f"/etc/tmpfiles.d/{NAME}.conf"

_COMPRESSORS_DIRECTORY = "/srv/videos/completed"
_RELAXED: Final = (
    (("/home", "/root", "/run/user"), "ProtectHome", "# The directory is below one that the unit hides.\n"),
    (("/tmp", "/var/tmp"), "PrivateTmp", "# The directory is below one of which the unit has its own.\n"),  # noqa: S108 - compared only
)


class InstallationError(Exception):
    """The service cannot be installed or removed; the message says why."""


@dataclass(frozen=True, slots=True)
class Installation:
    """The service's files for a user, a directory and a settings file; each may be left to the operator."""

    user: str | None = None
    directory: str | None = None
    env_file: str = ENV_FILE

    @property
    def group(self) -> str:
        """The group that can read the settings; raises `InstallationError` for an unknown user."""
        if self.user is None:
            return NAME
        try:
            return grp.getgrgid(pwd.getpwnam(self.user).pw_gid).gr_name
        except KeyError as exc:
            raise InstallationError(f"There is no user {self.user}; --user takes the compressor's.") from exc

    def files(self, root: str = "/") -> dict[str, str]:
        """The text of each file but the settings, by its absolute path. Raises `InstallationError`.

        Units and user of a Debian package are not repeated, unless another settings file is to be read.
        """
        is_default = self.env_file == ENV_FILE
        is_packaged = is_default and _read(root, PACKAGED_UNIT) is not None
        unit = shipped(f"systemd/{NAME}.service").replace(f"/opt/{NAME}/bin/{NAME}", _program())
        if not is_default:
            unit = unit.replace("--env-file /etc/%N.env", f"--env-file {_quoted(self.env_file)}")
        made = {} if is_packaged else dict.fromkeys(UNITS if is_default else UNITS[:1], MARK + unit)
        if self.user is not None or self.directory is not None:
            made[DROP_IN] = MARK + self._drop_in()
        if self.user is None and not is_packaged:
            made[SYSUSERS] = MARK + shipped(f"systemd/{NAME}.sysusers.conf")
        made[TMPFILES] = MARK + shipped(f"systemd/{NAME}.tmpfiles.conf").replace(
            f"z {ENV_FILE} 0640 root {NAME} -", f"z {self.env_file} 0640 root {self.group} -"
        )
        return made

    def _drop_in(self) -> str:
        text = shipped(f"systemd/{NAME}.service.d/10-compressor.conf.example").partition("\n\n")[2]
        if self.user is None:
            text = _without(text, "User", "Group")
        else:
            text = text.replace("User=compressor", f"User={self.user}")
            text = text.replace("Group=compressor", f"Group={self.group}")
        if self.directory is None:
            return _without(text, "RequiresMountsFor", "Environment", "ReadWritePaths")
        place = os.path.abspath(self.directory)
        for name, value in (
            ("Environment", "COMPLETED_DIR="),
            ("ReadWritePaths", "-"),
            ("RequiresMountsFor", ""),
        ):
            text = text.replace(f"{name}={value}{_COMPRESSORS_DIRECTORY}", f"{name}={_quoted(value + place)}")
        for above, relaxed, reason in _RELAXED:
            if any(f"{place}/".startswith(f"{directory}/") for directory in above):
                text += f"{reason}{relaxed}=no\n"
        return text

    def sample(self) -> str:
        """A settings file with every setting, its meaning and its default, all commented out."""
        lines = [
            "# The settings of video-uploader, read by the daemon: lines NAME=value, each after its meaning.",
            "# Remove the # before a name to set it; the value there is the default.",
            "# `video-uploader config` shows all with their sources, `video-uploader doctor` tries them.",
        ]
        for field, info in Settings.model_fields.items():
            lines += ["", *(f"# {line}" for line in wrap(info.description or "", 100))]
            lines.append(f"#{field.upper()}={format_default(field)}")
        return "\n".join(lines) + "\n"

    def install(self, root: str = "/") -> list[str]:
        """Write the files, and the settings file if there is none; return the paths that were written.

        A file that the operator has made is kept. Raises `InstallationError` and `OSError`.
        """
        made = self.files(root)
        for path in made:
            if (found := _read(root, path)) is not None and not found.startswith(MARK):
                raise InstallationError(
                    f"{path} exists and was not written by this command; move it away first."
                )
        written = [path for path, text in made.items() if _read(root, path) != text]
        for path in written:
            _write(root, path, made[path], 0o644)
        if _read(root, self.env_file) is None:
            _write(root, self.env_file, self.sample(), 0o640, self.group if root == "/" else None)
            written.append(self.env_file)
        return written


def earlier_choices(root: str = "/") -> tuple[str | None, str | None]:
    """The user and the directory of an earlier installation; None for one that it left to the operator."""
    text = _read(root, DROP_IN) or ""
    if not text.startswith(MARK):
        return None, None
    given = dict(re.findall(r"^(User|Environment)=(.*)$", text, re.MULTILINE))
    directory = _unquoted(given.get("Environment", "")).removeprefix("COMPLETED_DIR=")
    return given.get("User"), directory or None


def installed_files(root: str = "/") -> list[str]:
    """The files that `Installation.install` has written and that are still its own."""
    found = [
        path for path in (*UNITS, DROP_IN, SYSUSERS, TMPFILES) if (_read(root, path) or "").startswith(MARK)
    ]
    unit = _read(root, UNITS[0]) or "" if UNITS[0] in found else ""
    given = re.search(r'^ExecStart=.* --env-file "?([^"\n]*?)"? run$', unit, re.MULTILINE)
    env_file = ENV_FILE if given is None else given[1].replace("%N", NAME).replace("%%", "%")
    if found and _read(root, env_file) == Installation().sample():
        found.append(env_file)
    return found


def uninstall(root: str = "/") -> list[str]:
    """Remove what was installed; return its paths. Raises `OSError`."""
    removed = installed_files(root)
    for path in removed:
        os.unlink(_below(root, path))
    drop_ins = _below(root, os.path.dirname(DROP_IN))
    if DROP_IN in removed and not os.listdir(drop_ins):
        os.rmdir(drop_ins)
    return removed


def shipped(name: str) -> str:
    """The text of a file that the package brings along."""
    return files("watcher").joinpath("share", name).read_text(encoding="utf-8")


def _program() -> str:
    """This program, as a unit can start it."""
    beside = os.path.join(os.path.dirname(sys.executable), NAME)
    return beside if os.access(beside, os.X_OK) else f"/opt/{NAME}/bin/{NAME}"


def _without(text: str, *names: str) -> str:
    """A unit without the lines that assign these names, and their comments."""
    for name in names:
        text = re.sub(rf"(?m)^# .*\n{name}=.*\n", "", text)
    return text


def _quoted(value: str) -> str:
    """A value as a unit takes it (systemd.syntax(7)). Raises `InstallationError`."""
    if not value.isprintable():
        raise InstallationError(f"{value!r} has characters that no unit can hold; give a path without them.")
    value = value.replace("%", "%%")
    if re.fullmatch(r"[\w./=%@:+,-]+", value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _unquoted(value: str) -> str:
    """What `_quoted` was given."""
    if value.startswith('"'):
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    return value.replace("%%", "%")


def _below(root: str, path: str) -> str:
    return os.path.join(root, path.lstrip("/"))


def _read(root: str, path: str) -> str | None:
    try:
        with open(_below(root, path), encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _write(root: str, path: str, text: str, mode: int, group: str | None = None) -> None:
    full = _below(root, path)
    os.makedirs(os.path.dirname(full), mode=0o755, exist_ok=True)
    descriptor = os.open(f"{full}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        if group is not None:
            # A user that sysusers makes later gets the file by the tmpfiles entry.
            os.fchown(descriptor, 0, _group_id(group))
        os.fchmod(descriptor, mode)
    os.replace(f"{full}.new", full)


def _group_id(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return 0
