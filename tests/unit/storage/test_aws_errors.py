"""Translation of botocore's exceptions into `StorageError`: kinds, codes and hints."""

import inspect
import ssl

import pytest
from botocore import exceptions as botocore_errors
from botocore.exceptions import BotoCoreError, ClientError

from storage import ErrorKind, ObjectStore, StorageError
from storage.aws.errors import ENVIRONMENT_CODES, OBJECT_CODES, translate, translated
from tests.support.certificates import Certificate
from tests.support.fault_proxy import FaultProxy
from tests.support.s3_server import S3Server, config_for

KEY = "videos/a.mp4"


def answer(status: int, code: str, message: str = "") -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]  # the stubs want every field
        "PutObject",
    )


@pytest.mark.parametrize("code", sorted(ENVIRONMENT_CODES))
def test_what_only_the_operator_can_change_is_an_environment_error_with_a_hint(code: str) -> None:
    error = translate(answer(400, code), "upload", KEY)
    assert error.kind is ErrorKind.ENVIRONMENT
    assert error.code == code
    assert error.hint == ENVIRONMENT_CODES[code]
    assert str(error) == f"could not upload {KEY!r}: {code}. {error.hint}"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("NoSuchBucket", "or correct AWS_S3_BUCKET. AWS_S3_BUCKET is lost."),
        ("AuthorizationHeaderMalformed", "the bucket is in. AWS_REGION is eu-west-3."),
        ("AccessDenied", "AWS_S3_BUCKET is lost."),
        ("InvalidTag", "may be the reason: AWS_S3_TAGS=team=a&kind=b, AWS_S3_ACL=public-read."),
        ("ExpiredToken", "renewed automatically."),
    ],
)
def test_a_hint_tells_the_values_of_the_settings_that_it_names(code: str, told: str) -> None:
    tags = {"team": "a", "kind": "b"}
    config = config_for("http://127.0.0.1:9", "lost", region="eu-west-3", tags=tags, acl="public-read")
    error = translate(answer(400, code), "upload", KEY, config)
    assert error.hint.endswith(told)


@pytest.mark.parametrize("code", sorted(OBJECT_CODES))
def test_what_no_retry_can_correct_is_an_object_error_with_a_hint(code: str) -> None:
    error = translate(answer(400, code), "upload", KEY)
    assert error.kind is ErrorKind.OBJECT
    assert error.hint == OBJECT_CODES[code]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (500, "InternalError"),
        (503, "SlowDown"),
        (503, "ServiceUnavailable"),
        (400, "RequestTimeout"),
        (400, "BadDigest"),
        (400, "XAmzContentSHA256Mismatch"),
        (404, "NoSuchUpload"),
        (409, "OperationAborted"),
        (418, "NeverHeardOf"),
        (502, ""),
        (504, "504"),
        (0, "Unknown"),
    ],
)
def test_everything_else_a_server_says_is_transient(status: int, code: str) -> None:
    assert translate(answer(status, code), "upload", KEY).kind is ErrorKind.TRANSIENT


@pytest.mark.parametrize("status", [301, 307, 400, 401, 403, 507])
def test_an_answer_without_a_code_is_judged_by_its_status(status: int) -> None:
    error = translate(answer(status, str(status)), "confirm", KEY)
    assert error.kind is ErrorKind.ENVIRONMENT
    assert error.code == f"http-{status}"


def test_a_refusal_with_an_unknown_code_is_for_the_operator() -> None:
    assert translate(answer(403, "HouseRules"), "upload", KEY).kind is ErrorKind.ENVIRONMENT
    assert translate(answer(400, "KMS.DisabledException"), "upload", KEY).kind is ErrorKind.ENVIRONMENT


def test_what_the_server_said_is_handed_on_where_we_know_nothing_better() -> None:
    assert "Please reduce your rate." in str(
        translate(answer(503, "SlowDown", "Please reduce your rate."), "upload", KEY)
    )


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (botocore_errors.NoCredentialsError(), ErrorKind.ENVIRONMENT, "no-credentials"),
        (
            botocore_errors.PartialCredentialsError(provider="env", cred_var="secret"),
            ErrorKind.ENVIRONMENT,
            "no-credentials",
        ),
        (
            botocore_errors.CredentialRetrievalError(provider="role", error_msg="x"),
            ErrorKind.ENVIRONMENT,
            "no-credentials",
        ),
        (botocore_errors.UnauthorizedSSOTokenError(), ErrorKind.ENVIRONMENT, "no-credentials"),
        (botocore_errors.ProfileNotFound(profile="x"), ErrorKind.ENVIRONMENT, "bad-settings"),
        (botocore_errors.ParamValidationError(report="x"), ErrorKind.ENVIRONMENT, "bad-settings"),
        (botocore_errors.NoRegionError(), ErrorKind.ENVIRONMENT, "bad-settings"),
        (botocore_errors.EndpointConnectionError(endpoint_url="x"), ErrorKind.TRANSIENT, "connection"),
        (botocore_errors.ConnectTimeoutError(endpoint_url="x"), ErrorKind.TRANSIENT, "timeout"),
        (botocore_errors.ReadTimeoutError(endpoint_url="x"), ErrorKind.TRANSIENT, "timeout"),
        (botocore_errors.ConnectionClosedError(endpoint_url="x"), ErrorKind.TRANSIENT, "connection"),
        (
            botocore_errors.SSLError(endpoint_url="x", error=ssl.SSLError("handshake broken off")),
            ErrorKind.TRANSIENT,
            "connection",
        ),
        (BotoCoreError(), ErrorKind.TRANSIENT, "unexpected"),
    ],
)
def test_what_the_client_raises_by_itself_is_judged_by_its_class(
    error: BotoCoreError, kind: ErrorKind, code: str
) -> None:
    translated_error = translate(error, "upload", KEY)
    assert translated_error.kind is kind
    assert translated_error.code == code


def test_the_original_stays_the_cause() -> None:
    original = answer(503, "SlowDown")
    with pytest.raises(StorageError) as caught, translated("upload", KEY):
        raise original
    assert caught.value.__cause__ is original


def test_everything_botocore_knows_to_raise_is_one_of_the_two_kinds_that_are_caught() -> None:
    """Its few other exceptions are about service models, which do not change at run time."""
    others = {
        name
        for name, member in inspect.getmembers(botocore_errors, inspect.isclass)
        if member.__module__ == botocore_errors.__name__
        and not issubclass(member, BotoCoreError | ClientError | Warning)
    }
    assert others == {"UndefinedModelAttributeError", "MissingServiceIdError"}


def test_missing_credentials_name_the_settings() -> None:
    config = config_for("http://127.0.0.1:9", "bucket", access_key_id=None, secret_access_key=None)
    with ObjectStore(config) as store, pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID") as caught:
        store.delete(KEY)
    assert caught.value.kind is ErrorKind.ENVIRONMENT


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"secret_access_key": None}, "AWS_SECRET_ACCESS_KEY"),
        ({"endpoint_url": "no-url"}, "AWS_ENDPOINT_URL"),
        ({"region": "not a region"}, "AWS_REGION"),
    ],
)
def test_settings_that_cannot_work_are_named_at_once(settings: dict[str, object], named: str) -> None:
    with pytest.raises(StorageError, match=named) as caught:
        ObjectStore(config_for("http://127.0.0.1:9", "bucket", **settings))
    assert caught.value.kind is ErrorKind.ENVIRONMENT


def test_a_bucket_that_is_not_there_is_for_the_operator(s3: S3Server) -> None:
    with ObjectStore(config_for(s3.url, "no-such-bucket")) as store, pytest.raises(StorageError) as caught:
        store.delete(KEY)
    assert caught.value.code == "NoSuchBucket"
    assert caught.value.kind is ErrorKind.ENVIRONMENT


def test_a_name_that_no_bucket_can_have_is_for_the_operator() -> None:
    with (
        ObjectStore(config_for("http://127.0.0.1:9", "no bucket!")) as store,
        pytest.raises(StorageError, match="AWS_S3_BUCKET") as caught,
    ):
        store.delete(KEY)
    assert caught.value.kind is ErrorKind.ENVIRONMENT


def test_a_refused_connection_is_transient() -> None:
    with FaultProxy() as gone:
        url = gone.url
    with ObjectStore(config_for(url, "bucket")) as store, pytest.raises(StorageError) as caught:
        store.delete(KEY)
    assert caught.value.kind is ErrorKind.TRANSIENT
    assert caught.value.code == "connection"


def test_a_certificate_that_is_not_trusted_is_for_the_operator(certificate: Certificate) -> None:
    with (
        FaultProxy(tls=certificate.server_side) as proxy,
        ObjectStore(config_for(proxy.url, "bucket")) as store,
        pytest.raises(StorageError, match="AWS_CA_BUNDLE") as caught,
    ):
        store.delete(KEY)
    assert caught.value.kind is ErrorKind.ENVIRONMENT
    assert caught.value.code == "untrusted-certificate"
