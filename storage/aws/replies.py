"""What a server answered to a request of ours, read with botocore's own knowledge of S3's documents.

So an answer looks the same whichever library has fetched it, and an error means the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import botocore.session
from botocore.awsrequest import HeadersDict
from botocore.exceptions import ClientError
from botocore.model import Shape
from botocore.parsers import ResponseParserError

from storage.aws.errors import unreadable
from storage.aws.response_parsing import ParserFactory

_FIRST_FAILURE = 300


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer: status, headers as they came, and body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def read(self, operation: str, doing: str, key: str | None) -> Mapping[str, Any]:
        """The fields of a success, under the names of S3's API reference.

        Raises botocore's ClientError for an answer that is an error, and `StorageError` for what is no
        answer of S3's.
        """
        answer = self._parse(operation, self.status, doing, key)
        if self.status >= _FIRST_FAILURE:
            raise ClientError(answer, operation)  # type: ignore[arg-type]  # a mapping as botocore makes it
        if b"<Error>" in self.body[:512]:
            # S3 starts to answer some requests before it knows how they will end.
            late = self._parse(operation, 500, doing, key)
            raise ClientError(late, operation)  # type: ignore[arg-type]  # as above
        return answer

    def _parse(self, operation: str, status: int, doing: str, key: str | None) -> dict[str, Any]:
        raw = {"headers": HeadersDict(self.headers), "status_code": max(status, 200), "body": self.body}
        try:
            parsed: dict[str, Any] = _parser().parse(raw, _output(operation))
        except ResponseParserError as exc:
            raise unreadable(doing, key) from exc
        return parsed


@cache
def _parser() -> Any:
    return ParserFactory().create_parser("rest-xml")


@cache
def _output(operation: str) -> Shape | None:
    model = botocore.session.Session().get_service_model("s3")
    return model.operation_model(operation).output_shape
