"""One HTTP request to S3 through the CRT, from its description to its answer."""

import io
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from awscrt.exceptions import AwsCrtError
from awscrt.http import HttpRequest
from awscrt.s3 import S3Client, S3Request, S3RequestType

from storage.aws.errors import translated
from storage.aws.response_parsing import Response
from storage.config import StorageConfig
from storage.transfer.crt_errors import translate_crt
from storage.transfer.crt_signers import Signer, give_back


@dataclass(frozen=True, slots=True)
class Request:
    """A request to S3.

    Attributes:
        operation: its name in S3's API reference.
        key: the object's key.
        purpose: what it is for, as a verb for error messages.
        query: what follows the '?', percent-encoded.

    """

    operation: str
    method: str
    key: str
    purpose: str = "upload"
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: memoryview | bytes = field(default=b"", repr=False)


class Body(io.RawIOBase):
    """A stream that the CRT reads once into memory of its own; then `on_read` is called."""

    def __init__(self, content: memoryview | bytes, on_read: Callable[[], None] | None) -> None:
        super().__init__()
        self._content: memoryview | bytes = content
        self._length = len(content)
        self._position = 0
        self._on_read = on_read

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """As `io.RawIOBase.readinto`."""
        chunk = self._content[self._position : self._position + len(buffer)]
        buffer[: len(chunk)] = chunk
        self._position += len(chunk)
        if self._content and self._position == self._length:
            self._content = b""
            if self._on_read is not None:
                self._on_read()
        return len(chunk)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """As `io.IOBase.seek`."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = start + offset
        return self._position


class CrtRequest:
    """A request in flight. `on_done` is called in a thread of the CRT, whatever the outcome.

    It holds no memory once its outcome is known and it is dropped. The CRT makes a second attempt by itself,
    for which it signs again. If `was_cut` is true then, `on_done` is called at once, with `is_stalled` set,
    and again at the end.
    """

    def __init__(
        self,
        client: S3Client,
        request: Request,
        http: HttpRequest,
        on_done: Callable[["CrtRequest"], None],
        config: StorageConfig,
        *,
        sign: Callable[[Callable[[], None]], Signer],
        was_cut: Callable[[], bool],
        observe: Callable[[str, float, int], None],
    ) -> None:
        self.request = request
        self.is_stalled = False
        """Whether its connection was cut because no bytes moved on it."""
        self._config = config
        self._attempts = 0
        self._was_cut = was_cut
        self._on_done = on_done
        self._observe = observe
        self._started = time.monotonic()
        self._is_cancelled = False
        self._status = 0
        self._headers: tuple[tuple[str, str], ...] = ()
        self._body = bytearray()
        signer = sign(self._note_attempt)
        self._s3: S3Request | None = client.make_request(
            type=S3RequestType.DEFAULT,
            operation_name=request.operation,
            request=http,
            signing_config=signer.config,
            on_headers=self._take_headers,
            on_body=self._take_body,
        )
        self._signer = signer
        self._outcome = self._s3.finished_future
        self._outcome.add_done_callback(self._end)

    def cancel(self) -> None:
        """Cancel the request; it is done soon after."""
        self._is_cancelled = True
        if self._s3 is not None:
            self._s3.cancel()

    @property
    def is_done(self) -> bool:
        """Whether the outcome is known, so that nothing reads the body any more."""
        return bool(self._outcome.done())

    def forget(self) -> None:
        """Free the memory of a request that is done and whose answer is not wanted."""
        if self.is_done:
            # The two refer to each other, in a way that the garbage collector does not see.
            self._s3 = None

    def answer(self) -> Mapping[str, Any]:
        """The fields of S3's answer, under the names of its API reference, once the request is done.

        Raises `StorageError` if that was not a success.
        """
        request = self.request
        self.forget()
        try:
            self._outcome.result(0)
        except AwsCrtError as exc:
            raise translate_crt(exc, request.operation, request.purpose, request.key, self._config) from exc
        with translated(request.purpose, request.key, self._config):
            response = Response(self._status, self._headers, bytes(self._body))
            return response.parse(request.operation, request.purpose, request.key)

    def _end(self, _future: object) -> None:
        if not self._is_cancelled:
            self._observe(self.request.operation, time.monotonic() - self._started, self._status)
        give_back(self._signer)
        self._on_done(self)

    def _note_attempt(self) -> None:
        self._attempts += 1
        if self._attempts > 1 and self._was_cut():
            self.is_stalled = True
            self._on_done(self)

    def _take_headers(self, status_code: int, headers: list[tuple[str, str]], **_: object) -> None:
        self._status = status_code
        self._headers = tuple(headers)

    def _take_body(self, chunk: bytes, **_: object) -> None:
        self._body += chunk
