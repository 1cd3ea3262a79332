"""HTTP requests without the credentials of S3, as players and webhooks make them."""

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urljoin

from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager, Timeout
from urllib3.exceptions import HTTPError, LocationValueError, NewConnectionError, ProxyError
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

from storage.aws.bounded_answers import HEADER_BYTES, AnswerTooLargeError, bounded_pools
from storage.aws.errors import cause_of, certificate_error
from storage.aws.proxies import AUTHENTICATION_REQUIRED, proxy_error, proxy_for, refusal
from storage.aws.sessions import BoundedSession
from storage.aws.trust import Trust
from storage.errors import ErrorKind, StorageError

TIMEOUT_SECONDS = 10.0
MAX_BODY_BYTES = 1 << 20

OPERATION = "fetch without credentials"
WRONG_HOST = "check that CLOUDFRONT_DOMAIN or AWS_S3_BASE_URL leads to the bucket"

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: header names in lower case, and the start of the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class AnonymousHttp:
    """An HTTP client that sends no credentials. Safe for threads; keeps no connection and no cookie.

    `timeout` is in seconds, for a request as a whole: redirects, headers and body included.
    """

    def __init__(self, *, timeout: float = TIMEOUT_SECONDS) -> None:
        self._timeout = timeout

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """Trusts the authorities that the S3 clients trust, and those of the system.

        Raises `StorageError` of kind environment where the configured ones cannot be used.
        """
        return Trust(BoundedSession()).context(with_system=True)

    def fetch(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        max_redirects: int = 0,
        max_body: int = MAX_BODY_BYTES,
    ) -> Answer:
        """Send a request and return the answer, whatever its status, with at most `max_body` bytes of body.

        Redirects beyond `max_redirects`, and those to anything but http and https, are returned as answers.
        Raises `StorageError`: environment for a URL that cannot be fetched and for a certificate that is not
        trusted, transient where there is no answer.
        """
        _ = self.tls  # not part of the request
        deadline = time.monotonic() + self._timeout
        while True:
            answer = self._send(url, method, headers or {}, content, max_body, deadline)
            target = urljoin(url, answer.headers.get("location", "").replace(" ", "%20"))
            is_redirect = answer.status in _REDIRECTS and "location" in answer.headers
            if not is_redirect or not max_redirects or not _is_http(target):
                return answer
            max_redirects -= 1
            url = target

    def _send(
        self,
        url: str,
        method: str,
        headers: Mapping[str, str],
        content: bytes | None,
        max_body: int,
        deadline: float,
    ) -> Answer:
        if not _is_http(url):
            raise _no_url(url, "it begins with neither https:// nor http://")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise _no_url(url, "it is not percent-encoded")
        try:
            with (
                self._manager(url, deadline, max_body) as manager,
                manager.request(
                    method,
                    url,
                    body=content,
                    headers={"User-Agent": "video-uploader", "Connection": "close", **headers},
                    redirect=False,
                    retries=False,
                    preload_content=False,
                    timeout=Timeout(max(0.001, deadline - time.monotonic())),
                ) as response,
            ):
                if response.status == AUTHENTICATION_REQUIRED and (proxy := proxy_for(url)) is not None:
                    raise refusal(str(proxy), response.status, OPERATION, None)
                fields = {name.lower(): value for name, value in response.headers.items()}
                return Answer(response.status, fields, self._body(response, max_body))
        except LocationValueError as exc:
            raise _no_url(url, str(exc)) from exc
        except (HTTPError, OSError) as exc:
            raise _unreachable(exc, url) from exc

    def _manager(self, url: str, deadline: float, max_body: int) -> PoolManager:
        if (proxy := proxy_for(url)) is not None:
            manager: PoolManager = ProxyManager(
                f"{proxy.scheme}://{proxy.address}", proxy_headers=proxy.headers, ssl_context=self.tls
            )
        else:
            manager = PoolManager(ssl_context=self.tls)
        manager.pool_classes_by_scheme = bounded_pools(
            manager.pool_classes_by_scheme, deadline=lambda: deadline, limit=HEADER_BYTES + max_body
        )
        return manager

    def _body(self, response: BaseHTTPResponse, limit: int) -> bytes:
        body = b""
        while len(body) < limit:
            chunk = response.read1(limit - len(body), decode_content=False)
            if not chunk:
                break
            body += chunk
        return body


def _is_http(url: str) -> bool:
    return url.startswith(("https://", "http://"))


def _no_url(url: str, reason: str) -> StorageError:
    hint = f"{url!r} is no URL that can be fetched ({reason}): correct AWS_S3_BASE_URL."
    return StorageError(ErrorKind.ENVIRONMENT, OPERATION, None, "bad-settings", hint)


def _unreachable(error: HTTPError | OSError, url: str) -> StorageError:
    if (untrusted := certificate_error(error)) is not None:
        hint = (
            f"The certificate of {url} is not trusted ({untrusted.verify_message}): correct the certificate, "
            "or name its authority in AWS_CA_BUNDLE."
        )
        return StorageError(ErrorKind.ENVIRONMENT, OPERATION, None, "untrusted-certificate", hint)
    if (of_proxy := cause_of(error, ProxyError)) is not None:
        name = str(proxy_for(url) or "A proxy")
        return proxy_error(name, str(of_proxy.original_error), OPERATION, None)
    # A refused connection is a NewConnectionError, which urllib3 derives from its timeouts.
    timed_out = isinstance(error, (Urllib3TimeoutError, TimeoutError)) and not isinstance(
        error, NewConnectionError
    )
    code = "timeout" if timed_out else "connection"
    if cause_of(error, AnswerTooLargeError) is not None:
        code = "too-large-answer"
    hint = f"{url} could not be fetched ({error}): {WRONG_HOST}."
    return StorageError(ErrorKind.TRANSIENT, OPERATION, None, code, hint)
