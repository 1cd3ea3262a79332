"""What the service manager is told, in the datagrams of sd_notify(3).

Outside systemd nothing is sent and nothing is different.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping

import structlog

_log = structlog.get_logger(__name__)

_SEND_TIMEOUT = 5.0
"""Seconds. A full queue at PID 1 delays a message; it must not hang the daemon."""

_STATUS_LIMIT = 1000
"""Characters. At four bytes each a message fits into 4,096 bytes; systemd drops longer ones."""


class Notifier:
    """Tells the service manager how the daemon is.

    No method raises when the socket is dead: a daemon that cannot be heard must still do its work. The
    first message that is lost is logged as ``notify_unreachable``, further ones only after one has arrived.
    """

    def __init__(
        self,
        address: str | None,
        *,
        watchdog_interval: float | None = None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._address = address
        self._monotonic_ns = monotonic_ns
        self._unreachable = False
        self.watchdog_interval = watchdog_interval
        """Seconds from one `watchdog` to the next; ``None`` when nobody waits for them."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Notifier:
        """The notifier for the service manager that started this process, or a silent one.

        Reads ``NOTIFY_SOCKET`` (a path, or an abstract name after ``@``) and ``WATCHDOG_USEC`` with
        ``WATCHDOG_PID`` as sd_watchdog_enabled(3) does. The interval is half of what systemd allows, as that
        page advises.
        """
        return cls(environ.get("NOTIFY_SOCKET") or None, watchdog_interval=_watchdog_interval(environ))

    def ready(self, status: str = "") -> None:
        """The start, or the reload that `reloading` announced, is complete."""
        self._send("READY=1", *_status_lines(status))

    def status(self, text: str) -> None:
        """What the daemon is doing, in words, for ``systemctl status``.

        Made one line: what cannot be printed becomes U+FFFD, and what is too long is cut.
        """
        self._send(*_status_lines(text))

    def reloading(self) -> None:
        """The settings are being read again; `ready` ends this."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={self._monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> None:
        """The daemon is on its way out."""
        self._send("STOPPING=1", *_status_lines(status))

    def watchdog(self) -> None:
        """The daemon makes progress. Due every `watchdog_interval` seconds, said only when it is true."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None or not lines:
            return
        try:
            _send_datagram(self._address, "\n".join(lines).encode())
        except OSError as exc:
            if not self._unreachable:
                self._unreachable = True
                _log.warning(
                    "notify_unreachable",
                    socket=self._address,
                    error=str(exc),
                    hint="systemd does not hear this daemon; check NOTIFY_SOCKET and that AF_UNIX is allowed",
                )
        else:
            self._unreachable = False


def _send_datagram(address: str, message: bytes) -> None:
    # A leading '@' stands for the NUL byte of an abstract name, which no environment variable can carry.
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(_SEND_TIMEOUT)
        sender.connect(target)
        sender.sendall(message)


def _status_lines(text: str) -> list[str]:
    if not text:
        return []
    printable = (character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    line = "".join(printable)
    return ["STATUS=" + (line if len(line) <= _STATUS_LIMIT else line[: _STATUS_LIMIT - 1] + "…")]


def _watchdog_interval(environ: Mapping[str, str]) -> float | None:
    if (pid := environ.get("WATCHDOG_PID")) and pid != str(os.getpid()):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not microseconds:
        return None
    if not (microseconds.isascii() and microseconds.isdecimal()) or int(microseconds) == 0:
        _log.warning(
            "notify_watchdog_ignored",
            watchdog_usec=microseconds,
            hint="WATCHDOG_USEC is not a positive number of microseconds; the watchdog will not be fed",
        )
        return None
    return int(microseconds) / 1_000_000 / 2
