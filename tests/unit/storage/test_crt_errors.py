"""Translation of the CRT's errors into `StorageError`."""

import pytest
from awscrt.exceptions import AwsCrtError
from awscrt.s3 import S3ResponseError

from storage import ErrorKind
from storage.transfer.crt_errors import translate_crt

KEY = "videos/a.mp4"


def answered(status: int, body: bytes | None) -> AwsCrtError:
    return S3ResponseError(
        code=1,
        name="AWS_ERROR_S3_INVALID_RESPONSE_STATUS",
        message="Invalid response status",
        status_code=status,
        headers=[("x-amz-request-id", "1")],
        body=body,
        operation_name="PutObject",
    )


@pytest.mark.parametrize(
    ("error", "kind", "code", "status"),
    [
        (
            answered(403, b"<Error><Code>AccessDenied</Code></Error>"),
            ErrorKind.ENVIRONMENT,
            "AccessDenied",
            403,
        ),
        (
            answered(400, b"<Error><Code>EntityTooLarge</Code></Error>"),
            ErrorKind.OBJECT,
            "EntityTooLarge",
            400,
        ),
        (answered(412, None), ErrorKind.TRANSIENT, "http-412", 412),
        (answered(502, b"<html>Bad gateway</html>"), ErrorKind.TRANSIENT, "http-502", 502),
        (AwsCrtError(1, "AWS_ERROR_S3_SLOW_DOWN", "x"), ErrorKind.TRANSIENT, "SlowDown", 503),
        (AwsCrtError(1, "AWS_ERROR_S3_INTERNAL_ERROR", "x"), ErrorKind.TRANSIENT, "InternalError", 500),
        (
            AwsCrtError(1, "AWS_ERROR_S3_REQUEST_TIME_TOO_SKEWED", "x"),
            ErrorKind.ENVIRONMENT,
            "RequestTimeTooSkewed",
            403,
        ),
        (AwsCrtError(1, "AWS_IO_SOCKET_CLOSED", "x"), ErrorKind.TRANSIENT, "connection", None),
        (AwsCrtError(1, "AWS_ERROR_HTTP_CONNECTION_CLOSED", "x"), ErrorKind.TRANSIENT, "connection", None),
        (AwsCrtError(1, "AWS_IO_SOCKET_TIMEOUT", "x"), ErrorKind.TRANSIENT, "timeout", None),
        (
            AwsCrtError(1, "AWS_AUTH_SIGNING_NO_CREDENTIALS", "x"),
            ErrorKind.TRANSIENT,
            "no-credentials",
            None,
        ),
        (AwsCrtError(1, "AWS_ERROR_NEVER_HEARD_OF", "x"), ErrorKind.TRANSIENT, "unexpected", None),
    ],
)
def test_what_the_crt_raises_is_judged_by_the_answer_or_else_by_its_name(
    error: AwsCrtError, kind: ErrorKind, code: str, status: int | None
) -> None:
    meaning = translate_crt(error, "PutObject", "upload", KEY)
    assert (meaning.kind, meaning.code, meaning.status) == (kind, code, status)
    assert (meaning.operation, meaning.key) == ("upload", KEY)
    assert meaning.hint
