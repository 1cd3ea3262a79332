"""Requests as a player makes them: to a URL, with no credentials."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from urllib import request as urllib_request
from urllib.error import URLError

from storage.errors import ErrorKind, StorageError

TIMEOUT_SECONDS = 10
MAX_BODY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; header names in lower case, at most 1 MiB of the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
    """Send one request and give back whatever the answer is; redirects are not followed.

    Raises `StorageError` if there is no answer.
    """
    # Handlers are named one by one: with the usual ones a URL could also name a local file, and an answer
    # like 403 would be an exception.
    opener = urllib_request.OpenerDirector()
    for handler in (
        urllib_request.ProxyHandler(),
        urllib_request.UnknownHandler(),
        urllib_request.HTTPHandler(),
        urllib_request.HTTPSHandler(context=ssl.create_default_context()),
    ):
        opener.add_handler(handler)
    try:
        asked = urllib_request.Request(url, method=method, headers=dict(headers or {}))  # noqa: S310  # as above
        with opener.open(asked, timeout=TIMEOUT_SECONDS) as answer:
            return Answer(
                answer.status,
                {name.lower(): value for name, value in answer.headers.items()},
                answer.read(MAX_BODY_BYTES),
            )
    except (URLError, HTTPException, OSError, ValueError) as exc:
        reason = exc.reason if isinstance(exc, URLError) else exc
        raise StorageError(
            ErrorKind.TRANSIENT,
            f"{method} {url}",
            None,
            "connection",
            f"There was no answer: {reason}. Check that the URL's host exists, answers, and has a valid "
            "certificate.",
        ) from exc
