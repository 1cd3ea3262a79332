"""Takes the CRT's connections through a proxy.

The CRT's S3 client takes no proxy as an argument. It reads the environment of the process for each
connection, with another meaning of NO_PROXY than ours and without decoding the credentials. It is told the
decision there, below Python's copy of the environment, which stays as it is.
"""

import ctypes
import os
import re
import socket
import threading
import time
from typing import NoReturn
from urllib.parse import urlsplit

from storage.aws.bounded_answers import HEADER_BYTES, BoundedReader
from storage.aws.proxies import Proxy, proxy_error, proxy_for
from storage.errors import ErrorKind, StorageError

_LIBC = ctypes.CDLL(None)
_LIBC.getenv.restype = ctypes.c_char_p
_UNPARSABLE = re.compile(r"[/?@]")
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")

_lock = threading.Lock()
_direct: set[str] = set()
"""The hosts that are reached directly although a proxy is configured for their scheme."""


def inform_crt(url: str) -> Proxy | None:
    """Have the CRT reach the server of `url` by the proxy that `proxy_for` chooses, which is returned.

    Raises `StorageError` of kind environment for credentials that the CRT cannot pass on.
    """
    proxy = proxy_for(url)
    parts = urlsplit(url)
    name, host = f"{parts.scheme}_proxy", parts.hostname or ""
    configured = os.environ.get(name) or os.environ.get(name.upper())
    exceptions = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    with _lock:
        if proxy is not None:
            _direct.discard(host)
            _set(name, _crt_url(proxy))
        elif configured:
            _direct.add(host)
        else:
            _set(name, None)
        has_more = bool(configured and _direct)
        every = ",".join([*filter(None, [exceptions]), *sorted(_direct)])
        _set("no_proxy", every if has_more else os.environ.get("no_proxy"))
    return proxy


def connect(proxy: Proxy | None, host: str, port: int, seconds: float) -> socket.socket:
    """A connection to a server, directly or through the proxy by CONNECT: RFC 9110, section 9.3.6.

    Raises `OSError` where there is none, and `StorageError` about the proxy where it is the reason.
    """
    if proxy is None:
        return socket.create_connection((host, port), seconds)
    try:
        return _tunnel(proxy, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", seconds)
    except OSError as exc:
        raise proxy_error(str(proxy), str(exc), "connect", None) from exc


def _tunnel(proxy: Proxy, address: str, seconds: float) -> socket.socket:
    deadline = time.monotonic() + seconds
    connection = socket.create_connection((proxy.host, proxy.port), seconds)
    fields = "".join(f"{name}: {value}\r\n" for name, value in {"Host": address, **proxy.headers}.items())
    try:
        connection.sendall(f"CONNECT {address} HTTP/1.1\r\n{fields}\r\n".encode())
        status = _STATUS.match(_head(connection, deadline))
        if status is None or status[1] != b"200":
            _refuse(status[1].decode() if status else "no HTTP")
        connection.settimeout(max(0.001, deadline - time.monotonic()))
    except BaseException:
        connection.close()
        raise
    return connection


def _head(connection: socket.socket, deadline: float) -> bytes:
    """The head of the answer, read by single bytes because what follows it is for TLS."""
    head = b""
    with BoundedReader(connection, deadline, HEADER_BYTES) as reader:
        while not head.endswith(b"\r\n\r\n") and (byte := reader.read(1)):
            head += byte
    return head


def _refuse(status: str) -> NoReturn:
    raise OSError(f"Tunnel connection failed: {status}")


def _crt_url(proxy: Proxy) -> str:
    """The proxy's URL as the CRT reads it: the credentials as they are, and always a port."""
    if not proxy.password:
        return proxy.url
    if _UNPARSABLE.search(proxy.user + proxy.password) or ":" in proxy.user:
        hint = (
            f"The user or the password in {proxy.variable} contains '/', '?' or '@', or the user a ':', "
            "which uploads cannot pass on: give the user of the proxy another password."
        )
        raise StorageError(ErrorKind.ENVIRONMENT, "find the proxy", None, "bad-settings", hint)
    return f"{proxy.scheme}://{proxy.user}:{proxy.password}@{proxy.address}"


def _set(name: str, value: str | None) -> None:
    """Set a variable below Python's copy of the environment; only if it differs, because others read it."""
    key, wanted = name.encode(), None if value is None else os.fsencode(value)
    if _LIBC.getenv(key) == wanted:
        return
    if wanted is None:
        _LIBC.unsetenv(key)
    else:
        _LIBC.setenv(key, wanted, 1)
