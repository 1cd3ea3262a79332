"""One S3 client of the CRT for the process, and what all uploads share: connections, memory, bandwidth."""

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import structlog
from awscrt.auth import AwsCredentials, AwsCredentialsProvider
from awscrt.io import ClientTlsContext, TlsConnectionOptions, TlsContextOptions
from awscrt.s3 import S3Client, S3RequestTlsMode, S3RetryConfig, create_default_s3_signing_config
from botocore.credentials import ReadOnlyCredentials

from storage.aws.clients import CONNECT_TIMEOUT_SECONDS, Access
from storage.aws.errors import CERTIFICATE_HINT
from storage.aws.trust import Trust
from storage.config import StorageConfig
from storage.errors import ErrorKind, StorageError, UploadCancelledError
from storage.source_file import never
from storage.transfer.bandwidth import Bandwidth
from storage.transfer.buffer_pool import BufferPool
from storage.transfer.crt_request import CrtRequest, Request, http_request, nothing
from storage.transfer.part_layout import SMALLEST_PART
from storage.transfer.tcp_connections import Connections

_log: structlog.stdlib.BoundLogger = structlog.get_logger("storage")

REQUEST_SECONDS = 30.0
"""How long an answer to a request without a body may take."""
POLL_SECONDS = 0.1
"""How often a thread that waits asks whether it is to stop."""
OVERLOADED = frozenset({"SlowDown", "ServiceUnavailable", "http-503", "http-429", "RequestLimitExceeded"})
"""Error codes by which servers ask for fewer requests at once."""

_GBPS_PER_CONNECTION = 0.4
"""The CRT opens ten connections for up to 2 Gbit/s, and then one for each so much of its target."""
_FEWEST_GBPS = 2.0


class CrtClient:
    """Carries out requests for one configuration. Safe for threads."""

    def __init__(self, config: StorageConfig) -> None:
        self.access = Access(config)
        self.slots = BufferPool(
            max(config.parts_in_flight, config.uploads), config.parts_in_flight * SMALLEST_PART
        )
        self.bandwidth = Bandwidth(config.max_bandwidth)
        self.conditions_supported = True
        self.stall_seconds = config.stall_seconds
        self._config = config
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        self._credentials = _Credentials(self.access)
        self._trusted = False
        _ = self.access.client  # settings that cannot work are to be named at once

    def close(self) -> None:
        """Drop the client, which then closes its connections."""
        with self._lock:
            self._client = None
        self.access.close()

    def set_bandwidth(self, bytes_per_second: float | None) -> None:
        """Change the limit over all uploads, also of the requests under way."""
        self.bandwidth.set_rate(bytes_per_second)
        if self._client is not None:
            self.connections.pace(bytes_per_second)

    @property
    def connections(self) -> Connections:
        """This process's connections to the server."""
        return self._connections

    def start(
        self, request: Request, done: Callable[[CrtRequest], None], read: Callable[[], None] = nothing
    ) -> CrtRequest:
        """Send a request off; `done` is called in another thread when its outcome is known.

        `read` is called before, in another thread, when the memory of the body is needed no longer.
        Raises `StorageError` where there are no credentials, or no way to the server that could be trusted.
        """
        client = self._ready_client(request)
        path = f"{self._path}/{quote(request.key, safe='/~')}"
        http = http_request(self._host, path, request, self._common_headers(), read)
        if request.body and (rate := self.bandwidth.rate) is not None:
            self.connections.pace(rate)
        return CrtRequest(client, request, http, done)

    def call(
        self, request: Request, *, seconds: float = REQUEST_SECONDS, cancelled: Callable[[], bool] = never
    ) -> Mapping[str, Any]:
        """Send a request without a body to speak of, and wait for the answer.

        Raises `StorageError` for what is no success, and for no answer in so many seconds.
        """
        mailbox: queue.SimpleQueue[CrtRequest] = queue.SimpleQueue()
        generation = self.slots.generation
        exchange = self.start(request, mailbox.put)
        started = time.monotonic()
        while True:
            try:
                mailbox.get(timeout=POLL_SECONDS)
                break
            except queue.Empty:
                pass
            if cancelled():
                exchange.cancel()
                raise UploadCancelledError(operation=request.doing, key=request.key)
            if time.monotonic() - started > seconds or self.is_stalled(started):
                exchange.cancel()
                raise _silent(request)
        return self.answer_of(exchange, generation)

    def answer_of(self, exchange: CrtRequest, generation: int) -> Mapping[str, Any]:
        """The answer to a request that is done; lowers the concurrency if the server asks for that.

        `generation` is that of the slots when the request was started.
        """
        try:
            return exchange.answer()
        except StorageError as exc:
            if exc.code in OVERLOADED and self.slots.slow_down(generation):
                _log.warning("concurrency_lowered", code=exc.code, concurrency=self.slots.limit)
            if exc.code == "connection":
                self._trusted = False
            raise

    def is_stalled(self, since: float) -> bool:
        """Whether no byte has moved on any connection for too long, for a request sent at `since`."""
        patience = self.stall_seconds
        now = time.monotonic()
        if now - since <= patience:
            self.connections.last_moved(min(1.0, patience / 4))
            return False
        return now - max(since, self.connections.last_moved(min(1.0, patience / 4))) > patience

    def _common_headers(self) -> tuple[tuple[str, str], ...]:
        owner = self._config.expected_bucket_owner
        return () if owner is None else (("x-amz-expected-bucket-owner", owner),)

    def _ready_client(self, request: Request) -> S3Client:
        try:
            self._credentials.refresh()
            with self._lock:
                if self._client is None:
                    self._client = self._make_client()
                client = self._client
            self._require_trust()
        except StorageError as exc:
            raise StorageError(exc.kind, request.doing, request.key, exc.code, exc.hint) from exc
        return client

    def _make_client(self) -> S3Client:
        address = urlsplit(self.access.bucket_url)
        self._host = address.netloc
        self._path = address.path.rstrip("/")
        self._hostname = address.hostname or ""
        secure = address.scheme == "https"
        self._port = address.port or (443 if secure else 80)
        self._connections = Connections(self._port)
        self._trusted = not secure
        region = self._config.region
        provider = AwsCredentialsProvider.new_delegate(self._credentials)
        return S3Client(
            region=region,
            signing_config=create_default_s3_signing_config(region=region, credential_provider=provider),
            tls_mode=S3RequestTlsMode.ENABLED if secure else S3RequestTlsMode.DISABLED,
            tls_connection_options=_tls_options(self.access.trust) if secure else None,
            throughput_target_gbps=max(_FEWEST_GBPS, self._config.connections * _GBPS_PER_CONNECTION),
            # The fewest there can be: 0 means its default of 5. Patience is ours.
            retry_config=S3RetryConfig(max_retries=1, backoff_scale_factor_ms=100, max_backoff_secs=1),
            connect_timeout_ms=CONNECT_TIMEOUT_SECONDS * 1000,
        )

    def _require_trust(self) -> None:
        """Raise unless the server's certificate is trusted, or nothing can be said about it now.

        The CRT takes most of a minute to find that out and then does not say it apart from other broken
        handshakes.
        """
        if self._trusted:
            return
        context = self.access.trust.context()
        try:
            with (
                socket.create_connection((self._hostname, self._port), CONNECT_TIMEOUT_SECONDS) as connection,
                context.wrap_socket(connection, server_hostname=self._hostname),
            ):
                self._trusted = True
        except ssl.SSLCertVerificationError as exc:
            raise StorageError(
                ErrorKind.ENVIRONMENT, "connect", None, "untrusted-certificate", CERTIFICATE_HINT
            ) from exc
        except OSError as exc:
            _log.debug("handshake_failed", reason=str(exc))


class _Credentials:
    """Credentials for the CRT, which asks in a thread where nothing may fail and nobody may wait."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._current: ReadOnlyCredentials | None = None

    def refresh(self) -> None:
        """Find credentials that are valid now; raises `StorageError`."""
        self._current = self._access.credentials()

    def __call__(self) -> AwsCredentials:
        current = self._current or self._access.credentials()
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


def _silent(request: Request) -> StorageError:
    return StorageError(
        ErrorKind.TRANSIENT,
        request.doing,
        request.key,
        "timeout",
        "The server has not answered in time. It is tried again by itself.",
    )


_engines: dict[Hashable, tuple[CrtClient, int]] = {}
_engines_lock = threading.Lock()


def borrow_crt_client(config: StorageConfig) -> CrtClient:
    """The process's engine for `config`, made if need be. Give it back with `return_crt_client`."""
    with _engines_lock:
        engine, users = _engines.get(_identity(config), (None, 0))
        if engine is None:
            engine = CrtClient(config)
        _engines[_identity(config)] = (engine, users + 1)
        return engine


def return_crt_client(config: StorageConfig) -> None:
    """Say that one borrower needs the engine for `config` no longer; the last one closes it."""
    with _engines_lock:
        engine, users = _engines.pop(_identity(config))
        if users > 1:
            _engines[_identity(config)] = (engine, users - 1)
            return
    engine.close()


def _identity(config: StorageConfig) -> Hashable:
    """What has to be equal for two stores to share an engine: everything, tags being a mapping."""
    return tuple(
        frozenset(value.items()) if isinstance(value, Mapping) else value
        for value in (getattr(config, name) for name in StorageConfig.__slots__)
    )
