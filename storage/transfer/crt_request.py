"""One request to S3 on its way through the CRT, from what is asked to what is answered."""

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from awscrt.exceptions import AwsCrtError
from awscrt.http import HttpHeaders, HttpRequest
from awscrt.s3 import S3Client, S3Request, S3RequestType

from storage.aws.errors import translated
from storage.aws.response_parsing import Response
from storage.transfer.crt_errors import translate_crt


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of S3.

    Attributes:
        operation: its name in S3's API reference.
        doing: what that is for, as errors say it ("upload").
        key: the object, or None for the bucket as a whole.
        query: what follows the '?', encoded.

    """

    operation: str
    method: str
    doing: str
    key: str
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: memoryview | bytes = field(default=b"", repr=False)


def nothing() -> None:
    """Does nothing: for whom it does not matter when a body has been read."""


class Body(io.RawIOBase):
    """Bytes for the CRT to read, once, into memory of its own; then `read` is called."""

    def __init__(self, content: memoryview | bytes, read: Callable[[], None]) -> None:
        super().__init__()
        self._content: memoryview | bytes = content
        self._length = len(content)
        self._position = 0
        self._read = read

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """As `io.RawIOBase.readinto`."""
        piece = self._content[self._position : self._position + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        if self._content and self._position == self._length:
            self._content = b""
            self._read()
        return len(piece)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """As `io.IOBase.seek`."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = start + offset
        return self._position


class CrtRequest:
    """A request that has been sent off. `done` is called in a thread of the CRT, whatever the outcome.

    Nothing is kept of it once its outcome is known and this object is gone.
    """

    def __init__(
        self, client: S3Client, request: Request, http: HttpRequest, done: Callable[["CrtRequest"], None]
    ) -> None:
        self.request = request
        self._status = 0
        self._headers: tuple[tuple[str, str], ...] = ()
        self._body = bytearray()
        self._s3: S3Request | None = client.make_request(
            type=S3RequestType.DEFAULT,
            operation_name=request.operation,
            request=http,
            on_headers=self._take_headers,
            on_body=self._take_body,
        )
        self._outcome = self._s3.finished_future
        self._outcome.add_done_callback(lambda _future: done(self))

    def cancel(self) -> None:
        """Break it off; it is done soon after."""
        if self._s3 is not None:
            self._s3.cancel()

    @property
    def is_done(self) -> bool:
        """Whether the outcome is known, and nothing reads the body any more."""
        return bool(self._outcome.done())

    def answer(self) -> Mapping[str, Any]:
        """What S3 said, under the names of its API reference. Call it when it is done.

        Raises `StorageError` if that was no success.
        """
        request = self.request
        # It knows us and we know it; let go, or its memory waits for the garbage collector.
        self._s3 = None
        try:
            self._outcome.result(0)
        except AwsCrtError as exc:
            raise translate_crt(exc, request.operation, request.doing, request.key) from exc
        with translated(request.doing, request.key):
            return Response(self._status, self._headers, bytes(self._body)).parse(
                request.operation, request.doing, request.key
            )

    def _take_headers(self, status_code: int, headers: list[tuple[str, str]], **_: object) -> None:
        self._status = status_code
        self._headers = tuple(headers)

    def _take_body(self, chunk: bytes, **_: object) -> None:
        self._body += chunk


def http_request(
    host: str,
    path: str,
    request: Request,
    headers: tuple[tuple[str, str], ...],
    read: Callable[[], None] = nothing,
) -> HttpRequest:
    """The request as the CRT wants it, which signs it later."""
    return HttpRequest(
        request.method,
        path + (f"?{request.query}" if request.query else ""),
        HttpHeaders([("Host", host), ("Content-Length", str(len(request.body))), *headers, *request.headers]),
        Body(request.body, read) if request.body else None,
    )
