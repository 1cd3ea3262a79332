"""The settings of the CDN: what they may be, and what they make of public URLs."""

from typing import Any

import pytest
from pydantic import ValidationError

from watcher.app.factories import make_naming, make_storage_config
from watcher.settings.model import Settings


def settings(**values: Any) -> Settings:
    return Settings(**{"COMPLETED_DIR": "/srv/completed", **values})


@pytest.mark.parametrize("domain", ["d111111abcdef8.cloudfront.net", "cdn.example", "a-b.example.org"])
def test_a_host_name_makes_the_public_urls(domain: str) -> None:
    given = settings(CLOUDFRONT_DOMAIN=domain, AWS_S3_BASE_URL="https://other.example")
    assert make_naming(given).public_base == f"https://{domain}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CLOUDFRONT_DOMAIN", "https://cdn.example"),
        ("CLOUDFRONT_DOMAIN", "cdn.example/path"),
        ("CLOUDFRONT_DOMAIN", "cdn"),
        ("CLOUDFRONT_DOMAIN", "-cdn.example"),
        ("CLOUDFRONT_DOMAIN", "cdn.exämple"),
        ("CLOUDFRONT_DISTRIBUTION_ID", "E1/E2"),
        ("CLOUDFRONT_DISTRIBUTION_ID", "arn:aws:cloudfront::1:distribution/E1"),
        ("AWS_ENDPOINT_URL_CLOUDFRONT", "somewhere"),
        ("VERIFY_PUBLIC_URL", "perhaps"),
    ],
)
def test_what_can_be_none_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValidationError, match=name):
        settings(**{name: value})


def test_storage_is_told_of_the_distribution() -> None:
    config = make_storage_config(
        settings(CLOUDFRONT_DISTRIBUTION_ID="E1", AWS_ENDPOINT_URL_CLOUDFRONT="http://127.0.0.1:9")
    )
    assert (config.cloudfront_distribution_id, config.cloudfront_endpoint_url) == ("E1", "http://127.0.0.1:9")


def test_without_them_there_is_no_cdn() -> None:
    given = settings()
    assert (given.cloudfront_domain, given.cloudfront_distribution_id) == (None, None)
    assert not given.verify_public_url
