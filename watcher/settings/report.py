"""The settings as a person may see them: secrets masked, and where each value came from."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic import SecretStr

from watcher.settings.file_permissions import everybody_reads
from watcher.settings.loading import read_sources
from watcher.settings.model import Settings

MASK = "********"


@dataclass(frozen=True, slots=True)
class SettingReport:
    """One setting; ``value`` is masked where it is a secret, ``source`` is where it came from."""

    name: str
    value: str
    source: str


def report_settings(settings: Settings, env_file: str | None = ".env") -> list[SettingReport]:
    """Every setting in the order of the documentation; derived defaults are shown as what they become."""
    sources = read_sources(env_file)
    derived = {
        "database_url": mask_url(settings.ledger_url),
        "catalog": str(settings.catalog_kind),
        "local_base_url": settings.local_base,
        "instance_id": settings.instance,
    }
    return [
        SettingReport(
            field.upper(),
            derived.get(field) or _shown(getattr(settings, field)),
            next((source for source, given in sources.items() if field.upper() in given), "default"),
        )
        for field in Settings.model_fields
    ]


def exposed_secrets(settings: Settings, env_file: str) -> list[str]:
    """The names of secrets that a file of settings gives, if everybody on this machine can read it."""
    if not everybody_reads(env_file):
        return []
    return sorted(name for name in read_sources(env_file)[env_file] if _is_secret(settings, name))


def _is_secret(settings: Settings, name: str) -> bool:
    """Whether a setting's value is to be kept from others; a database's URL is if it has a password."""
    if name == "DATABASE_URL":
        return mask_url(settings.ledger_url) != settings.ledger_url
    return isinstance(getattr(settings, name.lower()), SecretStr)


def mask_url(url: str) -> str:
    """The URL with any password in it replaced by asterisks."""
    # To the last @, for whoever forgot to encode a '/' or '@' in a password must not see it printed.
    url = re.sub(r"(?<=//)([^/:@]*):.*@", rf"\1:{MASK}@", url)
    return re.sub(r"(?i)((?:password|passwd|sslpassword)=)[^&]*", rf"\1{MASK}", url)


def shown_default(field: str) -> str:
    """The documented default of a setting, as `report_settings` would show it; empty where there is none."""
    info = Settings.model_fields[field]
    return "" if info.is_required() else _shown(info.default)


def _shown(value: object) -> str:
    match value:
        case None:
            return ""
        case SecretStr():
            return MASK
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(value)
        case float():
            return f"{value:g}"
        case _:
            return str(value)
