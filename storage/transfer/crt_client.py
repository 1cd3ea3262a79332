"""The CRT's S3 client, with what all uploads of the process share: connections, buffers and bandwidth."""

import math
import queue
import ssl
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any
from urllib.parse import quote, urlsplit

import structlog
from awscrt.auth import AwsCredentials
from awscrt.http import HttpHeaders, HttpRequest
from awscrt.io import ClientTlsContext, TlsConnectionOptions, TlsContextOptions
from awscrt.s3 import S3Client, S3RequestTlsMode, S3RetryConfig
from botocore.credentials import ReadOnlyCredentials

from storage.aws.bounded_answers import MAX_ANSWER_BYTES
from storage.aws.clients import PATH_STYLE_REFUSALS, AwsSession
from storage.aws.errors import CERTIFICATE_HINT
from storage.aws.proxies import proxy_error
from storage.aws.sessions import CONNECT_TIMEOUT_SECONDS
from storage.aws.trust import Trust
from storage.config import StorageConfig
from storage.dialect import PATH_STYLE, ServerDialect
from storage.errors import OVERLOADED_CODES, ErrorKind, StorageError, UploadCancelledError
from storage.source_file import never_cancelled
from storage.transfer.bandwidth import Bandwidth
from storage.transfer.buffer_pool import BufferPool
from storage.transfer.crt_errors import of_proxy
from storage.transfer.crt_proxy import connect, inform_crt
from storage.transfer.crt_request import Body, CrtRequest, Request
from storage.transfer.crt_signers import Signer, take
from storage.transfer.part_layout import MIN_PART_SIZE, max_parts_of
from storage.transfer.tcp_connections import TcpConnections

_log: structlog.stdlib.BoundLogger = structlog.get_logger("storage")

REQUEST_SECONDS = 30.0
"""How long an answer to a request without a body may take at most."""
POLL_SECONDS = 0.2
"""How often a thread that waits for an answer looks at the line, and whether it is cancelled."""
PACE_POLL_SECONDS = 0.005
"""How often, under a bandwidth limit, new connections are looked for, which are not paced yet."""
SAMPLE_SECONDS = 1.0
"""How often the connections are looked at."""
IN_FLIGHT_SECONDS = 30.0
"""The bodies in flight are together no more than the line takes in this time, but for one that is alone."""
SLOW_BYTES_PER_SECOND = 512 * 1024
"""A line that takes less is called slow, and one that takes twice as much no longer is."""

_CANCEL_SECONDS = 5.0
"""How long the end of a cancelled request is waited for."""
_CUT_SECONDS = 5.0
"""A request that fails or is retried so soon after a connection was cut most likely was on it."""
_GBPS_PER_CONNECTION = 0.4
"""The CRT opens ten connections for up to 2 Gbit/s of its target, and one more for each of these."""
_MIN_GBPS = 2.0


class CrtClient:
    """Sends requests for one configuration. Safe for threads."""

    def __init__(self, config: StorageConfig) -> None:
        self.session = AwsSession(config)
        self.buffers = BufferPool(
            max(config.parts_in_flight, config.uploads), config.parts_in_flight * MIN_PART_SIZE
        )
        self.bandwidth = Bandwidth(config.max_bandwidth)
        self.dialect = ServerDialect(config.checksum)
        self.stall_seconds = config.stall_seconds
        self._config = config
        self.waiting: Callable[[], AbstractContextManager[None]] = nullcontext
        """The context in which a thread waits for an answer."""
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        self._credentials = _Credentials(self.session)
        self._trusted = False
        self._cuts: list[float] = []
        """When connections were cut whose requests are not known yet."""
        self._completions = 0
        """How many requests are in progress of which the server may be silent for minutes."""
        self.is_slow = False
        """Whether the line was slow at the last look: see `SLOW_BYTES_PER_SECOND`."""
        _ = self.session.client  # raises for settings that cannot work
        self.dialect.on_restored = self._adapt_address

    def close(self) -> None:
        """Drop the client, which then closes its connections."""
        with self._lock:
            self._client = None
        self.session.close()

    @property
    def max_parts(self) -> int:
        """How many parts of one upload the server takes, as far as that is known."""
        return self.dialect.max_parts(self._config.max_parts or max_parts_of(self._config.endpoint_url))

    def set_bandwidth(self, bytes_per_second: float | None) -> None:
        """Change the limit for all uploads together, including requests in flight."""
        self.bandwidth.set_rate(bytes_per_second)
        if self._client is not None:
            self.connections.pace(bytes_per_second)

    def start(
        self,
        request: Request,
        on_done: Callable[[CrtRequest], None],
        on_read: Callable[[], None] | None = None,
    ) -> CrtRequest:
        """Start a request; `on_done` is called in another thread when its outcome is known.

        `on_read` is called before, in another thread, when the memory of the body is no longer needed.
        Raises `StorageError` where there are no credentials or the server's certificate is not trusted.
        """
        client = self._ready_client(request)
        path = f"{self._address.path.rstrip('/')}/{quote(request.key, safe='/~')}"
        headers = [("Host", self._address.netloc), ("Content-Length", str(len(request.body)))]
        if self._config.expected_bucket_owner is not None:
            headers.append(("x-amz-expected-bucket-owner", self._config.expected_bucket_owner))
        http = HttpRequest(
            request.method,
            path + (f"?{request.query}" if request.query else ""),
            HttpHeaders([*headers, *request.headers]),
            Body(request.body, on_read) if request.body else None,
        )
        if request.body and (rate := self.bandwidth.rate) is not None:
            self.connections.pace(rate)
        return CrtRequest(
            client,
            request,
            http,
            on_done,
            self._config,
            sign=self._sign,
            was_cut=self._was_cut,
            observe=self.session.observe,
        )

    def call(
        self,
        request: Request,
        *,
        seconds: float = REQUEST_SECONDS,
        cancelled: Callable[[], bool] = never_cancelled,
    ) -> Mapping[str, Any]:
        """Send a request with a small body or none, and wait for the answer.

        Raises `StorageError` for anything but a success, and where there is no answer within `seconds`.
        """
        takes_long = seconds > REQUEST_SECONDS
        if takes_long:
            with self._lock:
                self._completions += 1
        try:
            return self._call(request, seconds, cancelled)
        except StorageError as exc:
            if not self.is_readdressed(exc):
                raise
            return self._call(request, seconds, cancelled)
        finally:
            if takes_long:
                with self._lock:
                    self._completions -= 1

    def _call(self, request: Request, seconds: float, cancelled: Callable[[], bool]) -> Mapping[str, Any]:
        def watch(started: float) -> None:
            if cancelled():
                raise UploadCancelledError(operation=request.purpose, key=request.key)
            if time.monotonic() - started > seconds or self.is_stalled(started):
                raise self.stalled(request)

        return self.exchange(request, watch)

    def exchange(
        self,
        request: Request,
        watch: Callable[[float], None],
        on_read: Callable[[], None] | None = None,
    ) -> Mapping[str, Any]:
        """Send a request and wait for the answer, with nothing in between that the answer has to wait for.

        While there is none, `watch` is called every `POLL_SECONDS` with the time when the request was
        started, by the monotonic clock. What it raises cancels the request. `on_read` is as for `start`.
        Raises `StorageError` for anything but a success.
        """
        done: queue.SimpleQueue[CrtRequest] = queue.SimpleQueue()
        generation = self.buffers.generation
        sent = self.start(request, done.put, on_read)
        started = time.monotonic()
        try:
            while not self._is_done(sent, done, started):
                watch(started)
        except BaseException:
            self._cancel(sent, done)
            raise
        return self.answer_of(sent, generation)

    def _is_done(self, sent: CrtRequest, done: "queue.SimpleQueue[CrtRequest]", started: float) -> bool:
        """Whether a request ends within `POLL_SECONDS`. Raises `StorageError` if its connection was cut."""
        rate = self.bandwidth.rate if sent.request.body else None
        is_new = rate is not None and time.monotonic() - started < POLL_SECONDS
        try:
            with self.waiting():
                done.get(timeout=PACE_POLL_SECONDS if is_new else POLL_SECONDS)
        except queue.Empty:
            if rate is not None:
                self.connections.pace(rate)  # connections that are new
            return False
        if sent.is_stalled:
            raise self.stalled(sent.request)
        return True

    def _cancel(self, sent: CrtRequest, done: "queue.SimpleQueue[CrtRequest]") -> None:
        """Cancel a request, wait for its end, and free its memory."""
        if sent.request.body:
            self.connections.discard_unsent()
        sent.cancel()
        deadline = time.monotonic() + _CANCEL_SECONDS
        with suppress(queue.Empty):
            while not sent.is_done:
                done.get(timeout=max(0.0, deadline - time.monotonic()))
        sent.forget()

    def await_bandwidth(self, started: float, length: int, cancelled: Callable[[], bool]) -> None:
        """Wait until the limit has paid for a body of this length, even if the line was faster."""
        while (rate := self.bandwidth.rate) is not None and not cancelled():
            left = started + length / rate - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, POLL_SECONDS))

    def is_readdressed(self, error: StorageError) -> bool:
        """Whether a request was refused for its addressing style, and goes to another address by now."""
        return error.code in PATH_STYLE_REFUSALS and not self.dialect.takes(PATH_STYLE)

    def _adapt_address(self) -> None:
        """Put the bucket into the host name if the server refuses it in the path."""
        if self.dialect.takes(PATH_STYLE) or self._config.addressing != "auto":
            return
        with self._lock:
            self.session.use_virtual_addresses()
            if self._client is not None:
                self._address = urlsplit(self.session.bucket_url)
                self._trusted = False

    def answer_of(self, request: CrtRequest, generation: int) -> Mapping[str, Any]:
        """The answer to a request that is done; lowers the concurrency if the server asks for that.

        `generation` is that of the buffer pool when the request was started.
        """
        try:
            return request.answer()
        except StorageError as exc:
            self.session.credential_chain.note_refusal(exc.code, exc.status)
            if exc.code in OVERLOADED_CODES and self.buffers.slow_down(generation):
                _log.warning("concurrency_lowered", code=exc.code, concurrency=self.buffers.limit)
            if exc.code == "connection":
                self._trusted = False
            if exc.code in PATH_STYLE_REFUSALS and self._config.addressing == "auto":
                self.dialect.learn(PATH_STYLE, exc.said)
                self._adapt_address()
            if exc.code == "connection" and self._was_cut():
                raise self.stalled(request.request) from exc
            if self._proxy is not None and (reason := of_proxy(exc.__cause__)):
                self._trusted = False
                raise proxy_error(str(self._proxy), reason, exc.operation, exc.key) from exc
            raise

    def is_stalled(self, since: float) -> bool:
        """Whether a request sent at `since` stalls because no byte has moved on any connection for too long.

        Cuts the connections on which an answer does not end, and those on which no byte has moved for too
        long while others move; `CrtRequest.is_stalled` is then true of the requests on them.
        """
        if self.connections.cut_endless_answers(MAX_ANSWER_BYTES):
            _log.warning("answer_endless", limit=MAX_ANSWER_BYTES)
        active_at = self.last_activity()
        now = time.monotonic()
        if now - max(since, active_at) > self.stall_seconds:
            return True
        if now - since > self.stall_seconds:
            cut = self.connections.cut_stalled(self.stall_seconds, spare_waiting=self._completions > 0)
            with self._lock:
                self._cuts += [now] * cut
            if cut:
                _log.warning("connection_stalled", connections=cut, seconds=self.stall_seconds)
        return False

    def stalled(self, request: Request) -> StorageError:
        """The error about a request of which no byte moved for too long, or that was not answered in time."""
        code, hint = "timeout", "The server has not answered in time. It is tried again."
        if request.body:
            code = "stalled"
            hint = f"No byte was accepted for {self.stall_seconds:g} seconds. It is tried again."
        return StorageError(ErrorKind.TRANSIENT, request.purpose, request.key, code, hint)

    def _was_cut(self) -> bool:
        """Whether a connection was just cut whose request is not known yet; it is from now on."""
        with self._lock:
            oldest = time.monotonic() - _CUT_SECONDS
            self._cuts = [cut_at for cut_at in self._cuts if cut_at >= oldest]
            return bool(self._cuts) and bool(self._cuts.pop())

    def last_activity(self) -> float:
        """When, by the monotonic clock, bytes of any request were last seen to move, in either direction.

        Measures the line, too, and adapts how much may be in flight.
        """
        if self._client is None:
            return float("-inf")
        active_at = self.connections.last_activity(min(SAMPLE_SECONDS, self.stall_seconds / 4))
        rate = self.rate
        self.buffers.set_budget(math.inf if rate is None else rate * IN_FLIGHT_SECONDS)
        self._note_speed()
        return active_at

    @property
    def moved(self) -> int:
        """How many bytes of requests the server had acknowledged at the last look."""
        return 0 if self._client is None else self.connections.moved

    @property
    def rate(self) -> float | None:
        """Bytes per second that the line and the bandwidth limit allow all uploads; None while unknown."""
        rates = [self.bandwidth.rate, None if self._client is None else self.connections.rate]
        return min((rate for rate in rates if rate is not None), default=None)

    def _note_speed(self) -> None:
        """Log that the line has become slow, or no longer is; the bandwidth limit is not the line's fault."""
        rate, limit = self.connections.rate, self.bandwidth.rate
        if rate is None or (limit is not None and limit <= 2 * SLOW_BYTES_PER_SECOND):
            return
        with self._lock:
            was_slow = self.is_slow
            self.is_slow = rate < SLOW_BYTES_PER_SECOND * (2 if was_slow else 1)
        if self.is_slow and not was_slow:
            _log.warning("line_slow", bytes_per_second=round(rate))
        elif was_slow and not self.is_slow:
            _log.info("line_recovered", bytes_per_second=round(rate))

    def _ready_client(self, request: Request) -> S3Client:
        try:
            self._credentials.refresh()
            with self._lock:
                if self._client is None:
                    self._client = self._make_client()
                client = self._client
            self._require_trust()
        except StorageError as exc:
            raise StorageError(exc.kind, request.purpose, request.key, exc.code, exc.hint) from exc
        return client

    def _make_client(self) -> S3Client:
        address = self._address = urlsplit(self.session.bucket_url)
        secure = address.scheme == "https"
        self._port = address.port or (443 if secure else 80)
        self._proxy = inform_crt(self.session.bucket_url)
        self.connections = TcpConnections(self._port if self._proxy is None else self._proxy.port)
        return S3Client(
            region=self._config.region,
            tls_mode=S3RequestTlsMode.ENABLED if secure else S3RequestTlsMode.DISABLED,
            tls_connection_options=_tls_options(self.session.trust) if secure else None,
            throughput_target_gbps=max(_MIN_GBPS, self._config.connections * _GBPS_PER_CONNECTION),
            # 1 is the minimum: 0 means the default of 5. Further retries are the caller's decision.
            retry_config=S3RetryConfig(max_retries=1, backoff_scale_factor_ms=100, max_backoff_secs=1),
            connect_timeout_ms=CONNECT_TIMEOUT_SECONDS * 1000,
        )

    def _sign(self, on_attempt: Callable[[], None]) -> Signer:
        def credentials() -> AwsCredentials:
            on_attempt()
            return self._credentials()

        return take(self._config.region, credentials)

    def _require_trust(self) -> None:
        """Raise if the server's certificate is not trusted, or the proxy does not let this machine through.

        Other failures are left to the request itself. The CRT takes most of a minute to fail and does not
        tell one from the other.
        """
        if self._trusted or self._address.scheme != "https":
            return
        if self._proxy is not None and self._proxy.scheme == "https":
            return  # Python's ssl has no TLS within TLS
        hostname = self._address.hostname or ""
        context = self.session.trust.context()
        try:
            with (
                connect(self._proxy, hostname, self._port, CONNECT_TIMEOUT_SECONDS) as connection,
                context.wrap_socket(connection, server_hostname=hostname),
            ):
                self._trusted = True
        except ssl.SSLCertVerificationError as exc:
            code = "untrusted-certificate"
            raise StorageError(ErrorKind.ENVIRONMENT, "connect", None, code, CERTIFICATE_HINT) from exc
        except OSError as exc:
            _log.debug("handshake_failed", reason=str(exc))


class _Credentials:
    """Credentials for the CRT, which asks for them in a thread that must not block or fail."""

    def __init__(self, session: AwsSession) -> None:
        self._session = session
        self._current: ReadOnlyCredentials | None = None

    def refresh(self) -> None:
        """Load credentials that are valid now; raises `StorageError`."""
        self._current = self._session.credentials()

    def __call__(self) -> AwsCredentials:
        current = self._current or self._session.credentials()
        return AwsCredentials(current.access_key, current.secret_key, current.token)


def _tls_options(trust: Trust) -> TlsConnectionOptions:
    """TLS that trusts what boto3 trusts. Raises `StorageError` for unusable authorities."""
    options = TlsContextOptions()
    # Unlike OpenSSL, the CRT refuses a file that holds anything but certificates.
    options.override_default_trust_store(trust.certificates.encode("ascii"))
    try:
        return ClientTlsContext(options).new_connection_options()
    except RuntimeError as exc:  # what the CRT's constructors raise
        raise trust.unusable(str(exc)) from exc


_clients: dict[Hashable, tuple[CrtClient, int]] = {}
_clients_lock = threading.Lock()


def acquire_crt_client(config: StorageConfig) -> CrtClient:
    """The process's client for `config`, created for its first user. Pair with `release_crt_client`."""
    with _clients_lock:
        client, users = _clients.get(_identity(config), (None, 0))
        if client is None:
            client = CrtClient(config)
        _clients[_identity(config)] = (client, users + 1)
        return client


def release_crt_client(config: StorageConfig) -> None:
    """Give up one use of the client for `config`; the last one closes it."""
    with _clients_lock:
        client, users = _clients.pop(_identity(config))
        if users > 1:
            _clients[_identity(config)] = (client, users - 1)
            return
    client.close()


def _identity(config: StorageConfig) -> Hashable:
    """What two configurations must have in common to share a client: every value."""
    return tuple(
        frozenset(value.items()) if isinstance(value, Mapping) else value
        for value in (getattr(config, name) for name in StorageConfig.__slots__)
    )
