"""Proxies: one rule for the CRT, boto3 and requests without credentials, and errors that name the proxy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from storage import (
    ErrorKind,
    ObjectStore,
    Outcome,
    SourceFile,
    StorageConfig,
    StorageError,
    Target,
    check_storage,
    proxy_passwords,
)
from storage.anonymous_http import AnonymousHttp
from storage.aws.clients import AwsSession
from storage.aws.proxies import environ_proxies, proxy_for
from storage.aws.sessions import CONNECT_TIMEOUT_SECONDS
from tests.support.certificates import Certificate
from tests.support.fault_proxy import FaultProxy
from tests.support.forward_proxy import ForwardProxy
from tests.support.s3_server import S3Server, config_for

pytestmark = pytest.mark.long

KEY = "videos/v/name_720p.mp4"
PASSWORD = "p:w+#%&distinctive"
"""With characters that a URL must encode."""
ENCODED = "p%3Aw%2B%23%25%26distinctive"

SourceOf = Callable[[bytes], SourceFile]


@pytest.mark.parametrize(
    ("exceptions", "url", "is_direct"),
    [
        ("", "https://s3.example", False),
        ("*", "https://s3.example", True),
        ("other, *", "https://s3.example", True),
        ("s3.example", "https://s3.example:9000", True),
        ("S3.Example.", "https://s3.example", True),
        ("example", "https://s3.example", True),
        (".example", "https://s3.example", True),
        ("*.example", "https://s3.example", True),
        (".s3.example", "https://s3.example", True),
        ("ample", "https://s3.example", False),
        ("3.example", "https://s3.example", False),
        ("s3.example:9000", "https://s3.example:9000", True),
        ("s3.example:9000", "https://s3.example", False),
        (".example:443", "https://s3.example", True),
        (".example:443", "http://s3.example", False),
        ("10.0.0.0/8", "https://10.1.2.3:9000", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.1.2.3", "https://10.1.2.3", True),
        ("10.1.2.3:9000", "https://10.1.2.3", False),
        ("fd00::/8", "https://[fd00::1]:9000", True),
        ("[fd00::1]:9000", "https://[fd00::1]:9000", True),
        ("a b s3.example", "https://s3.example", True),
        ("", "https://169.254.169.254", True),
    ],
)
def test_no_proxy_names_hosts_domains_ports_networks_or_everything(
    exceptions: str, url: str, is_direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", exceptions)
    assert (proxy_for(url) is None) is is_direct


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {}),
        ({"HTTP_PROXY": "http://other:1"}, {}),
        ({"HTTPS_PROXY": "http://proxy:3128"}, {"https": "http://proxy:3128"}),
        ({"https_proxy": "http://lower:1", "HTTPS_PROXY": "http://upper:2"}, {"https": "http://lower:1"}),
        ({"https_proxy": "", "HTTPS_PROXY": "http://upper:2"}, {"https": "http://upper:2"}),
        ({"HTTPS_PROXY": "proxy:3128"}, {"https": "http://proxy:3128"}),
        ({"HTTPS_PROXY": "http://proxy/"}, {"https": "http://proxy:80"}),
        ({"HTTPS_PROXY": "http://u:p%40s@[fd00::1]:1"}, {"https": "http://u:p%40s@[fd00::1]:1"}),
    ],
)
def test_the_variable_of_the_urls_scheme_counts_and_in_lower_case_first(
    variables: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert environ_proxies("https://s3.example") == expected


@pytest.mark.parametrize(
    "value", ["socks5://proxy:1080", "http:///path", "http://proxy:port", "http://u:ä@proxy:1"]
)
def test_a_variable_that_names_no_http_proxy_is_for_the_operator(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(StorageError, match="HTTPS_PROXY") as caught:
        proxy_for("https://s3.example")
    assert caught.value.kind is ErrorKind.ENVIRONMENT
    assert value not in str(caught.value)


@pytest.fixture(params=["http", "https"])
def hidden(
    request: pytest.FixtureRequest, s3: S3Server, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The URL of a server that only a proxy of `ForwardProxy` reaches, because it alone knows its name."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.path))
    with FaultProxy(s3.url, tls=certificate.server_side if request.param == "https" else None) as server:
        yield f"{request.param}://hidden:{urlsplit(server.url).port}"


def use(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, url)


def upload(store: ObjectStore, source: SourceFile) -> None:
    store.upload(source, Target(KEY, "video/mp4"), checksum=source.checksum())


@pytest.mark.parametrize("login", [None, f"user:{PASSWORD}"])
def test_everything_goes_through_the_proxy_with_its_credentials(
    hidden: str, bucket: str, source_of: SourceOf, monkeypatch: pytest.MonkeyPatch, login: str | None
) -> None:
    """The check of the certificate, too: it would wait five seconds behind a firewall."""
    with ForwardProxy(login=login) as proxy:
        use(monkeypatch, proxy.url.replace("//", f"//user:{ENCODED}@") if login else proxy.url)
        with ObjectStore(config_for(hidden, bucket, acl="public-read")) as store:
            source = source_of(bytes(1000))
            started = time.monotonic()
            upload(store, source)
            assert time.monotonic() - started < CONNECT_TIMEOUT_SECONDS
            assert [found.key for found in store.objects()] == [KEY]
        assert AnonymousHttp().fetch(f"{hidden}/{bucket}/{KEY}", method="HEAD").status == 200
        results = list(check_storage(config_for(hidden, bucket, acl="public-read"), cors_origins=()))
        assert f"through {urlsplit(hidden).scheme.upper()}_PROXY" in results[0].detail
        assert {result.name for result in results if result.outcome is not Outcome.OK} == set()
    assert all(urlsplit(hidden).netloc in target for target in proxy.targets)


@pytest.mark.parametrize("exceptions", ["*", "{host}", ".{host}", "{host}:{port}", "127.0.0.0/8", "x,*"])
@pytest.mark.parametrize("secure", [False, True])
def test_nothing_goes_through_the_proxy_where_no_proxy_names_the_server(
    s3: S3Server,
    bucket: str,
    source_of: SourceOf,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
    exceptions: str,
    secure: bool,
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.path))
    with (
        FaultProxy(s3.url, tls=certificate.server_side if secure else None) as server,
        ForwardProxy(refusal=403) as proxy,
    ):
        use(monkeypatch, proxy.url)
        port = urlsplit(server.url).port
        monkeypatch.setenv("no_proxy", exceptions.format(host="127.0.0.1", port=port))
        with ObjectStore(config_for(server.url, bucket)) as store:
            upload(store, source_of(bytes(1000)))
            assert [found.key for found in store.objects()] == [KEY]
        AnonymousHttp().fetch(f"{server.url}/{bucket}/{KEY}", method="HEAD")
        assert proxy.targets == []
        monkeypatch.setenv("no_proxy", "")
        with ObjectStore(config_for(server.url, bucket)) as store, pytest.raises(StorageError):
            store.delete(KEY)
        assert proxy.targets


def test_bodies_go_through_a_proxy_that_is_itself_reached_by_tls(
    s3: S3Server,
    bucket: str,
    source_of: SourceOf,
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.path))
    monkeypatch.setenv("AWS_PROXY_NO_VERIFY_PEER", "1")  # of the CRT, for tests
    with (
        FaultProxy(s3.url, tls=certificate.server_side) as server,
        ForwardProxy(tls=certificate.server_side) as proxy,
    ):
        use(monkeypatch, proxy.url)
        with ObjectStore(config_for(f"https://hidden:{urlsplit(server.url).port}", bucket)) as store:
            upload(store, source_of(bytes(100_000)))
        assert proxy.targets


def test_the_buckets_own_address_decides_for_all_of_its_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """On AWS it has a host name of its own, which the endpoint of the client has not."""
    use(monkeypatch, "http://proxy:3128")
    config = StorageConfig(bucket="lam-brk", region="ap-south-1")
    for exceptions, expected in (
        ("", {"https": "http://proxy:3128"}),
        ("lam-brk.s3.ap-south-1.amazonaws.com", {}),
    ):
        monkeypatch.setenv("NO_PROXY", exceptions)
        with AwsSession(config) as session:
            chosen: Any = session.client.meta.config
            assert chosen.proxies == expected


WAYS: dict[str, Callable[[ObjectStore, str], object]] = {
    "crt": lambda store, _: store.confirm(KEY, size=1, checksum="AAAAAAAAAAA=", proven_etag=None),
    "boto3": lambda store, _: list(store.objects()),
    "anonymous": lambda _, url: AnonymousHttp().fetch(url),
}


def failure(way: str, url: str) -> StorageError:
    with ObjectStore(config_for(url, "renditions")) as store, pytest.raises(StorageError) as caught:
        WAYS[way](store, url)
    assert PASSWORD not in str(caught.value)
    assert ENCODED not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("way", WAYS)
def test_a_proxy_that_does_not_accept_the_credentials_is_for_the_operator(
    way: str, hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ForwardProxy(login="user:other") as proxy:
        use(monkeypatch, proxy.url.replace("//", f"//user:{ENCODED}@"))
        error = failure(way, hidden)
    assert (error.kind, error.code) == (ErrorKind.ENVIRONMENT, "proxy-refused")
    assert proxy.address in error.hint
    assert "407" in error.hint


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (403, ErrorKind.ENVIRONMENT, "proxy-refused"),
        (503, ErrorKind.TRANSIENT, "proxy-failed"),
    ],
)
def test_a_proxy_that_refuses_a_tunnel_is_named_with_its_status(
    way: str,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    kind: ErrorKind,
    code: str,
) -> None:
    with ForwardProxy(refusal=status) as proxy:
        use(monkeypatch, proxy.url)
        error = failure(way, "https://hidden")
    assert (error.kind, error.code) == (kind, code)
    assert proxy.address in error.hint
    assert str(status) in error.hint


@pytest.mark.parametrize("way", ["crt", "boto3"])
def test_a_proxy_that_refuses_a_plain_request_is_named(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ForwardProxy(refusal=403) as proxy:
        use(monkeypatch, proxy.url)
        error = failure(way, "http://hidden")
    assert (error.kind, error.code) == (ErrorKind.ENVIRONMENT, "proxy-refused")
    assert proxy.address in error.hint


@pytest.mark.parametrize("way", WAYS)
def test_a_proxy_that_is_away_is_an_outage_and_named(
    way: str, hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ForwardProxy() as proxy:
        use(monkeypatch, proxy.url.replace("//", f"//user:{ENCODED}@"))
    error = failure(way, hidden)
    assert (error.kind, error.code) == (ErrorKind.TRANSIENT, "proxy-failed")
    assert error.is_outage
    assert proxy.address in error.hint


@pytest.mark.parametrize("refusal", [None, 403])
def test_doctor_says_that_it_is_the_proxy(refusal: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    with ForwardProxy(refusal=refusal, login="user:other") as proxy:
        use(monkeypatch, proxy.url)
        results = {
            result.name: result for result in check_storage(config_for("https://hidden", "renditions"))
        }
    assert results["server"].outcome is Outcome.FAILED
    assert proxy.address in results["server"].remedy


def test_credentials_that_the_crt_cannot_pass_on_are_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(monkeypatch, "http://user:p%40ss@proxy.test:3128")
    error = failure("crt", "http://hidden")
    assert (error.kind, error.code) == (ErrorKind.ENVIRONMENT, "bad-settings")
    assert "HTTP_PROXY" in error.hint


def test_the_passwords_of_all_proxies_are_known_as_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{ENCODED}@proxy:3128")
    monkeypatch.setenv("http_proxy", "user:w@rd@proxy")
    assert sorted(proxy_passwords()) == sorted([ENCODED, "w@rd"])
