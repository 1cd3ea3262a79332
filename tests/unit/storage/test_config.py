import pytest

from storage import ObjectStore, StorageConfig
from storage.client import make_client
from tests.s3_server import config_for


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "https://lam-brk.s3.ap-south-1.amazonaws.com"),
        ({"endpoint_url": "http://127.0.0.1:9000/"}, "http://127.0.0.1:9000/lam-brk"),
        ({"base_url": "https://cdn.example/v/"}, "https://cdn.example/v"),
        ({"base_url": "https://cdn.example", "endpoint_url": "http://x"}, "https://cdn.example"),
    ],
)
def test_public_urls_start_at_the_bucket_unless_told_otherwise(
    settings: dict[str, str], expected: str
) -> None:
    assert StorageConfig(bucket="lam-brk", region="ap-south-1", **settings).public_base_url == expected  # type: ignore[arg-type]  # mypy thinks of the settings that are no str


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
    client = make_client(StorageConfig(bucket="b", region="ap-south-1"))
    try:
        assert client.meta.endpoint_url == "https://s3.ap-south-1.amazonaws.com"
        assert client.meta.region_name == "ap-south-1"
    finally:
        client.close()


def test_on_a_server_that_is_not_amazons_the_bucket_is_in_the_path() -> None:
    client = make_client(config_for("https://s3.example:9000", "lam-brk"))
    url = client.generate_presigned_url("get_object", Params={"Bucket": "lam-brk", "Key": "k"})
    client.close()
    assert url.startswith("https://s3.example:9000/lam-brk/k?")


def test_credentials_are_those_of_the_configuration_before_those_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-machine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-machine")
    for access_key_id, expected in [("configured", "configured"), (None, "of-the-machine")]:
        client = make_client(
            StorageConfig(
                bucket="b", region="r", access_key_id=access_key_id, secret_access_key=access_key_id
            )
        )
        url = client.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "k"})
        client.close()
        assert f"X-Amz-Credential={expected}%2F" in url


def test_a_store_makes_no_request_before_it_is_asked_to() -> None:
    with ObjectStore(config_for("http://127.0.0.1:9", "bucket")):
        pass
