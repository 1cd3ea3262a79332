"""Who is told of events: a command, a webhook, and the monitor that expects a heartbeat."""

from __future__ import annotations

import hashlib
import hmac
import os
import select
import shlex
import signal
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Protocol
from urllib.parse import unquote, urlsplit

import structlog

from storage import AnonymousHttp, StorageError
from watcher.supervision.background_thread import Supervisor, Worker
from watcher.telemetry import printable, redact

log = structlog.get_logger()

HTTP_SECONDS = 10.0
"""How long a request may take as a whole."""
COMMAND_SECONDS = 60.0
"""How long a command may run; then it and what it has started are killed."""
OUTPUT_BYTES = 4096
"""How much of the end of a command's output is kept."""
MAX_ANSWER = 1024
MAX_LINE = 300
"""How many characters of an output or a reason are logged."""

SUMMARY_SECONDS = 900.0
"""Between two lines of the log about a receiver that keeps failing."""
HEARTBEAT_SECONDS = 60.0
FRESH_SECONDS = 30.0
"""How long a report that all is well holds: the main thread makes one every five seconds."""

SIGNATURE = "X-Video-Uploader-Signature"

_REASONS = {
    "connection": "no connection can be made",
    "timeout": f"it does not answer within {HTTP_SECONDS:.0f} seconds",
    "untrusted-certificate": "its certificate is not trusted",
    "too-large-answer": "its answer is too large",
    "bad-settings": "it is no URL that can be fetched",
}


class DeliveryError(Exception):
    """An attempt has failed; its text says why, and tells no secret."""

    def __init__(self, reason: str) -> None:
        super().__init__(redact(printable(reason))[:MAX_LINE])


class Receiver(Protocol):
    """Is told of one event at a time. So many are claimed at once, and one takes so long at most."""

    batch: int
    seconds: float

    def deliver(self, subject: str, payload: str) -> None:
        """Tell of an event whose id is `subject`. Raises `DeliveryError`."""

    def interrupt(self) -> None:
        """End what is under way, if it can be ended."""


class Endpoint:
    """A URL that is requested, no redirect followed; its user and password go into a header (RFC 7617)."""

    def __init__(self, url: str, *, http: AnonymousHttp | None = None) -> None:
        parts = urlsplit(url)
        self._url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        self._headers: Mapping[str, str] = {}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers = {"Authorization": f"Basic {b64encode(login).decode()}"}
        self._http = http or AnonymousHttp(timeout=HTTP_SECONDS)

    def request(
        self, method: str, *, headers: Mapping[str, str] | None = None, content: bytes | None = None
    ) -> None:
        """Send a request. Raises `DeliveryError` unless the answer is a success (RFC 9110, 15.3)."""
        try:
            answer = self._http.fetch(
                self._url,
                method=method,
                headers={**self._headers, **(headers or {})},
                content=content,
                max_body=MAX_ANSWER,
            )
        except StorageError as exc:
            cause = f" ({exc.__cause__})" if exc.__cause__ is not None and exc.code == "connection" else ""
            raise DeliveryError(_REASONS.get(exc.code, exc.code) + cause) from None
        if 300 <= answer.status < 400:
            raise DeliveryError(f"it answered {answer.status}; redirects are not followed")
        if not 200 <= answer.status < 300:
            raise DeliveryError(f"it answered {answer.status}")


class Webhook:
    """Receives events as signed JSON. `clock` gives the seconds since the epoch."""

    batch = 16
    seconds = HTTP_SECONDS

    def __init__(self, url: str, secret: str | None, *, clock: Callable[[], float] = time.time) -> None:
        self._endpoint = Endpoint(url)
        self._secret = secret
        self._clock = clock

    def deliver(self, subject: str, payload: str) -> None:
        """Post an event."""
        content = payload.encode()
        headers = {"Content-Type": "application/json", "X-Video-Uploader-Delivery": subject}
        if self._secret is not None:
            headers[SIGNATURE] = signature(self._secret, int(self._clock()), content)
        self._endpoint.request("POST", headers=headers, content=content)

    def interrupt(self) -> None:
        """Do nothing: a request ends within `HTTP_SECONDS`."""


def signature(secret: str, timestamp: int, content: bytes) -> str:
    """Who sent `content`, and when, as a header: HMAC-SHA256 (RFC 2104) of ``timestamp.content``."""
    signed = hmac.new(secret.encode(), b"%d." % timestamp + content, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={signed}"


class Command:
    """Receives events as JSON on its standard input; an exit status other than 0 is a failed attempt.

    `text` is split as a shell splits words; there is no shell.
    """

    batch = 1

    def __init__(self, name: str, text: str, *, seconds: float = COMMAND_SECONDS) -> None:
        self.seconds = seconds
        self._name = name
        self._words = shlex.split(text)
        self._running: subprocess.Popen[bytes] | None = None
        self._is_interrupted = False

    def deliver(self, subject: str, payload: str) -> None:
        """Run the command with an event."""
        # systemd's protocol is the daemon's own.
        ours = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
        environment = {name: value for name, value in os.environ.items() if name not in ours}
        output, its_output = os.pipe()
        try:
            with open(os.memfd_create(self._name), "w+b") as given:
                given.write(payload.encode())
                given.seek(0)
                process = subprocess.Popen(  # noqa: S603 - the operator's own setting
                    self._words,
                    stdin=given,
                    stdout=its_output,
                    stderr=its_output,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as exc:
            os.close(output)
            raise DeliveryError(f"{self._words[0]} cannot be run: {exc.strerror}") from None
        finally:
            os.close(its_output)
        self._running = process
        if self._is_interrupted:
            self.interrupt()
        try:
            said = self._follow(process, output)
        finally:
            self._running = None
        log.info("hook_ended", channel=self._name, id=subject, status=process.returncode, output=said)
        if process.returncode != 0:
            status = process.returncode
            how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with {status}"
            raise DeliveryError(f"it {how}: {said}" if said else f"it {how}")

    def interrupt(self) -> None:
        """Ask the command to end; it is run again after the next start."""
        self._is_interrupted = True
        process = self._running
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)

    def _follow(self, process: subprocess.Popen[bytes], output: int) -> str:
        """Wait for the end of the command; returns the last line of its output, and closes that."""
        ended, tail = os.pidfd_open(process.pid), b""
        # Not select(2), which takes no descriptor above 1,023.
        poll = select.poll()
        poll.register(output, select.POLLIN)
        poll.register(ended, select.POLLIN)
        deadline = time.monotonic() + self.seconds
        try:
            while True:
                # What has been written is read first; a process that is left behind may keep it open.
                ready = dict(poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))))
                if time.monotonic() >= deadline:
                    raise DeliveryError(f"it had not ended after {self.seconds:.0f} seconds and was killed")
                if output in ready:
                    block = os.read(output, 65536)
                    tail = (tail + block)[-OUTPUT_BYTES:]
                    if not block:
                        poll.unregister(output)
                elif ended in ready:
                    break
            process.wait()
        finally:
            os.close(ended)
            os.close(output)
            if process.returncode is None:
                self._kill(process)
        lines = tail.decode("utf-8", "replace").strip().splitlines()
        return redact(printable(lines[-1]))[:MAX_LINE] if lines else ""

    @staticmethod
    def _kill(process: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Trouble:
    """Logs that a receiver fails: the first time at once, then every quarter of an hour, and the end."""

    def __init__(self, channel: str, clock: Callable[[], float]) -> None:
        self._channel = channel
        self._clock = clock
        self.failures = 0
        """How many attempts have failed since the last success."""
        self.reason = ""
        self._began_at = self._logged_at = 0.0

    def failed(self, reason: str) -> None:
        """Note a failed attempt."""
        self.failures += 1
        self.reason = reason
        now = self._clock()
        if self.failures == 1:
            self._began_at = self._logged_at = now
            log.warning("notification_failed", channel=self._channel, reason=reason)
        elif now - self._logged_at >= SUMMARY_SECONDS:
            self._logged_at = now
            log.warning("notifications_failing", channel=self._channel, reason=reason, **self._counts(now))

    def succeeded(self) -> None:
        """Note a success."""
        if self.failures:
            log.info("notifications_resumed", channel=self._channel, **self._counts(self._clock()))
        self.failures, self.reason = 0, ""

    def _counts(self, now: float) -> dict[str, int]:
        return {"seconds": round(now - self._began_at), "failures": self.failures}


class Heartbeat(Worker):
    """Fetches a URL once a minute while all is well; the monitor behind it alerts when that ends.

    `report` says whether it is. A report holds for `FRESH_SECONDS`, so that a main thread that hangs is
    noticed, too. `clock` gives monotonic seconds.
    """

    def __init__(
        self, url: str, *, supervisor: Supervisor, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(supervisor, "heartbeat thread")
        self._endpoint = Endpoint(url)
        self._clock = clock
        self._well_at = self._due_at = float("-inf")
        self.trouble = Trouble("heartbeat", clock)
        self.add_thread("heartbeat", self.step, patience=2 * HEARTBEAT_SECONDS)

    def report(self, *, is_well: bool) -> None:
        """Note whether all is well now."""
        had_been = self._is_well
        self._well_at = self._clock() if is_well else float("-inf")
        if is_well and not had_been:
            self.wake()

    @property
    def _is_well(self) -> bool:
        return self._clock() - self._well_at < FRESH_SECONDS

    def step(self) -> float:
        """Fetch the URL if it is time for it and all is well; returns the seconds until the next call."""
        now = self._clock()
        if now < self._due_at:
            return self._due_at - now
        if not self._is_well:
            return HEARTBEAT_SECONDS
        self._due_at = now + HEARTBEAT_SECONDS
        try:
            self._endpoint.request("GET")
        except DeliveryError as exc:
            self.trouble.failed(str(exc))
        else:
            self.trouble.succeeded()
        return max(0.0, self._due_at - self._clock())
