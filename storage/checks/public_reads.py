"""What players meet: the public URL, a browser's preflight request, and the CDN."""

import http.client
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from storage.anonymous_http import OPERATION, TIMEOUT_SECONDS, WRONG_HOST, AnonymousHttp, Answer
from storage.aws.errors import PUBLIC_MODES
from storage.checks.results import CheckResult, Outcome, failed, not_tried, ok, warning
from storage.config import StorageConfig
from storage.errors import ErrorKind, StorageError
from storage.keys import public_url

_ORIGIN = "https://player.example"
_METHOD = "GET"
_MAX_REDIRECTS = 10
_CONTENT_RANGE = re.compile(r"bytes (?:0-0|\*)/(\d+)")
_REFUSALS: Mapping[int, str] = {
    401: "not-public",
    403: "not-public",
    404: "not-found",
    410: "not-found",
}


class PublicReads:
    """Checks what players without credentials get of an existing object with known content."""

    def __init__(
        self,
        config: StorageConfig,
        key: str,
        content: bytes,
        *,
        cors_origins: tuple[str, ...],
        cdn_domain: str | None,
    ) -> None:
        self._config = config
        self._key = key
        self._content = content
        self._cors_origins = cors_origins
        self._cdn_domain = cdn_domain
        self._url = public_url(config.public_base_url, key)
        self._http = AnonymousHttp()
        self._was_refused = False
        """Whether the last answer was that the object may not be read."""
        self._is_elsewhere = False
        """Whether the public URL does not lead to the object, and so does not tell who may read it."""

    def url(self) -> CheckResult:
        """Whether the object's public URL serves its content."""
        result = self._fetch("public URL", self._url, PUBLIC_MODES)
        self._is_elsewhere = result.outcome is not Outcome.OK and not self._was_refused
        return result

    def acl(self, *, is_accepted: bool, is_public: bool) -> CheckResult:
        """Whether objects become public in the configured mode, or in another one."""
        acl = self._config.acl
        if self._is_elsewhere:
            return not_tried("ACL", "the public URL")
        if not is_public:
            sent = "None is sent" if acl is None else f"{acl} is {'accepted' if is_accepted else 'refused'}"
            return failed("ACL", f"{sent}, and the object is not public.", PUBLIC_MODES)
        if acl is None:
            return ok("ACL", "None is sent; the bucket's policy or a CDN makes the object public.")
        if is_accepted:
            return ok("ACL", f"{acl} is accepted.")
        return warning(
            "ACL",
            f"{acl} is refused, and the object is public anyway.",
            "Set AWS_S3_ACL=none: it is not needed.",
        )

    def cors(self) -> CheckResult:
        """Whether a browser lets scripts of every configured origin read ranges of the object."""
        refused = []
        for pattern in self._cors_origins:
            origin = _ORIGIN if pattern == "*" else pattern.replace("*", "player")
            try:
                answer = self._preflight(origin)
            except StorageError as exc:
                return failed("CORS", f"A preflight request for scripts of {origin} got no answer.", exc.hint)
            if not _allows(answer, origin):
                refused.append(origin)
        if refused:
            return failed(
                "CORS",
                f"Scripts of {', '.join(refused)} may not read objects.",
                "Run `video-uploader bucket setup`; where a CDN answers, let it pass Origin and OPTIONS on.",
            )
        return ok("CORS", f"Scripts of {', '.join(self._cors_origins)} may read objects.")

    def cdn(self) -> CheckResult:
        """Whether the CDN serves the object, if there is one."""
        if self._cdn_domain is None:
            return ok("CDN", "None is configured.")
        return self._fetch(
            "CDN",
            public_url(f"https://{self._cdn_domain}", self._key),
            "Make the bucket the distribution's origin, without an origin path, and let the "
            "distribution read it (origin access control, or a public bucket).",
        )

    def _fetch(self, name: str, url: str, remedy: str) -> CheckResult:
        try:
            answer = self._http.fetch(url)
        except StorageError as exc:
            self._was_refused = False
            return failed(name, f"{url} gives no answer.", exc.hint)
        self._was_refused = answer.status in {401, 403}
        if answer.status == 404:
            remedy = "Uploads do not go where the URL leads: check AWS_S3_BASE_URL and the CDN's origin."
        if answer.status != 200:
            return failed(name, f"{url} answers {answer.status} to a request without credentials.", remedy)
        if answer.body != self._content:
            return failed(name, f"{url} serves other content than was stored.", remedy)
        cache = answer.headers.get("x-cache")
        cache_status = f", {cache}" if cache else ""
        return ok(name, f"Everyone can read what is stored, at {urlsplit(url).netloc}{cache_status}.")

    def _preflight(self, origin: str) -> Answer:
        # S3 applies the CORS rules whether or not the object exists. moto requires, for an existing one, that
        # the policy allow OPTIONS, which S3's policies do not know.
        return self._http.fetch(
            f"{self._url}-preflight",
            method="OPTIONS",
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": _METHOD,
                "Access-Control-Request-Headers": "range",
            },
        )


class PublicCheck:
    """Verifies that players can fetch an object, by fetching the first byte of its public URL.

    A range (RFC 9110, section 14) of one byte costs the same for every size, and the answer's Content-Range
    gives the length of the whole. Safe for threads. Raises `StorageError` for an unusable AWS_CA_BUNDLE.
    """

    def __init__(self, *, timeout: float = TIMEOUT_SECONDS) -> None:
        self._http = AnonymousHttp(timeout=timeout)
        _ = self._http.tls  # unusable settings are reported at once

    def require(self, url: str, *, key: str, size: int, content_type: str) -> None:
        """Raise `StorageError` unless `url` gives everyone `size` bytes of the media type `content_type`.

        Environment for 401, 403 and 404, which the operator has to correct; transient for everything else,
        such as a cache that still holds an older object. `key` is the object's, for messages.
        """
        answer = self._first_byte(url, key)
        if refusal := _REFUSALS.get(answer.status):
            hint = (
                f"{url} answered {answer.status} to a request without credentials. {PUBLIC_MODES} "
                f"Also {WRONG_HOST}."
            )
            raise StorageError(ErrorKind.ENVIRONMENT, OPERATION, key, refusal, hint)
        total = _total(answer)
        if total is None:
            hint = (
                f"{url} answered {answer.status} to a request without credentials and sent no length: "
                f"{WRONG_HOST}."
            )
            raise _retried(key, f"http-{answer.status}", hint)
        if total != size:
            raise _retried(key, "public-length", f"{url} gives {total} bytes and the object has {size}.")
        served = answer.headers.get("content-type", "no type").partition(";")[0].strip().lower()
        # An empty file has no first byte; the type of a 416 is that of the error document.
        is_about_object = answer.status != http.client.REQUESTED_RANGE_NOT_SATISFIABLE
        if is_about_object and served != content_type.lower():
            raise _retried(key, "public-type", f"{url} is served as {served} and should be {content_type}.")

    def _first_byte(self, url: str, key: str) -> Answer:
        try:
            return self._http.fetch(
                url, headers={"Range": "bytes=0-0"}, max_redirects=_MAX_REDIRECTS, max_body=0
            )
        except StorageError as exc:
            if exc.kind is ErrorKind.TRANSIENT:
                raise _retried(key, exc.code, exc.hint) from exc
            raise StorageError(exc.kind, OPERATION, key, exc.code, exc.hint) from exc


def _total(answer: Answer) -> int | None:
    """The length in bytes of the whole that an answer is a part of; None if it does not say."""
    match answer.status:
        case http.client.PARTIAL_CONTENT | http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            match = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
            return int(match[1]) if match else None
        case http.client.OK:
            # A server without ranges sends the whole, with its length unless that is chunked.
            length = answer.headers.get("content-length", "")
            return int(length) if length.isdecimal() else None
        case _:
            return None


def _retried(key: str, code: str, hint: str) -> StorageError:
    return StorageError(ErrorKind.TRANSIENT, OPERATION, key, code, f"{hint} It is retried automatically.")


def _allows(answer: Answer, origin: str) -> bool:
    """Whether the answer to a preflight request allows the origin (https://fetch.spec.whatwg.org/#cors-preflight-fetch)."""
    fields = answer.headers
    methods = {word.strip() for word in fields.get("access-control-allow-methods", "").split(",")}
    headers = {word.strip().lower() for word in fields.get("access-control-allow-headers", "").split(",")}
    return (
        200 <= answer.status < 300
        and fields.get("access-control-allow-origin") in ("*", origin)
        and bool(methods & {_METHOD, "*"})
        and bool(headers & {"range", "*"})
    )
