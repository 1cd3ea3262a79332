"""Status messages to the service manager, in datagrams as sd_notify(3) defines them.

Outside systemd nothing is sent.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping

import structlog

_log = structlog.get_logger(__name__)

_SEND_TIMEOUT = 5.0
"""Seconds. A full queue at PID 1 may delay a message, but must not block the daemon."""

_START_SECONDS = 60
"""How long after `starting` systemd waits for the next message of a start."""

_STATUS_LIMIT = 1000
"""Characters. At four bytes each, a message fits into the 4,096 bytes that systemd accepts."""


class SystemdNotifier:
    """Sends the daemon's status to the service manager.

    No method raises when the socket does not answer, because the daemon works without it. The first message
    that is lost is logged as ``notify_unreachable``, further ones only after one has arrived.
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
        """Seconds between two calls of `watchdog`; ``None`` if the service manager does not expect them."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> SystemdNotifier:
        """The notifier for the service manager that started this process, or one that sends nothing.

        Reads ``NOTIFY_SOCKET`` (a path, or an abstract name after ``@``) and ``WATCHDOG_USEC`` with
        ``WATCHDOG_PID`` as sd_watchdog_enabled(3) does. The interval is half of what systemd allows, as that
        page advises.
        """
        return cls(environ.get("NOTIFY_SOCKET") or None, watchdog_interval=_watchdog_interval(environ))

    def ready(self, status: str = "") -> None:
        """Report that the start, or the reload that `reloading` announced, is complete."""
        self._send("READY=1", *_status_lines(status))

    def status(self, text: str) -> None:
        """Report what the daemon is doing, for ``systemctl status``.

        Unprintable characters, line ends included, are replaced with U+FFFD; a long text is truncated.
        """
        self._send(*_status_lines(text))

    def starting(self, text: str) -> None:
        """Report what the start is waiting for, as `status` does, and that it takes a minute longer.

        Otherwise systemd would end a start that takes longer than ``TimeoutStartSec``.
        """
        self._send(f"EXTEND_TIMEOUT_USEC={_START_SECONDS * 1_000_000}", *_status_lines(text))

    def reloading(self) -> None:
        """Report that the settings are being reloaded; `ready` ends this."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={self._monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> None:
        """Report that the daemon stops."""
        self._send("STOPPING=1", *_status_lines(status))

    def watchdog(self) -> None:
        """Report that the daemon makes progress; expected every `watchdog_interval` seconds."""
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
            hint="WATCHDOG_USEC is not a positive number of microseconds; the watchdog will not be fed. "
            "Leave the variable to systemd, which sets it by WatchdogSec=.",
        )
        return None
    return int(microseconds) / 1_000_000 / 2
