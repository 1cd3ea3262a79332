"""Parsing of S3's answers with botocore's models, whichever library has fetched them.

botocore's parsers raise `ResponseParserError` for broken XML, but for a malformed date, number or list they
raise whatever the conversion raises. The parsers made here raise `ResponseParserError` alone.
"""

import gzip
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

import botocore.session
from botocore.awsrequest import HeadersDict
from botocore.exceptions import ClientError
from botocore.loaders import JSONFileLoader, Loader
from botocore.model import Shape
from botocore.parsers import ResponseParserError, ResponseParserFactory
from botocore.utils import parse_timestamp

from storage.aws.errors import unreadable
from storage.errors import ErrorKind, StorageError

_ENDPOINTS = frozenset({"s3", "cloudfront", "sts", "portal.sso", "oidc", "signin"})
"""The services in use, by the names of their endpoints; the last four give credentials."""
_FIRST_SUCCESS, _FIRST_FAILURE = 200, 300
_CONVERSION_ERRORS = (ValueError, TypeError, LookupError, AttributeError, OverflowError)
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
            except _CONVERSION_ERRORS as exc:
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
        if not self.body and _FIRST_SUCCESS <= self.status < _FIRST_FAILURE and operation in _WITHOUT_BODY:
            return self._parse_headers(operation, purpose, key)
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
        return _describes_web_page(self._header_values)

    @property
    def _header_values(self) -> dict[str, str]:
        """The headers by their names in lower case."""
        return {name.lower(): value for name, value in self.headers}

    def _parse_headers(self, operation: str, purpose: str, key: str | None) -> Mapping[str, Any]:
        """As `parse`, for an answer without a body; botocore takes ten times as long."""
        headers = self._header_values
        if _describes_web_page(headers):
            raise web_page(purpose, key)
        fields, prefixes = _fields_of_headers(operation)
        try:
            answer: dict[str, Any] = {
                fields[name][0]: fields[name][1](value) for name, value in headers.items() if name in fields
            }
        except _CONVERSION_ERRORS as exc:
            raise unreadable(purpose, key) from exc
        for prefix, field in prefixes.items():
            answer[field] = {
                name[len(prefix) :]: value for name, value in headers.items() if name.startswith(prefix)
            }
        return answer

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


def _describes_web_page(headers: Mapping[str, str]) -> bool:
    is_html = "html" in headers.get("content-type", "") and headers.get("content-length", "0") != "0"
    return is_html and "etag" not in headers


class _FileLoader(JSONFileLoader):
    """Loads models without their documentation, and each text once: a third of what botocore would keep."""

    def load_file(self, file_path: str) -> Any:
        """As botocore's."""
        for extension, open_file in ((".json", open), (".json.gz", gzip.open)):
            if os.path.isfile(f"{file_path}{extension}"):
                with open_file(f"{file_path}{extension}", "rb") as file:
                    return json.loads(file.read(), object_pairs_hook=_without_documentation)
        return None


def _without_documentation(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # What has that name and is no text is a field of the API. botocore expects a text of some parameters.
    return {
        name: value if not isinstance(value, str) else "" if name == "documentation" else sys.intern(value)
        for name, value in pairs
    }


class _Loader(Loader):
    """Keeps of the endpoints of all services in all regions, some megabytes, those of `_ENDPOINTS`."""

    def load_data_with_path(self, name: str) -> tuple[Any, str]:
        """As botocore's."""
        found, path = super().load_data_with_path(name)
        if name == "endpoints":
            for partition in found["partitions"]:
                services = partition["services"]
                partition["services"] = {key: services[key] for key in services.keys() & _ENDPOINTS}
        return found, path


@cache
def shared_loader() -> Loader:
    """The loader of botocore's models for every session of the process: each would keep one of S3's."""
    paths = botocore.session.Session().get_config_variable("data_path") or ""
    places = [os.path.expanduser(path) for path in paths.split(os.pathsep) if path]
    return _Loader(places, file_loader=_FileLoader())


@cache
def _parser() -> Any:
    return ParserFactory().create_parser("rest-xml")


@cache
def _output(operation: str) -> Shape | None:
    session = botocore.session.Session()
    session.register_component("data_loader", shared_loader())
    return session.get_service_model("s3").operation_model(operation).output_shape


_WITHOUT_BODY = frozenset({"HeadObject", "PutObject", "UploadPart"})
"""The operations whose answers are headers alone, of which a file takes the most."""


@cache
def _fields_of_headers(
    operation: str,
) -> tuple[Mapping[str, tuple[str, Callable[[str], object]]], Mapping[str, str]]:
    """By the name of a header in lower case, the field that it becomes and the conversion of its value.

    The second is the same by the beginning of a name, for fields that hold several headers.
    """
    fields: dict[str, tuple[str, Callable[[str], object]]] = {}
    prefixes: dict[str, str] = {}
    members: Mapping[str, Shape] = getattr(_output(operation), "members", {})
    for field, shape in members.items():
        name = str(shape.serialization.get("name", field)).lower()
        if shape.serialization.get("location") == "headers":
            prefixes[name] = field
        else:
            fields[name] = field, _CONVERSIONS.get(shape.type_name, str)
    return fields, prefixes


def _time(text: str) -> datetime:
    try:
        time = parsedate_to_datetime(text)
    except ValueError:
        time = None
    return time if time is not None and time.tzinfo is not None else parse_timestamp(text)


_CONVERSIONS: Mapping[str, Callable[[str], object]] = {
    "integer": int,
    "long": int,
    "boolean": "true".__eq__,
    "timestamp": _time,
}
"""How botocore reads the types of its models."""
