"""The settings for display: secrets masked, each value with its source."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from pydantic import SecretStr

from watcher.settings.file_permissions import is_world_readable
from watcher.settings.loading import read_sources
from watcher.settings.model import Settings
from watcher.telemetry.redaction import MASK


class SettingReport(NamedTuple):
    """One setting: its value, masked if it is secret, and the source that the value came from."""

    name: str
    value: str
    source: str


def report_settings(settings: Settings, *env_files: str) -> list[SettingReport]:
    """Return every setting in the documented order; a derived default is shown as its effective value."""
    sources = read_sources(*env_files)
    derived = {
        "database_url": mask_url(settings.ledger_url),
        "catalog": str(settings.catalog_kind),
        "local_base_url": settings.local_base,
        "instance_id": settings.instance,
        "webhook_url": _masked_path(settings.webhook_url),
        "heartbeat_url": _masked_path(settings.heartbeat_url),
    }
    return [
        SettingReport(
            field.upper(),
            derived.get(field) or _format(getattr(settings, field)),
            next((source for source, given in sources.items() if field.upper() in given), "default"),
        )
        for field in Settings.model_fields
    ]


def exposed_secrets(settings: Settings, env_file: str) -> list[str]:
    """Return the names of the secrets in a settings file that every user of this machine can read."""
    if not is_world_readable(env_file):
        return []
    return sorted(name for name in read_sources(env_file)[env_file] if _is_secret(settings, name))


def _is_secret(settings: Settings, name: str) -> bool:
    """Whether a setting's value is secret; a database URL is if it holds a password."""
    if name == "DATABASE_URL":
        return mask_url(settings.ledger_url) != settings.ledger_url
    value = getattr(settings, name.lower())
    return isinstance(value, SecretStr) and bool(value.get_secret_value())


def mask_url(url: str) -> str:
    """Return the URL with every password in it replaced by asterisks."""
    # Up to the last @: a password may hold a '/' or '@' that was not percent-encoded.
    url = re.sub(r"(?<=//)([^/:@]*):.*@", rf"\1:{MASK}@", url)
    return re.sub(r"(?i)((?:password|passwd|sslpassword)=)[^&]*", rf"\1{MASK}", url)


def _masked_path(url: SecretStr | None) -> str:
    """Scheme and host of a URL: the rest may be what grants access."""
    if url is None:
        return ""
    parts = urlsplit(url.get_secret_value())
    rest = MASK if parts.path.strip("/") or parts.query or "@" in parts.netloc else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/{rest}"


def format_default(field: str) -> str:
    """Return a setting's documented default as `report_settings` shows it; empty if it has none."""
    info = Settings.model_fields[field]
    return "" if info.is_required() else _format(info.default)


def _format(value: object) -> str:
    match value:
        case None:
            return ""
        case SecretStr():
            return MASK if value.get_secret_value() else ""
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(value)
        case float():
            return f"{value:g}"
        case _:
            return str(value)
