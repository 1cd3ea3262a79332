"""Which proxy a request takes, by one rule for every library: HTTPS_PROXY, HTTP_PROXY and NO_PROXY.

The names may be in lower case, which then take precedence, as in curl: https://curl.se/docs/manpage.html.
botocore, urllib3 and the CRT each read them in another way, so that they are given the result instead.
"""

import os
import re
from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from urllib.parse import quote, unquote, urlsplit

from storage.errors import ErrorKind, StorageError

AUTHENTICATION_REQUIRED = 407
PROXY_REFUSED = "proxy-refused"
"""The code of errors where a proxy does not let a request through."""
PROXY_FAILED = "proxy-failed"
"""The code of errors where a proxy gives no answer, or cannot reach the server."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_FIRST_FAILURE_OF_PROXY = 500
_OWN_PORT = re.compile(r"(\[[^\]]+\]|[^:]+):(\d+)")
_TUNNEL_STATUS = re.compile(r"Tunnel connection failed: (\d{3})")
"""In the message of Python's http.client, which keeps the status nowhere else."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy. `variable` is the environment variable that names it."""

    variable: str
    scheme: str
    host: str
    port: int
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """The URL with the credentials, percent-encoded."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@" if self.password else ""
        return f"{self.scheme}://{login}{self.address}"

    @property
    def headers(self) -> dict[str, str]:
        """The header with the credentials, if there are any: RFC 7617."""
        login = b64encode(f"{self.user}:{self.password}".encode()).decode("ascii")
        return {"Proxy-Authorization": f"Basic {login}"} if self.password else {}

    @property
    def address(self) -> str:
        """Host and port as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"The proxy {self.scheme}://{self.address} ({self.variable})"


def proxy_for(url: str) -> Proxy | None:
    """The proxy for requests to an http or https URL; None for a direct connection.

    Link-local addresses, as of the metadata services of instances, are always reached directly. Raises
    `StorageError` of kind environment for a variable that names no HTTP proxy.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    variable, value = _variable(f"{parts.scheme}_proxy")
    if not value or not host:
        return None
    _, exceptions = _variable("no_proxy")
    if _is_link_local(host) or _is_exempt(host, parts.port or _DEFAULT_PORTS[parts.scheme], exceptions):
        return None
    return _parsed(variable, value)


def environ_proxies(url: str) -> dict[str, str]:
    """The same as a mapping from the URL's scheme to a proxy's URL, as botocore wants it; may be empty."""
    proxy = proxy_for(url)
    return {} if proxy is None else {urlsplit(url).scheme: proxy.url}


def proxy_passwords() -> list[str]:
    """The passwords in the variables, also in those that are overridden or unusable."""
    values = (value for name, value in os.environ.items() if name.lower() in ("http_proxy", "https_proxy"))
    return [found[1] for value in values if (found := re.search(r"[^/:@]*:(.*)@", value.split("://")[-1]))]


def proxy_error(name: str, reason: str, operation: str, key: str | None) -> StorageError:
    """The error for a proxy that does not make the connection; `name` begins its sentence.

    `reason` is a message of http.client or of the system.
    """
    if (found := _TUNNEL_STATUS.search(reason)) is not None:
        return refusal(name, int(found[1]), operation, key)
    hint = f"{name} gives no answer ({reason}): check that it runs and that this machine may connect to it."
    unreachable = f"{name} gives no answer: {reason}"
    return StorageError(ErrorKind.TRANSIENT, operation, key, PROXY_FAILED, hint, unreachable=unreachable)


def refusal(name: str, status: int, operation: str, key: str | None) -> StorageError:
    """The error for a proxy that answers with an HTTP status of its own; `name` begins its sentence."""
    if status >= _FIRST_FAILURE_OF_PROXY:
        hint = f"{name} does not reach the server (status {status}). It is tried again."
        return StorageError(ErrorKind.TRANSIENT, operation, key, PROXY_FAILED, hint)
    hint = f"{name} refuses the connection (status {status}): have it allow the server, or set NO_PROXY."
    if status == AUTHENTICATION_REQUIRED:
        hint = (
            f"{name} does not accept the credentials (status {status}): correct the user and the password in "
            "its URL, in which special characters are percent-encoded."
        )
    return StorageError(ErrorKind.ENVIRONMENT, operation, key, PROXY_REFUSED, hint)


def forwarding_name() -> str | None:
    """The name of the proxy for plain HTTP, which can answer in the server's place; None without one."""
    variable, value = _variable("http_proxy")
    return str(_parsed(variable, value)) if value else None


def _variable(name: str) -> tuple[str, str]:
    """The name and the value of the variable that counts; an empty one is no variable."""
    for written in (name, name.upper()):
        if value := os.environ.get(written, "").strip():
            return written, value
    return name, ""


def _parsed(variable: str, value: str) -> Proxy:
    with suppress(ValueError):
        parts = urlsplit(value if "://" in value else f"http://{value}")
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        if parts.scheme in _DEFAULT_PORTS and parts.hostname and (user + password).isascii():
            port = parts.port or _DEFAULT_PORTS[parts.scheme]
            return Proxy(variable, parts.scheme, parts.hostname, port, user, password)
    hint = (
        f"{variable} is not the URL of an HTTP proxy: set it to http://HOST:PORT or "
        "http://USER:PASSWORD@HOST:PORT, with special characters percent-encoded, or unset it."
    )
    raise StorageError(ErrorKind.ENVIRONMENT, "find the proxy", None, "bad-settings", hint)


def _is_exempt(host: str, port: int, exceptions: str) -> bool:
    """Whether NO_PROXY names the server: `*`, a host or its domain, an address or network, each `:port`."""
    for entry in re.split(r"[,\s]+", exceptions.lower()):
        if entry == "*":
            return True
        name, own_port = entry, port
        if (found := _OWN_PORT.fullmatch(entry)) is not None:
            name, own_port = found[1], int(found[2])
        if own_port == port and (_is_within(host, name) or _is_in_domain(host, name)):
            return True
    return False


def _is_in_domain(host: str, name: str) -> bool:
    domain = name.removeprefix("*").strip(".")
    return bool(domain) and (host == domain or host.endswith("." + domain))


def _is_within(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network.strip("[]"), strict=False)
    except ValueError:
        return False


def _is_link_local(host: str) -> bool:
    try:
        return ip_address(host).is_link_local
    except ValueError:
        return False
