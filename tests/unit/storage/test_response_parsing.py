"""Answers are parsed alike, whichever library has fetched them."""

import pytest
from botocore.exceptions import ClientError

from storage import ErrorKind
from storage.aws.errors import translate
from storage.aws.response_parsing import Response


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
