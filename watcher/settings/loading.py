"""Reads the settings from where they are given, and says all that is wrong with them at once.

The compressor's own file can be shared: names that are not ours are ignored, and an empty
value means unset. The environment wins over ``.env``.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource

from watcher.settings import file_permissions as files
from watcher.settings.model import CONFLICT, Settings


class SettingsError(Exception):
    """One or more settings are wrong; ``problems`` holds one sentence for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def read_sources(env_file: str | None) -> dict[str, dict[str, Any]]:
    """What the environment and the file give, by source in order of precedence; empty means unset.

    ``METRICS_ADDRESS`` is the exception: it is given empty to switch metrics off.
    """
    sources = {
        "environment": EnvSettingsSource(Settings, env_ignore_empty=False)(),
        str(env_file): DotEnvSettingsSource(Settings, env_file=env_file, env_ignore_empty=False)(),
    }
    known = {field.upper() for field in Settings.model_fields}
    return {
        source: {
            name: value
            for name, value in values.items()
            if name in known and (value != "" or name == "METRICS_ADDRESS")
        }
        for source, values in sources.items()
    }


def load_settings(env_file: str | None = ".env") -> Settings:
    """Read and check the settings.

    Raises `SettingsError` with every wrong value at once, or because others may write the file; values of
    secrets are never repeated.
    """
    try:
        if env_file is not None and (complaints := files.complaints(env_file)):
            raise SettingsError(complaints)
        sources = read_sources(env_file)
    except UnicodeDecodeError as exc:
        raise SettingsError([f"{env_file} is not UTF-8 text ({exc.reason} at byte {exc.start})"]) from exc
    except OSError as exc:
        raise SettingsError([f"{env_file} cannot be read ({exc.strerror}); make it readable"]) from exc
    given: dict[str, Any] = {}
    for values in reversed(sources.values()):
        given.update(values)
    try:
        return Settings(**given)
    except ValidationError as exc:
        raise SettingsError(_problems(exc)) from exc


def _problems(exc: ValidationError) -> list[str]:
    problems = []
    for error in exc.errors(include_url=False, include_input=False):
        reason = error["msg"].removeprefix("Value error, ")
        name = str(error["loc"][0])
        if error["type"] == CONFLICT:
            problems.append(f"{name}: {reason}")
            continue
        extra = Settings.model_fields[name.lower()].json_schema_extra
        allowed = extra["allowed"] if isinstance(extra, dict) else ""
        if error["type"] == "missing":
            reason = "it is required and not set"
        problems.append(f"{name}: {reason}; allowed: {allowed}")
    return problems
