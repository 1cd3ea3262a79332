"""Types of setting values; each refuses an invalid value with a short reason."""

from __future__ import annotations

import os
import re
import shlex
from typing import Annotated, TypeVar
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

from storage import has_control_characters
from watcher.renditions import check_template
from watcher.telemetry.formatting import quoted

_Text = TypeVar("_Text", str, SecretStr)


def stripped(value: object) -> object:
    """A text without the white space around it; any other value as it is."""
    return value.strip() if isinstance(value, str) else value


def plain_text(value: object) -> object:
    """A text of any setting, without the white space around it.

    Raises ValueError for control characters and for bytes that are not UTF-8, without repeating the text.
    """
    value = stripped(value)
    if isinstance(value, str):
        if has_control_characters(value):
            raise ValueError("it contains a control character, such as a tab or the end of a line")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("it is not valid UTF-8")
    return value


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


def _all_match(pattern: str, reason: str) -> AfterValidator:
    def check(items: tuple[str, ...]) -> tuple[str, ...]:
        for item in items:
            if not re.fullmatch(pattern, item):
                raise ValueError(f"{quoted(item)} {reason}")
        if not items:
            raise ValueError("the list is empty")
        return items

    return AfterValidator(check)


def _matches(pattern: str, reason: str) -> AfterValidator:
    def check(value: _Text) -> _Text:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not re.fullmatch(pattern, text):
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
    url = value.get_secret_value()
    parts = _parts(url)
    sqlite = parts.scheme == "sqlite" and not parts.netloc and len(parts.path) > 1
    if not sqlite and parts.scheme not in {"postgresql", "postgres"}:
        scheme = quoted(parts.scheme) if "://" in url else "missing"
        raise ValueError(f"its scheme is {scheme}, neither sqlite nor postgresql")
    if not sqlite and (url.count("@") > parts.netloc.count("@") or parts.netloc.count("@") > 1 or "#" in url):
        # libpq ends the password at the first '@' or '/' and quotes the rest as a host or database name.
        raise ValueError("it has an '@' or '#' out of place; user and password must be percent-encoded")
    if not sqlite and re.search("%(?![0-9A-Fa-f]{2})", url):
        raise ValueError("it has a '%' without two hexadecimal digits; write it as %25")
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
        raise ValueError("it has a user, a query or a fragment, and is shown and published")
    if re.search(r"\s", value):
        raise ValueError("it contains white space, which must be percent-encoded")
    if not re.fullmatch(r"(\[[^]]*\]|[^:]*)(:\d{1,5})?", parts.netloc):
        raise ValueError("its port is not a number")
    return value.rstrip("/")


def _endpoint(value: str) -> str:
    if not value.lower().startswith(("http://", "https://")):
        scheme = f"its scheme is {quoted(_parts(value).scheme)}" if "://" in value else "it has no scheme"
        raise ValueError(f"{scheme}; it must be http or https")
    return value


def _secret_url(value: SecretStr) -> SecretStr:
    url = value.get_secret_value()
    parts = _parts(url)
    _endpoint(url)
    if not re.fullmatch(r"([^@\s]*@)?(\[[0-9A-Fa-f:.]+\]|[^\s:@\[\]]+)(:\d{1,5})?", parts.netloc):
        raise ValueError("it has no host, or its port is not a number; user and password are percent-encoded")
    if not re.fullmatch(r"[\x21-\x7e]+", url) or parts.fragment:
        raise ValueError("it has a fragment, white space or characters other than ASCII; percent-encode them")
    return value


def _command(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError:
        raise ValueError("a quote in it is not closed") from None
    if not words or not words[0]:
        raise ValueError("it has no words")
    return value


def _instance(value: str) -> str:
    if not value.isprintable() or len(value) > 100:
        raise ValueError("it has more than 100 characters, or characters that cannot be printed")
    return value


def _address(value: str) -> str:
    if value and not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):\d{1,5}", value):
        raise ValueError("it is not host:port")
    if value and not 1 <= int(value.rpartition(":")[2]) <= 65535:
        raise ValueError("its port is out of range")
    return value


_RATE = re.compile(r"(?P<amount>\d+(\.\d+)?)\s*(?P<prefix>[kKMG]?)(?P<binary>i?)(?P<unit>B|bit)(/s)?")
_TIME_OF_DAY = re.compile(r"(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)")
_POWERS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3}


def bytes_per_second(text: str) -> float | None:
    """Return the rate that a text such as ``20MB/s``, ``500Mbit/s`` or ``none`` names; None for no limit.

    Prefixes are decimal (IEC 80000-13's ``Ki``, ``Mi`` and ``Gi`` are binary). Raises ValueError.
    """
    if text.lower() == "none":
        return None
    match = _RATE.fullmatch(text)
    if match is None or not float(match["amount"]):
        raise ValueError(f"{quoted(text)} is not a rate above zero")
    factor = float(1024 if match["binary"] else 1000) ** _POWERS[match["prefix"]]
    return float(match["amount"]) * factor / (8 if match["unit"] == "bit" else 1)


def bandwidth_timetable(text: str) -> tuple[tuple[int, float | None], ...]:
    """Return the rates of a text like ``07:00 20MB/s 23:00 none``, each with its minute of the day, in order.

    A rate alone is one from 00:00 on. Raises ValueError, which names the word that is wrong.
    """
    first, *entries = re.split(r"(\S*:\S*)", text)
    if not entries:
        return ((0, bytes_per_second(text)),)
    if first.strip():
        raise ValueError(f"{quoted(first.strip())} stands before the first time of day")
    rates: dict[int, float | None] = {}
    for word, rate in zip(entries[::2], map(str.strip, entries[1::2]), strict=True):
        match = _TIME_OF_DAY.fullmatch(word)
        if match is None:
            raise ValueError(f"{quoted(word)} is not a time of day from 00:00 to 23:59")
        minute = 60 * int(match["hour"]) + int(match["minute"])
        if minute in rates:
            raise ValueError(f"{quoted(word)} is there twice")
        if not rate:
            raise ValueError(f"no rate follows {quoted(word)}")
        rates[minute] = bytes_per_second(rate)
    return tuple(sorted(rates.items()))


def _bandwidth(value: str) -> str:
    bandwidth_timetable(value)
    return value


def _tags(value: str) -> str:
    try:
        tags = parse_qsl(value, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise ValueError("it has a part without '=', or one that is not percent-encoded") from None
    if len(tags) > 10 or len(dict(tags)) != len(tags):
        raise ValueError("it has more than 10 tags, or a name twice")
    return value


_List = Annotated[tuple[str, ...], BeforeValidator(_split)]

Directory = Annotated[str, AfterValidator(_directory)]
Template = Annotated[str, AfterValidator(_template)]
Extensions = Annotated[_List, _all_match(r"\.[A-Za-z0-9]+", "is not an extension")]
QUALITY = r"[A-Za-z0-9]{1,20}"
Qualities = Annotated[_List, _all_match(QUALITY, "is not the name of a quality")]
Origins = Annotated[_List, _all_match(r"\*|https?://[^/\s]+", "is not an origin")]
Patterns = Annotated[_List, _all_match(r"[^/]+", "has a slash; patterns match single names")]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]
Identifier = Annotated[str, _matches(r"[a-z_][a-z0-9_]{0,62}", "it is not a lower-case identifier")]
Url = Annotated[str, AfterValidator(_url)]
EndpointUrl = Annotated[str, AfterValidator(_endpoint), AfterValidator(_url)]
SecretUrl = Annotated[SecretStr, AfterValidator(_secret_url)]
Command = Annotated[str, AfterValidator(_command)]
Credential = Annotated[
    SecretStr, _matches(r"[\x21-\x7e]+", "it contains white space or characters other than ASCII")
]
PostgresHost = Annotated[
    str, _matches(r"/\S+|[^\s/@?#\[\]:]+|[0-9A-Fa-f:.]+", "it is not a name, address or directory")
]
PostgresName = Annotated[str, _matches(r".{1,63}", "it is longer than 63 characters")]
Region = Annotated[str, _matches(r"[A-Za-z0-9-]{1,63}", "it is not a region's name")]
HeaderValue = Annotated[str, _matches(r"[\x20-\x7e]+", "it contains characters other than ASCII")]
StorageClass = Annotated[str, _matches(r"[A-Z0-9_]{1,64}", "it is not a class's name")]
KmsKey = Annotated[str, _matches(r"[A-Za-z0-9:/_-]{1,2048}", "it is not a key's id or ARN")]
HostName = Annotated[
    str, _matches(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})+", "it is not a host name")
]
HostNames = Annotated[_List, _all_match(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", "is not a host name")]
DistributionId = Annotated[str, _matches(r"[A-Za-z0-9]{1,64}", "it is not a distribution's id")]
Bucket = Annotated[str, _matches(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "it is not a bucket name")]
Prefix = Annotated[
    str,
    _matches(
        r"((?!\.{1,2}(/|$))[^/]+(/(?!\.{1,2}(/|$))[^/]+)*)?",
        "it begins or ends with a slash, or has a part that is empty, '.' or '..'",
    ),
]
InstanceName = Annotated[str, AfterValidator(_instance)]
Address = Annotated[str, AfterValidator(_address)]
AccountId = Annotated[str, _matches(r"\d{12}", "it is not 12 digits")]
Bandwidth = Annotated[str, AfterValidator(_bandwidth)]
Tags = Annotated[str, AfterValidator(_tags)]
UpperCase = BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value)
