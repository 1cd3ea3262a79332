"""Parsing of S3's answers with botocore's models, whichever library has fetched them.

botocore's parsers raise `ResponseParserError` for broken XML, but for a malformed date, number or list they
raise whatever the conversion raises. The parsers made here raise `ResponseParserError` alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import botocore.session
from botocore.awsrequest import HeadersDict
from botocore.exceptions import ClientError
from botocore.model import Shape
from botocore.parsers import ResponseParserError, ResponseParserFactory

from storage.aws.errors import unreadable
from storage.errors import ErrorKind, StorageError

_FIRST_FAILURE = 300
_WEB_PAGE = (
    "The answer is a web page, as a captive portal or a proxy gives it: check AWS_ENDPOINT_URL and the way "
    "to the server. It is tried again."
)


class ParserFactory(ResponseParserFactory):
    """Makes parsers that raise nothing but `ResponseParserError`."""

    def create_parser(self, protocol_name: str) -> Any:
        """As botocore's."""
        parser: Any = super().create_parser(protocol_name)
        parse = parser.parse

        def parse_or_refuse(response: Mapping[str, Any], shape: Shape | None) -> Any:
            try:
                return parse(response, shape)
            except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as exc:
                raise ResponseParserError(str(exc)) from exc

        parser.parse = parse_or_refuse
        return parser


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response: status, headers as they came, and body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def parse(self, operation: str, purpose: str, key: str | None) -> Mapping[str, Any]:
        """The fields of a successful answer, under the names of S3's API reference.

        Raises botocore's ClientError for an error answer, and `StorageError` for what is not an answer of S3.
        """
        answer = self._parse(operation, self.status, purpose, key)
        if self.status >= _FIRST_FAILURE:
            raise ClientError(answer, operation)  # type: ignore[arg-type]  # a mapping as botocore makes it
        if self._is_web_page:
            raise web_page(purpose, key)
        if operation == "GetObject":
            return {**answer, "Body": self.body}
        if b"<Error>" in self.body[:512]:
            # S3 answers 200 to some requests before it knows their outcome.
            late = self._parse(operation, 500, purpose, key)
            raise ClientError(late, operation)  # type: ignore[arg-type]  # as above
        return answer

    @property
    def _is_web_page(self) -> bool:
        if self.body:
            return self.body[:256].lstrip().lower().startswith((b"<!doctype html", b"<html"))
        headers = {name.lower(): value for name, value in self.headers}
        is_html = "html" in headers.get("content-type", "") and headers.get("content-length", "0") != "0"
        return is_html and "etag" not in headers

    def _parse(self, operation: str, status: int, purpose: str, key: str | None) -> dict[str, Any]:
        # botocore takes the content of an object for text.
        body = b"" if operation == "GetObject" and status < _FIRST_FAILURE else self.body
        raw = {"headers": HeadersDict(self.headers), "status_code": max(status, 200), "body": body}
        try:
            parsed: dict[str, Any] = _parser().parse(raw, _output(operation))
        except ResponseParserError as exc:
            raise unreadable(purpose, key) from exc
        return parsed


def web_page(operation: str, key: str | None) -> StorageError:
    """The `StorageError` for a success that is no answer of S3 but a web page."""
    return StorageError(ErrorKind.TRANSIENT, operation, key, "web-page", _WEB_PAGE)


def required(answer: Mapping[str, object], field: str, operation: str, key: str | None) -> str:
    """A non-empty text that every S3 server sends; raises a transient `StorageError` if it is missing."""
    value = present(answer, field, operation, key)
    if not isinstance(value, str) or not value:
        raise _lacking(field, operation, key)
    return value


def present(answer: Mapping[str, Any], field: str, operation: str, key: str | None) -> Any:
    """A field of any type that every S3 server sends; raises as `required` does."""
    value = answer.get(field)
    if value is None:
        raise _lacking(field, operation, key)
    return value


def unquoted(etag: str | None) -> str:
    """An ETag without HTTP's quotes; empty if the server sent none."""
    return (etag or "").strip('"')


def version(version_id: str | None) -> str | None:
    """A version's id; None for "null", S3's id of objects in a bucket without versioning."""
    return None if version_id == "null" else version_id


def _lacking(field: str, operation: str, key: str | None) -> StorageError:
    hint = f"The answer lacks {field}: check that AWS_ENDPOINT_URL is an S3 server. It is tried again."
    return StorageError(ErrorKind.TRANSIENT, operation, key, "incomplete-answer", hint)


@cache
def _parser() -> Any:
    return ParserFactory().create_parser("rest-xml")


@cache
def _output(operation: str) -> Shape | None:
    model = botocore.session.Session().get_service_model("s3")
    return model.operation_model(operation).output_shape
