"""An HTTP server that plays the dialects of S3 servers, and keeps an account of every request."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.support.fault_proxy import Answer, FaultProxy, Request, s3_error
from tests.support.harness import BUCKET
from tests.support.quirks import AWS, PART_CHECKSUM, Oddity, Passing, Quirks
from tests.support.s3_requests import action_of
from tests.support.small_s3 import CRC, Asked, SmallS3

SDK_ALGORITHM: Final = "x-amz-sdk-checksum-algorithm"
_GETS: Final = {"uploadId": "ListParts", "uploads": "ListMultipartUploads", "list-type": "ListObjectsV2"}


@dataclass(frozen=True)
class Served:
    """One request, without its body, and the answer to it; header names in lower case.

    `refused` is what it was refused for: a header, or its addressing style; None if it was not refused.
    """

    operation: str
    key: str
    part_number: int | None
    headers: Mapping[str, str]
    status: int
    code: str
    refused: str | None


class QuirkServer(FaultProxy):
    """Runs while it is a context; `served` is the account of what was asked of it, in order.

    `host` is the name by which it is reached, and to which the bucket's name is prefixed in virtual-hosted
    style.
    """

    def __init__(self, quirks: Quirks = AWS, *, bucket: str = BUCKET, host: str = "127.0.0.1") -> None:
        super().__init__()
        self.quirks = quirks
        self.served: list[Served] = []
        self.s3 = SmallS3(quirks, bucket)
        self.url = f"http://{host}:{urlsplit(self.url).port}"
        self._bucket = bucket
        self._lock = threading.Lock()
        self._passed: Counter[int] = Counter()

    def answer(self, request: Request) -> Answer | None:
        """As `FaultProxy.answer`; bodies are not kept in the account."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        parts = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        style, bucket, key = self._address(headers.get("host", ""), unquote(parts.path))
        operation = _operation(request, query, key)
        if operation == "CompleteMultipartUpload" and PART_CHECKSUM.encode() in request.body:
            headers[PART_CHECKSUM] = "(in the body)"
        asked = Asked(operation, key, headers, query, request.body)
        with self._lock:
            answer, refused = self._decide(asked, style, bucket)
            code = re.search(rb"<Code>(.*?)</Code>", answer.body)
            told = code[1].decode() if code else ""
            number = int(query["partNumber"]) if "partNumber" in query else None
            self.served.append(Served(asked.operation, key, number, headers, answer.status, told, refused))
        answer = answer.having(server=self.quirks.make)
        return replace(answer, body=b"") if request.method == "HEAD" else answer

    def accepted(self, operation: str) -> list[Served]:
        """The requests of an operation that succeeded."""
        return [one for one in self.served if one.operation == operation and one.status < 300]

    def refused(self) -> list[Served]:
        """The requests that were refused for a header, or for their addressing style."""
        return [one for one in self.served if one.refused is not None]

    def _address(self, host: str, path: str) -> tuple[str, str, str]:
        if host.startswith(f"{self._bucket}."):
            return "virtual", self._bucket, path.removeprefix("/")
        bucket, _, key = path.removeprefix("/").partition("/")
        return "path", bucket, key

    def _decide(self, asked: Asked, style: str, bucket: str) -> tuple[Answer, str | None]:
        quirks = self.quirks
        for number, passing in enumerate(quirks.passing):
            if passing.operation in {asked.operation, "*"} and self._passed[number] != passing.times:
                self._passed[number] += 1
                return self._odd(passing, asked.key), None
        if quirks.refused_style is not None and style == quirks.refused_style[0]:
            message = "Please use another style of addresses to access the bucket."
            return s3_error(403, quirks.refused_style[1], message), f"{style} style"
        if bucket != self._bucket:
            return s3_error(404, "NoSuchBucket"), None
        if "authorization" not in asked.headers and not self.s3.is_public(asked.key):
            return s3_error(quirks.anonymous_status, "AccessDenied"), None
        for refusal in quirks.refusals:
            if (header := refusal.header_in(asked.operation, asked.headers)) is not None:
                return refusal.answer(asked.operation, header, asked.headers[header]), header
        if quirks.needs_checksum and SDK_ALGORITHM in asked.headers and CRC not in asked.headers:
            message = f"{SDK_ALGORITHM} specified, but no corresponding x-amz-checksum-* headers were found."
            return s3_error(400, "InvalidRequest", message), SDK_ALGORITHM
        return self.s3.perform(asked), None

    def _odd(self, passing: Passing, key: str) -> Answer:
        xml = {"content-type": "application/xml"}
        match passing.answer:
            case Oddity.LATE_ERROR:
                return s3_error(200, "InternalError")
            case Oddity.HTML:
                page = b"<!DOCTYPE html><html><body>Sign in to this network.</body></html>"
                return Answer(200, {"content-type": "text/html"}, page)
            case Oddity.REDIRECT:
                return Answer(307, {"location": f"{self.url}/{self._bucket}/{quote(key)}"})
            case Oddity.TRUNCATED:
                return Answer(200, xml, b"<InitiateMultipartUploadResult><Upl", is_cut=True)
            case answer:
                return answer


def _operation(request: Request, query: Mapping[str, str], key: str) -> str:
    """The operation, in words of S3's API reference."""
    if request.method == "HEAD" and not key:
        return "HeadBucket"
    if request.method == "GET":
        listing = next((name for argument, name in _GETS.items() if argument in query), None)
        return listing or ("GetObject" if key else f"GetBucket {', '.join(query)}")
    return action_of(request.method, request.path) if key else f"{request.method} {', '.join(query)}"
