"""Answers are parsed alike, whichever library has fetched them."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.exceptions import ClientError, UnknownServiceError
from botocore.loaders import Loader

from storage import ErrorKind, StorageError
from storage.aws.errors import translate
from storage.aws.response_parsing import Response, shared_loader
from storage.aws.sessions import BoundedSession


def error(code: str) -> bytes:
    return f"<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>{code}</Code></Error>".encode()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (200, "AccessDenied", ErrorKind.ENVIRONMENT),
        (200, "InternalError", ErrorKind.TRANSIENT),
        (301, "PermanentRedirect", ErrorKind.ENVIRONMENT),
        (307, "TemporaryRedirect", ErrorKind.ENVIRONMENT),
        (403, "AccessDenied", ErrorKind.ENVIRONMENT),
        (503, "SlowDown", ErrorKind.TRANSIENT),
    ],
)
def test_an_error_is_one_whatever_its_status_even_if_it_began_as_a_success(
    status: int, code: str, kind: ErrorKind
) -> None:
    """S3 says 200 to a completion that takes long, before it knows how that will end."""
    with pytest.raises(ClientError) as caught:
        Response(status, (), error(code)).parse("CompleteMultipartUpload", "upload", "a")
    found = translate(caught.value, "upload", "a")
    assert (found.code, found.kind) == (code, kind)


def test_what_sends_us_elsewhere_is_no_success_though_it_has_no_body() -> None:
    """As to a HEAD, where the region is wrong."""
    with pytest.raises(ClientError) as caught:
        Response(301, (), b"").parse("HeadObject", "confirm", "a")
    found = translate(caught.value, "confirm", "a")
    assert (found.code, found.kind) == ("http-301", ErrorKind.ENVIRONMENT)


def test_a_success_is_read_under_the_names_of_s3() -> None:
    body = b'<CompleteMultipartUploadResult><ETag>"abc-2"</ETag></CompleteMultipartUploadResult>'
    answer = Response(200, (("x-amz-version-id", "v1"),), body).parse(
        "CompleteMultipartUpload", "upload", "a"
    )
    assert (answer["ETag"], answer["VersionId"]) == ('"abc-2"', "v1")


HEADERS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "HeadObject": (
        ("Content-Length", "1048576"),
        ("Last-Modified", "Sat, 28 Nov 2026 01:02:03 GMT"),
        ("ETag", '"abc-2"'),
        ("Content-Type", "video/mp4"),
        ("X-Amz-Checksum-CRC64NVME", "rosUhgp5mIg="),
        ("x-amz-checksum-type", "FULL_OBJECT"),
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-bucket-key-enabled", "true"),
        ("x-amz-version-id", "null"),
        ("x-amz-missing-meta", "2"),
        ("x-amz-meta-quality", "720p"),
        ("x-amz-meta-video-id", "1"),
        ("X-Amz-Request-Id", "7"),
    ),
    "PutObject": (("ETag", '"a"'), ("etag", '"b"'), ("x-amz-version-id", "v"), ("x-amz-object-size", "7")),
    "UploadPart": (("ETag", '"a"'), ("Date", "Sat, 28 Nov 2026 01:02:03 GMT")),
}


@pytest.mark.parametrize("operation", HEADERS)
def test_answers_that_are_headers_alone_are_read_as_botocore_reads_them(operation: str) -> None:
    """One with a body is left to botocore."""
    headers = HEADERS[operation]
    expected = dict(Response(200, headers, b"<x/>").parse(operation, "upload", "a"))
    del expected["ResponseMetadata"]
    assert Response(200, headers, b"").parse(operation, "upload", "a") == expected


@pytest.mark.parametrize(
    ("text", "hour"),
    [
        ("Sat, 28 Nov 2026 01:02:03 GMT", 1),
        ("Sat, 28 Nov 2026 01:02:03 +0200", -1),
        ("2026-11-28T01:02:03.000Z", 1),
    ],
)
def test_times_are_read_in_every_form_that_servers_write(text: str, hour: int) -> None:
    answer = Response(200, (("Last-Modified", text),), b"").parse("HeadObject", "confirm", "a")
    expected = datetime(2026, 11, 28, 0, 2, 3, tzinfo=UTC) + timedelta(hours=hour)
    assert answer["LastModified"] == expected


@pytest.mark.parametrize("header", [("Content-Length", "many"), ("Last-Modified", "soon")])
def test_headers_that_cannot_be_read_are_an_unreadable_answer(header: tuple[str, str]) -> None:
    with pytest.raises(StorageError) as caught:
        Response(200, (header,), b"").parse("HeadObject", "confirm", "a")
    assert caught.value.code == "unreadable-answer"


def test_the_endpoints_of_the_services_in_use_are_kept_and_no_others() -> None:
    """Of S3 and CloudFront, and of those that give credentials, in every partition that has them."""
    all_of_botocore = botocore.session.Session().get_available_regions
    session = BoundedSession()
    for service in ("s3", "cloudfront", "sts", "sso", "sso-oidc"):
        for partition in ("aws", "aws-cn", "aws-us-gov"):
            expected = all_of_botocore(service, partition)
            assert session.get_available_regions(service, partition) == expected
    assert session.get_available_regions("ec2") == []


def test_one_loader_reads_the_models_of_every_session() -> None:
    """The model of S3 takes tens of megabytes."""
    assert BoundedSession().get_component("data_loader") is shared_loader()


def without_documentation(model: Any) -> Any:
    """A part of a model whose explanations are empty."""
    if isinstance(model, dict):
        return {
            name: "" if name == "documentation" and isinstance(part, str) else without_documentation(part)
            for name, part in model.items()
        }
    return [without_documentation(part) for part in model] if isinstance(model, list) else model


@pytest.mark.parametrize("kind", ["service-2", "endpoint-rule-set-1", "paginators-1", "waiters-2"])
@pytest.mark.parametrize("service", ["s3", "cloudfront", "sts", "sso", "sso-oidc"])
def test_models_are_those_of_botocore_without_their_documentation(service: str, kind: str) -> None:
    """In the same order, and with the same refusal where there is none."""

    def loaded(loader: Loader) -> Any:
        try:
            return loader.load_service_model(service, kind)
        except UnknownServiceError:
            return None

    # botocore's clients change the model that they were given.
    fresh = shared_loader.__wrapped__()
    expected, found = without_documentation(loaded(Loader())), loaded(fresh)
    assert json.dumps(found) == json.dumps(expected)


def test_a_field_named_documentation_is_kept(tmp_path: Path) -> None:
    fields = {"documentation": {"shape": "Text", "documentation": "explains"}, "type": "structure"}
    (tmp_path / "model.json").write_text(json.dumps(fields), encoding="utf-8")
    loaded = shared_loader().file_loader.load_file(str(tmp_path / "model"))
    assert loaded == {"documentation": {"shape": "Text", "documentation": ""}, "type": "structure"}
    assert shared_loader().file_loader.load_file(str(tmp_path / "none")) is None
