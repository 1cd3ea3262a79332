"""Reads the settings from the environment and files, and reports every error in them at once.

The compressor's file can be read, too: names that are not settings are ignored, and an empty value
means unset unless the setting's text says what it means. The environment takes precedence over the files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from dotenv import dotenv_values
from pydantic import SecretStr, ValidationError

from storage import proxy_passwords
from watcher.settings.file_permissions import permission_problems
from watcher.settings.model import CONFLICT, Settings
from watcher.telemetry.formatting import quoted
from watcher.telemetry.redaction import MASK, redact

_MAY_BE_EMPTY = frozenset({"HTTP_ADDRESS", "METRICS_ADDRESS", "POSTGRES_PASSWORD"})
"""Without an address nothing is served over HTTP; an empty password means trust authentication."""


_OF_URL = re.compile(
    r"^(\w+://)?.*@"  # user and password, wherever the text lacks an encoding
    r"|(?<=//)([^/?#:\[]*:)(?!\d{1,5}(?:[/?#]|$))[^/?#]+"  # what is no port may be the password
    r"|(://[^?#]*[?#]).*"
)
"""What may be a secret in a URL, and before it what is none."""

_REASONS = {
    "missing": "it is required and not set",
    "greater_than": "it is too small",
    "greater_than_equal": "it is too small",
    "less_than": "it is too large",
    "less_than_equal": "it is too large",
    "int_parsing": "it is not a whole number",
    "float_parsing": "it is not a number",
}
"""By pydantic's type of error, for what this program's own types do not refuse."""


_TOKEN = re.compile(r"(?![a-z-]*$).{8,}")
"""What in a URL's path or query may grant access."""


def _holds_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(map(_holds_secret, get_args(annotation)))


SECRETS = frozenset(
    name.upper() for name, field in Settings.model_fields.items() if _holds_secret(field.annotation)
)
"""The names of the secret settings. Of URLs, only passwords and what looks like a token are."""


class SettingsError(Exception):
    """One or more settings are wrong; ``problems`` holds one sentence for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def read_sources(*env_files: str) -> dict[str, dict[str, str]]:
    """Return the values that are set in the environment and in files, in order of precedence: the last first.

    White space around them is removed. Empty means unset, except for the names in `_MAY_BE_EMPTY`.
    """
    sources: dict[str, Mapping[str, str | None]] = {
        "environment": os.environ,
        **{env_file: _of_file(env_file) for env_file in reversed(env_files)},
    }
    names = [field.upper() for field in Settings.model_fields]
    return {
        source: {
            name: text
            for name in names
            if (value := values.get(name)) is not None and ((text := value.strip()) or name in _MAY_BE_EMPTY)
        }
        for source, values in sources.items()
    }


def _of_file(env_file: str) -> Mapping[str, str | None]:
    """What stands in a settings file; nothing if there is no such file, or if it is a directory."""
    path = Path(env_file)
    return dotenv_values(path, encoding="utf-8") if path.is_file() or path.is_fifo() else {}


def load_settings(*env_files: str) -> Settings:
    """Read and validate the settings; of several files a later one takes precedence.

    Raises `SettingsError` with a sentence for every wrong value, or if other users can change a file;
    no sentence repeats a secret.
    """
    for env_file in env_files:
        _ensure_readable(env_file)
    sources = read_sources(*env_files)
    given: dict[str, Any] = {}
    for values in reversed(sources.values()):
        given.update(values)
    _teach_redactor(given)
    try:
        return Settings(**given)
    except ValidationError as exc:
        raise SettingsError(_sentences(exc, given)) from exc


def _ensure_readable(env_file: str) -> None:
    """Refuse a file that other users can change, that cannot be read, or that is no text."""
    try:
        if problems := permission_problems(env_file):
            raise SettingsError(problems)
        read_sources(env_file)
    except UnicodeDecodeError as exc:
        raise SettingsError(
            [f"{env_file} is not UTF-8 text ({exc.reason} at byte {exc.start}); save it as UTF-8"]
        ) from exc
    except OSError as exc:
        raise SettingsError([f"{env_file} cannot be read ({exc.strerror}); make it readable"]) from exc


def _teach_redactor(given: dict[str, Any]) -> None:
    secrets = {name: str(given[name]) for name in SECRETS & given.keys()}
    if url := secrets.pop("DATABASE_URL", None):
        secrets["DATABASE_URL"] = "".join(re.findall(r"//[^/:@]*:(.*)@", url))
        secrets |= dict(re.findall(r"(?i)(password|passwd|sslpassword)=([^&]*)", url))
    urls = [secrets.pop(name, "") for name in ("WEBHOOK_URL", "HEARTBEAT_URL")]
    learned = [secret for url in urls for secret in _of_url(url)]
    redact.learn(
        [*secrets.values(), *learned, *proxy_passwords()],
        (str(value) for name, value in given.items() if name not in SECRETS),
    )


def _of_url(url: str) -> list[str]:
    """What is secret in a URL: a password, and parts that may be tokens, unlike words such as `hooks`."""
    if "//" not in url:
        return [url]
    authority, *rest = re.split(r"[/?&=]", url.partition("//")[2])
    user, _, password = authority.rpartition("@")[0].partition(":")
    return [password, *(part for part in (user, *rest) if _TOKEN.fullmatch(part))]


def _sentences(exc: ValidationError, given: Mapping[str, Any]) -> list[str]:
    """Name, reason, the value unless it may be secret, and what is allowed, for each error."""
    sentences = []
    for error in exc.errors(include_url=False, include_input=False):
        name = str(error["loc"][0])
        reason, _, allowed = error["msg"].removeprefix("Value error, ").partition("; allowed")
        if error["type"] not in {CONFLICT, "value_error"}:
            reason = _REASONS.get(error["type"], "it is none of the allowed values")
        if error["type"] != CONFLICT:
            extra = Settings.model_fields[name.lower()].json_schema_extra
            allowed = f": {extra['allowed'] if isinstance(extra, dict) else ''}"
        if name in given and name not in SECRETS:
            reason += f" (given: {quoted(_without_secrets(str(given[name])))})"
        sentences.append(f"{name}: {reason}; allowed{allowed}")
    return sentences


def _without_secrets(value: str) -> str:
    """A setting's value without secrets that were learned, and without what may be one in a URL."""
    return _OF_URL.sub(lambda found: f"{''.join(filter(None, found.groups()))}{MASK}", redact(value))
