"""Invalidation paths in CloudFront's encoding, one request a call, and translated errors."""

from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import (
    MAX_INVALIDATION_PATHS,
    Distribution,
    ErrorKind,
    StorageConfig,
    StorageError,
    invalidation_paths,
    public_url,
)
from tests.support.cloudfront_server import Cdn, asked_to_forget, references
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request
from tests.support.s3_server import S3Server, config_for

KEY = "videos/0b8e3f60-9d5c-4c1a-8f8e-3b1f0a7d2c11/my_video_720p.mp4"


@pytest.fixture
def cdn(s3: S3Server) -> Iterator[Cdn]:
    cdn = Cdn(s3.url)
    yield cdn
    cdn.close()
    s3.forget_everything()


def config_at(url: str, distribution_id: str = "E1", **changes: object) -> StorageConfig:
    return config_for(
        "http://127.0.0.1:9",
        "renditions",
        **{"cloudfront_distribution_id": distribution_id, "cloudfront_endpoint_url": url} | changes,
    )


def refusal(status: int, code: str) -> Answer:
    text = f"<ErrorResponse><Error><Code>{code}</Code><Message>No.</Message></Error></ErrorResponse>"
    return Answer(status, {"content-type": "text/xml"}, text.encode())


@pytest.fixture
def distribution(cdn: Cdn, proxy: FaultProxy) -> Iterator[Distribution]:
    with Distribution(config_at(proxy.url, cdn.id)) as distribution:
        yield distribution


def test_a_distribution_invalidates_the_paths_it_is_sent(distribution: Distribution, cdn: Cdn) -> None:
    paths = ["/videos/a_720p.mp4", "/videos/b%20c_720p.mp4"]
    assert distribution.invalidate(paths, reference="r")
    assert cdn.forgotten() == [paths]


def test_as_many_paths_as_are_allowed_go_in_one_request(
    distribution: Distribution, cdn: Cdn, proxy: FaultProxy
) -> None:
    paths = [f"/videos/{number}.mp4" for number in range(MAX_INVALIDATION_PATHS)]
    distribution.invalidate(paths, reference="one")
    assert cdn.forgotten() == [paths]
    assert references(proxy) == ["one"]


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("my_video_720p.mp4", ["/videos/my_video_720p.mp4"]),
        ("my video_720p.mp4", ["/videos/my%20video_720p.mp4"]),
        ("100%#?_720p.mp4", ["/videos/100%25%23%3F_720p.mp4"]),
        ("é_720p.mp4", ["/videos/%C3%A9_720p.mp4"]),
        ("a~b[1]_720p.mp4", ["/videos/a%7Eb%5B1%5D_720p.mp4"]),
        ('<"{|}^`\\>_720p.mp4', ["/videos/%3C%22%7B%7C%7D%5E%60%5C%3E_720p.mp4"]),
        ("a+b&c_720p.mp4", ["/videos/a+b&c_720p.mp4", "/videos/a%2Bb%26c_720p.mp4"]),
        ("a*_720p.mp4", ["/videos/a*_720p.mp4", "/videos/a%2A_720p.mp4"]),
        ("all*", ["/videos/all%2A"]),
    ],
)
def test_a_path_is_spelt_as_cloudfront_wants_it_and_as_players_ask_for_it(
    name: str, paths: list[str]
) -> None:
    assert invalidation_paths(f"videos/{name}") == paths


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_every_path_names_the_key_it_was_made_from_and_nothing_else(key: str) -> None:
    paths = invalidation_paths(key)
    assert len(paths) <= 2
    for path in paths:
        assert path.isascii()
        assert path.startswith("/")
        assert not set(path) & set(' <>"#{}|\\^~[]`?')
        assert not path.endswith("*")
        assert unquote(path[1:]) == key
    assert urlsplit(public_url("https://cdn.example", key)).path.replace("~", "%7E") in paths


@pytest.mark.parametrize(
    ("status", "code", "kind", "hint"),
    [
        (403, "AccessDenied", ErrorKind.ENVIRONMENT, "cloudfront:CreateInvalidation"),
        (404, "NoSuchDistribution", ErrorKind.ENVIRONMENT, "CLOUDFRONT_DISTRIBUTION_ID"),
        (403, "InvalidClientTokenId", ErrorKind.ENVIRONMENT, "AWS_ACCESS_KEY_ID"),
        (403, "ExpiredToken", ErrorKind.ENVIRONMENT, "Renew"),
        (400, "TooManyInvalidationsInProgress", ErrorKind.TRANSIENT, "tried again"),
        (400, "Throttling", ErrorKind.TRANSIENT, "tried again"),
        (400, "InvalidArgument", ErrorKind.OBJECT, "Invalidate it by hand"),
        (413, "BatchTooLarge", ErrorKind.OBJECT, "Invalidate it by hand"),
        (503, "ServiceUnavailable", ErrorKind.TRANSIENT, "tried again"),
    ],
)
def test_a_refusal_says_whether_time_helps_or_who_must_act(
    distribution: Distribution, proxy: FaultProxy, status: int, code: str, kind: ErrorKind, hint: str
) -> None:
    proxy.fault = lambda _request, _forward: refusal(status, code)
    with pytest.raises(StorageError) as caught:
        distribution.invalidate(["/a"], reference="r")
    error = caught.value
    assert (error.kind, error.operation, error.code) == (kind, "invalidate", code)
    assert hint in error.hint


def test_a_failure_costs_one_request(distribution: Distribution, proxy: FaultProxy) -> None:
    """The library beneath must not try again by itself: more than one request a minute is too many."""
    proxy.fault = lambda _request, _forward: refusal(503, "ServiceUnavailable")
    with pytest.raises(StorageError):
        distribution.invalidate(["/a"], reference="r")
    assert asked_to_forget(proxy) == [["/a"]]


def test_a_distribution_that_is_not_there_is_named_as_the_setting_to_correct(proxy: FaultProxy) -> None:
    with (
        Distribution(config_at(proxy.url, "ENOTTHERE")) as distribution,
        pytest.raises(StorageError, match="CLOUDFRONT_DISTRIBUTION_ID") as caught,
    ):
        distribution.invalidate(["/a"], reference="r")
    assert (caught.value.kind, caught.value.code) == (ErrorKind.ENVIRONMENT, "NoSuchDistribution")


def test_a_broken_connection_is_a_matter_of_time(distribution: Distribution, proxy: FaultProxy) -> None:
    def hang_up(request: Request, forward: Forward) -> None:
        return None

    proxy.fault = hang_up
    with pytest.raises(StorageError) as caught:
        distribution.invalidate(["/a"], reference="r")
    assert (caught.value.kind, caught.value.code) == (ErrorKind.TRANSIENT, "connection")


def test_missing_credentials_are_the_environments_fault(proxy: FaultProxy) -> None:
    config = config_at(proxy.url, access_key_id=None, secret_access_key=None)
    with Distribution(config) as distribution, pytest.raises(StorageError) as caught:
        distribution.invalidate(["/a"], reference="r")
    assert (caught.value.kind, caught.value.code) == (ErrorKind.ENVIRONMENT, "no-credentials")
    assert proxy.requests == []


def test_an_invalid_endpoint_is_reported_when_the_client_is_made() -> None:
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL_CLOUDFRONT") as caught:
        Distribution(config_at("not a url"))
    assert caught.value.kind is ErrorKind.ENVIRONMENT


def test_an_s3_server_of_ones_own_is_not_asked_for_cloudfront(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    config = config_for("http://127.0.0.1:9", "b", cloudfront_distribution_id="E1")
    with Distribution(config) as distribution:
        assert distribution._client.meta.endpoint_url == "https://cloudfront.amazonaws.com"


def test_a_configuration_without_a_distribution_is_refused() -> None:
    with pytest.raises(ValueError, match="distribution"):
        Distribution(config_for("http://127.0.0.1:9", "b"))
