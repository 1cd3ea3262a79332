"""Public URLs and bucket addresses of configurations."""

from contextlib import closing
from typing import Literal

import pytest

from storage import ErrorKind, ObjectStore, StorageConfig, StorageError
from storage.aws.clients import AwsSession
from tests.support.s3_server import config_for


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "https://lam-brk.s3.ap-south-1.amazonaws.com"),
        ({"endpoint_url": "http://127.0.0.1:9000/"}, "http://127.0.0.1:9000/lam-brk"),
        ({"base_url": "https://cdn.example/v/"}, "https://cdn.example/v"),
        ({"base_url": "https://cdn.example", "endpoint_url": "http://x"}, "https://cdn.example"),
        ({"cloudfront_domain": "d1.cloudfront.net"}, "https://d1.cloudfront.net"),
        ({"cloudfront_domain": "d1.cloudfront.net", "base_url": "https://x"}, "https://d1.cloudfront.net"),
    ],
)
def test_public_urls_start_at_the_bucket_unless_configured_otherwise(
    settings: dict[str, str], expected: str
) -> None:
    assert StorageConfig(bucket="lam-brk", region="ap-south-1", **settings).public_base_url == expected  # type: ignore[arg-type]  # mypy thinks of the settings that are no str


@pytest.mark.parametrize(
    ("bucket", "addressing", "endpoint_url", "expected"),
    [
        # The certificate of AWS covers one label before the name of the service.
        ("my.videos", "auto", None, "https://s3.eu-west-1.amazonaws.com/my.videos"),
        ("videos", "path", None, "https://s3.eu-west-1.amazonaws.com/videos"),
        ("videos", "auto", "https://s3.example:9000/", "https://s3.example:9000/videos"),
        ("videos", "virtual", "https://s3.example:9000/", "https://videos.s3.example:9000"),
    ],
)
def test_public_urls_have_the_bucket_where_the_server_takes_it(
    bucket: str, addressing: Literal["auto", "path", "virtual"], endpoint_url: str | None, expected: str
) -> None:
    config = StorageConfig(
        bucket=bucket, region="eu-west-1", addressing=addressing, endpoint_url=endpoint_url
    )
    assert config.public_base_url == expected


@pytest.mark.parametrize(
    ("bucket", "addressing", "address"),
    [
        ("my.videos", "auto", "https://s3.eu-west-1.amazonaws.com/my.videos"),
        ("videos", "auto", "https://videos.s3.eu-west-1.amazonaws.com"),
        ("videos", "path", "https://s3.eu-west-1.amazonaws.com/videos"),
    ],
)
def test_requests_go_to_a_name_that_the_certificate_covers(
    bucket: str, addressing: Literal["auto", "path", "virtual"], address: str
) -> None:
    config = StorageConfig(bucket=bucket, region="eu-west-1", addressing=addressing)
    with AwsSession(config) as session:
        assert session.bucket_url == address


def test_secrets_are_not_shown() -> None:
    config = StorageConfig(
        bucket="b", region="r", access_key_id="AKIA", secret_access_key="hush", session_token="psst"
    )
    assert "hush" not in repr(config)
    assert "psst" not in repr(config)


def test_objects_go_where_the_configuration_says_whatever_the_machine_is_set_up_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://elsewhere.example")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://elsewhere.example")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    with closing(AwsSession(StorageConfig(bucket="lam-brk", region="ap-south-1"))) as access:
        assert access.client.meta.endpoint_url == "https://s3.ap-south-1.amazonaws.com"
        assert access.client.meta.region_name == "ap-south-1"
        assert access.bucket_url == "https://lam-brk.s3.ap-south-1.amazonaws.com"


def test_on_a_server_that_is_not_amazons_the_bucket_is_in_the_path() -> None:
    with closing(AwsSession(config_for("https://s3.example:9000", "lam-brk"))) as access:
        url = access.client.generate_presigned_url("get_object", Params={"Bucket": "lam-brk", "Key": "k"})
        assert url.startswith("https://s3.example:9000/lam-brk/k?")
        assert access.bucket_url == "https://s3.example:9000/lam-brk"


def test_credentials_are_those_of_the_configuration_before_those_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-machine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-machine")
    for access_key_id, expected in [("configured", "configured"), (None, "of-the-machine")]:
        config = StorageConfig(
            bucket="b", region="r", access_key_id=access_key_id, secret_access_key=access_key_id
        )
        with closing(AwsSession(config)) as access:
            url = access.client.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "k"})
            assert f"X-Amz-Credential={expected}%2F" in url
            assert access.credentials().access_key == expected


def test_a_credential_of_the_machine_that_no_header_takes_is_refused_without_being_quoted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-machine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-machine")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "kingfisher\r\n")
    config = StorageConfig(bucket="b", region="r")
    with closing(AwsSession(config)) as access, pytest.raises(StorageError) as refused:
        access.credentials()
    assert "Correct it where it was found: env" in str(refused.value)
    assert refused.value.kind is ErrorKind.ENVIRONMENT
    assert "kingfisher" not in str(refused.value)


def test_a_store_makes_no_request_before_it_is_asked_to() -> None:
    with ObjectStore(config_for("http://127.0.0.1:9", "bucket")):
        pass
