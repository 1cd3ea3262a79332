"""Types of setting values; each refuses an invalid value with a short reason."""

from __future__ import annotations

import os
import re
from typing import Annotated
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

from watcher.renditions import check_template


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


def _all_match(pattern: str, reason: str) -> AfterValidator:
    def check(items: tuple[str, ...]) -> tuple[str, ...]:
        for item in items:
            if not re.fullmatch(pattern, item):
                raise ValueError(f"{item!r} {reason}")
        if not items:
            raise ValueError("the list is empty")
        return items

    return AfterValidator(check)


def _matches(pattern: str, reason: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(reason)
        return value

    return AfterValidator(check)


def _directory(value: str) -> str:
    if not os.path.isabs(value):
        raise ValueError("it is not an absolute path")
    return os.path.normpath(value)


def _template(value: str) -> str:
    check_template(value)
    return value


def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        # The original message quotes the URL, including its password.
        raise ValueError("it is malformed") from None


def _database_url(value: SecretStr) -> SecretStr:
    parts = _parts(value.get_secret_value())
    sqlite = parts.scheme == "sqlite" and not parts.netloc and len(parts.path) > 1
    if not sqlite and parts.scheme not in {"postgresql", "postgres"}:
        raise ValueError("its scheme is not supported")
    for server in parts.netloc.rpartition("@")[2].split(","):
        if not re.fullmatch(r"(\[[^]]*\]|[^:]*)(:\d*)?", server):
            raise ValueError("its port is not a number; user and password must be percent-encoded")
    return value


def _url(value: str) -> str:
    parts = _parts(value)
    if not parts.scheme or not (parts.netloc or parts.scheme == "file"):
        raise ValueError("it is not absolute")
    if "@" in parts.netloc or parts.query or parts.fragment:
        # These URLs are displayed and published.
        raise ValueError("it has a user, a query or a fragment")
    return value.rstrip("/")


def _instance(value: str) -> str:
    if not value.isprintable() or len(value) > 100:
        raise ValueError("it is too long or has control characters")
    return value


def _address(value: str) -> str:
    if value and not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):\d{1,5}", value):
        raise ValueError("it is not host:port")
    if value and not 1 <= int(value.rpartition(":")[2]) <= 65535:
        raise ValueError("its port is out of range")
    return value


_RATE = re.compile(r"(?P<amount>\d+(\.\d+)?)\s*(?P<prefix>[kKMG]?)(?P<binary>i?)(?P<unit>B|bit)(/s)?")
_POWERS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3}


def bytes_per_second(text: str) -> float | None:
    """Return the rate that a text such as ``20MB/s``, ``500Mbit/s`` or ``none`` names; None for no limit.

    Prefixes are decimal (IEC 80000-13's ``Ki``, ``Mi`` and ``Gi`` are binary). Raises ValueError.
    """
    if text.lower() == "none":
        return None
    match = _RATE.fullmatch(text)
    if match is None or not float(match["amount"]):
        raise ValueError("it is not a rate above zero")
    factor = float(1024 if match["binary"] else 1000) ** _POWERS[match["prefix"]]
    return float(match["amount"]) * factor / (8 if match["unit"] == "bit" else 1)


def _bandwidth(value: str) -> str:
    bytes_per_second(value)
    return value


def _tags(value: str) -> str:
    tags = parse_qsl(value, keep_blank_values=True, strict_parsing=True)
    if len(tags) > 10 or len(dict(tags)) != len(tags):
        raise ValueError("it has more than 10 tags, or a name twice")
    return value


_List = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]

Directory = Annotated[str, AfterValidator(_directory)]
Template = Annotated[str, AfterValidator(_template)]
Extensions = Annotated[_List, _all_match(r"\.[A-Za-z0-9]+", "is not an extension")]
Qualities = Annotated[_List, _all_match(r"[A-Za-z0-9]{1,20}", "is not the name of a quality")]
Origins = Annotated[_List, _all_match(r"\*|https?://[^/\s]+", "is not an origin")]
Patterns = Annotated[_List, _all_match(r"[^/]+", "has a slash; patterns match single names")]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]
Identifier = Annotated[str, _matches(r"[a-z_][a-z0-9_]{0,62}", "it is not a lower-case identifier")]
Url = Annotated[str, AfterValidator(_url)]
HostName = Annotated[
    str, _matches(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})+", "it is not a host name")
]
DistributionId = Annotated[str, _matches(r"[A-Za-z0-9]{1,64}", "it is not a distribution's id")]
Bucket = Annotated[str, _matches(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "it is not a bucket name")]
Prefix = Annotated[str, _matches("([^/]+(/[^/]+)*)?", "it begins or ends with a slash, or has an empty part")]
InstanceName = Annotated[str, AfterValidator(_instance)]
Address = Annotated[str, AfterValidator(_address)]
AccountId = Annotated[str, _matches(r"\d{12}", "it is not 12 digits")]
Bandwidth = Annotated[str, AfterValidator(_bandwidth)]
Tags = Annotated[str, AfterValidator(_tags)]
UpperCase = BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value)
