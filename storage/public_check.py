"""Can players fetch it? The one question that is asked without credentials, as they ask it.

A first byte is fetched with a range (RFC 9110, section 14), so that it costs nothing whatever the size; the
answer's Content-Range tells how long the whole is.
"""

import http.client
import re
import ssl
from collections.abc import Mapping
from email.message import Message
from urllib.error import HTTPError, URLError
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from storage.errors import ErrorKind, StorageError

TIMEOUT_SECONDS = 10.0
"""For connecting and for every read."""

THREE_WAYS = (
    "Make it public in one of three ways: AWS_S3_ACL=public-read on a bucket that has ACLs enabled and does "
    "not block them; AWS_S3_ACL=none with a bucket policy that lets everyone s3:GetObject below "
    "AWS_S3_VIDEOS_PREFIX; or CLOUDFRONT_DOMAIN with a distribution that may read the bucket."
)

_OPERATION = "fetch without credentials"
_WHERE = "check that CLOUDFRONT_DOMAIN or AWS_S3_BASE_URL leads to the bucket"
_CONTENT_RANGE = re.compile(r"bytes (?:0-0|\*)/(\d+)")
_REFUSALS: Mapping[int, str] = {
    401: "not-public",
    403: "not-public",
    404: "not-found",
    410: "not-found",
}


class PublicCheck:
    """Fetches public URLs the way players do. Safe for threads; keeps no connection.

    `ca_bundle` names a file of certificate authorities to trust besides those of the system; `StorageError`
    if it is none.
    """

    def __init__(self, *, timeout: float = TIMEOUT_SECONDS, ca_bundle: str | None = None) -> None:
        self._timeout = timeout
        trust = _trust(ca_bundle)
        self._opener = OpenerDirector()
        # Not `build_opener`, which would also read files and FTP servers for a URL that says so.
        for handler in (
            ProxyHandler(),
            HTTPHandler(),
            HTTPSHandler(context=trust),
            HTTPRedirectHandler(),
            HTTPErrorProcessor(),
            HTTPDefaultErrorHandler(),
            UnknownHandler(),
        ):
            self._opener.add_handler(handler)

    def require(self, url: str, *, key: str, size: int, content_type: str) -> None:
        """Raise `StorageError` unless `url` gives everyone `size` bytes of the media type `content_type`.

        Environment for 401, 403 and 404, for which the operator has to do something; transient for whatever
        else is not as it should be, an older object in a cache among it. `key` is the object's, for messages.
        """
        status, headers = self._first_byte(url, key)
        if refusal := _REFUSALS.get(status):
            hint = f"{url} answered {status} to a request without credentials. {THREE_WAYS} Also {_WHERE}."
            raise StorageError(ErrorKind.ENVIRONMENT, _OPERATION, key, refusal, hint)
        total = _total(status, headers)
        if total is None:
            hint = f"{url} answered {status} to a request without credentials and told no length: {_WHERE}."
            raise _not_yet(key, f"http-{status}", hint)
        if total != size:
            raise _not_yet(key, "public-length", f"{url} gives {total} bytes and the object has {size}.")
        served = headers.get_content_type() if "Content-Type" in headers else "no type"
        # A file without a byte has no part to give; what answers then is about the refusal, not the file.
        if status != http.client.REQUESTED_RANGE_NOT_SATISFIABLE and served != content_type.lower():
            raise _not_yet(key, "public-type", f"{url} is served as {served} and should be {content_type}.")

    def _first_byte(self, url: str, key: str) -> tuple[int, Message]:
        """Status and headers of the answer to a request for the first byte; its body is not waited for."""
        if not url.startswith(("https://", "http://")):
            raise _no_url(url, key, "it begins with neither https:// nor http://")
        try:
            headers = {"Range": "bytes=0-0", "User-Agent": "video-uploader"}
            request = Request(url, headers=headers)  # noqa: S310  # the opener knows http and https alone
            with self._opener.open(request, timeout=self._timeout) as answer:
                return answer.status, answer.headers
        except HTTPError as exc:
            with exc:
                return exc.code, exc.headers
        except URLError as exc:
            raise _unreachable(exc.reason, url, key) from exc
        except (http.client.InvalidURL, UnicodeError) as exc:
            raise _no_url(url, key, str(exc)) from exc
        except (OSError, http.client.HTTPException) as exc:
            raise _unreachable(exc, url, key) from exc


def _trust(ca_bundle: str | None) -> ssl.SSLContext:
    trust = ssl.create_default_context()
    if ca_bundle is not None:
        try:
            trust.load_verify_locations(ca_bundle)
        except OSError as exc:
            hint = (
                f"AWS_CA_BUNDLE names {ca_bundle}, which cannot be used ({exc.strerror or exc}): correct it."
            )
            raise StorageError(ErrorKind.ENVIRONMENT, _OPERATION, None, "bad-settings", hint) from exc
    return trust


def _total(status: int, headers: Message) -> int | None:
    """The length in bytes of the whole that an answer is a part of; None if it does not tell."""
    match status:
        case http.client.PARTIAL_CONTENT | http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            told = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
            return int(told[1]) if told else None
        case http.client.OK:
            # A server that knows no ranges gives the whole, whose length it tells (if it is not chunked).
            length = headers.get("Content-Length", "")
            return int(length) if length.isdecimal() else None
        case _:
            return None


def _no_url(url: str, key: str, reason: str) -> StorageError:
    hint = f"{url!r} is no URL that can be fetched ({reason}): correct AWS_S3_BASE_URL."
    return StorageError(ErrorKind.ENVIRONMENT, _OPERATION, key, "bad-settings", hint)


def _not_yet(key: str, code: str, hint: str) -> StorageError:
    return StorageError(ErrorKind.TRANSIENT, _OPERATION, key, code, f"{hint} It is asked again.")


def _unreachable(reason: object, url: str, key: str) -> StorageError:
    if isinstance(reason, ssl.SSLCertVerificationError):
        hint = (
            f"{url}: {reason.verify_message}. Mend the certificate, or name its authority in AWS_CA_BUNDLE."
        )
        return StorageError(ErrorKind.ENVIRONMENT, _OPERATION, key, "untrusted-certificate", hint)
    code = "timeout" if isinstance(reason, TimeoutError) else "connection"
    return _not_yet(key, code, f"{url} could not be fetched ({reason}); {_WHERE}.")
