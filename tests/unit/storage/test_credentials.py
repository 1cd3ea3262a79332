"""Where credentials come from, each way through boto3's chain, and that refused ones are read again."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import botocore.session
import pytest
import structlog
from botocore.credentials import Credentials, RefreshableCredentials, SSOProvider

from storage import AccessKey, ErrorKind, ObjectStore, SourceFile, StorageError, Target, check_storage
from storage.aws import credential_chain
from storage.aws.credential_chain import READ_AGAIN_SECONDS, CredentialChain
from tests.support.certificates import Certificate
from tests.support.fault_proxy import Answer, Fault, FaultProxy, Forward, Request, s3_error
from tests.support.forward_proxy import ForwardProxy
from tests.support.s3_server import REGION, S3Server, config_for

pytestmark = pytest.mark.long

KEY = "videos/v/name_720p.mp4"
FOUND = {"AccessKeyId": "found", "SecretAccessKey": "secret-of-found", "Token": "token-of-found"}
EXPIRATION = (datetime.now(UTC) + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ")

SourceOf = Callable[[bytes], SourceFile]


def only(access_key: str, refusal: Answer) -> Fault:
    """A server that knows only this access key."""

    def check(request: Request, forward: Forward) -> Answer:
        known = f"Credential={access_key}/" in request.headers.get("Authorization", "")
        return forward() if known else refusal

    return check


@pytest.fixture
def found_server(s3: S3Server) -> Iterator[FaultProxy]:
    """A server that knows only the access key that the stand-ins below hand out."""
    with FaultProxy(s3.url, only("found", s3_error(403, "InvalidAccessKeyId"))) as server:
        yield server


def ensure_found(server: FaultProxy, bucket: str, source: SourceFile, said: str) -> None:
    """The CRT and boto3 are accepted, and `doctor` says where the credentials are from."""
    config = config_for(server.url, bucket, access_key_id=None, secret_access_key=None)
    with ObjectStore(config) as store:
        store.upload(source, Target(KEY, "video/mp4"), checksum=source.checksum())
        assert [found.key for found in store.objects()] == [KEY]
    results = {result.name: result for result in check_storage(config, cors_origins=())}
    assert f"found in {said}, and the server accepts them" in results["credentials"].detail
    assert all("X-Amz-Security-Token" in request.headers for request in server.requests[:2])


def test_an_instances_role_is_found_by_imds_v2(
    found_server: FaultProxy, bucket: str, source_of: SourceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in refuses version 1. See
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html."""

    def metadata(request: Request, _forward: Forward) -> Answer:
        if (request.method, request.path) == ("PUT", "/latest/api/token"):
            return Answer(200, {}, b"session")
        if request.headers.get("x-aws-ec2-metadata-token") != "session":
            return Answer(401)
        path = "/latest/meta-data/iam/security-credentials/"
        roles = {path: b"role", f"{path}role": json.dumps(FOUND | {"Expiration": EXPIRATION}).encode()}
        return Answer(200, {}, roles[request.path]) if request.path in roles else Answer(404)

    with FaultProxy(fault=metadata) as imds:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", imds.url)
        ensure_found(found_server, bucket, source_of(b"x"), "the instance's role")


@pytest.mark.parametrize(("bundle", "exceptions"), [("file", ""), ("directory", ""), ("file", "127.0.0.0/8")])
def test_a_web_identity_is_exchanged_through_the_proxy_and_with_the_authorities_of_all_clients(
    found_server: FaultProxy,
    bucket: str,
    source_of: SourceOf,
    certificate: Certificate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bundle: str,
    exceptions: str,
) -> None:
    """See https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html."""

    def exchange(request: Request, _forward: Forward) -> Answer:
        asked = parse_qs(request.body.decode())
        assert asked["WebIdentityToken"] == ["identity"]
        fields = {**FOUND, "SessionToken": FOUND["Token"], "Expiration": EXPIRATION}
        inner = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items() if name != "Token")
        action = "AssumeRoleWithWebIdentity"
        body = (
            f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result>'
            f"<Credentials>{inner}</Credentials></{action}Result></{action}Response>"
        )
        return Answer(200, {"content-type": "text/xml"}, body.encode())

    token = tmp_path / "token"
    token.write_text("identity")
    authorities = tmp_path / "authorities"
    authorities.mkdir()
    (authorities / "one.pem").write_bytes(certificate.path.read_bytes())
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.path if bundle == "file" else authorities))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/uploader")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    with FaultProxy(fault=exchange, tls=certificate.server_side) as sts, ForwardProxy() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", exceptions)
        ensure_found(found_server, bucket, source_of(b"x"), "a role that is assumed with a web identity")
        assert sts.requests
    expected = [] if exceptions else [sts.url.removeprefix("https://")] * len(sts.requests)
    assert proxy.targets == expected


def test_sts_is_asked_in_the_region_of_the_bucket_and_a_proxy_before_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("identity")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/uploader")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    config = config_for("http://127.0.0.1:9", "b", access_key_id=None, secret_access_key=None)
    with ForwardProxy(refusal=403) as proxy, ObjectStore(config) as store:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(StorageError) as caught:
            list(store.objects())
    assert proxy.targets[0] == f"sts.{REGION}.amazonaws.com:443"
    assert (caught.value.kind, caught.value.code) == (ErrorKind.ENVIRONMENT, "proxy-refused")


def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(f"[default]\n{text}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))


def test_a_credential_process_is_run(
    found_server: FaultProxy,
    bucket: str,
    source_of: SourceOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """See https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-sourcing-external.html."""
    answer = {"Version": 1, **FOUND, "SessionToken": FOUND["Token"]}
    script = tmp_path / "credentials"
    script.write_text(f"#!{sys.executable}\nprint({json.dumps(answer)!r})\n")
    script.chmod(stat.S_IRWXU)
    config_file(tmp_path, monkeypatch, f"credential_process = {script}")
    ensure_found(found_server, bucket, source_of(b"x"), "the configured process")


def test_single_sign_on_is_asked_with_the_token_of_its_login(
    found_server: FaultProxy,
    bucket: str,
    source_of: SourceOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """See https://docs.aws.amazon.com/singlesignon/latest/PortalAPIReference/API_GetRoleCredentials.html."""
    start_url = "https://portal.example/start"

    def portal(request: Request, _forward: Forward) -> Answer:
        assert request.headers["x-amz-sso_bearer_token"] == "login"
        role = {
            "accessKeyId": "found",
            "secretAccessKey": FOUND["SecretAccessKey"],
            "sessionToken": FOUND["Token"],
            "expiration": int((datetime.now(UTC) + timedelta(hours=6)).timestamp() * 1000),
        }
        body = json.dumps({"roleCredentials": role})
        return Answer(200, {"content-type": "application/json"}, body.encode())

    name = hashlib.sha1(start_url.encode()).hexdigest()  # botocore's name of the file
    login = {"startUrl": start_url, "region": "r-1", "accessToken": "login", "expiresAt": EXPIRATION}
    (tmp_path / f"{name}.json").write_text(json.dumps(login))
    monkeypatch.setattr(SSOProvider, "_SSO_TOKEN_CACHE_DIR", str(tmp_path))
    config_file(
        tmp_path,
        monkeypatch,
        f"sso_start_url = {start_url}\nsso_region = r-1\nsso_account_id = 1\nsso_role_name = r",
    )
    with FaultProxy(fault=portal) as sso:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SSO", sso.url)
        ensure_found(found_server, bucket, source_of(b"x"), "single sign-on")


def write_keys(path: Path, access_key: str) -> None:
    """Replace a credentials file as rotating programs do."""
    fresh = path.with_suffix(".new")
    fresh.write_text(f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = secret\n")
    os.replace(fresh, path)


REFUSALS = [
    s3_error(403, "InvalidAccessKeyId"),
    s3_error(403, "SignatureDoesNotMatch"),
    s3_error(403, "AccessDenied"),
    s3_error(400, "ExpiredToken"),
    Answer(403),
    Answer(400),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: f"{refusal.status} {refusal.body[:30]!r}")
@pytest.mark.parametrize("way", ["crt", "boto3"])
def test_keys_that_were_replaced_on_disk_are_used_once_the_old_ones_are_refused(
    proxy: FaultProxy,
    bucket: str,
    source_of: SourceOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refusal: Answer,
    way: str,
) -> None:
    monkeypatch.setattr(credential_chain, "READ_AGAIN_SECONDS", 0.0)
    source, path = source_of(b"x"), tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    write_keys(path, "old")
    proxy.fault = only("new", refusal)
    with ObjectStore(config_for(proxy.url, bucket, access_key_id=None, secret_access_key=None)) as store:

        def ask() -> None:
            if way == "boto3":
                list(store.objects())
            else:
                store.upload(source, Target(KEY, "video/mp4"), checksum=source.checksum())

        with pytest.raises(StorageError) as caught:
            ask()
        assert caught.value.kind is ErrorKind.ENVIRONMENT
        write_keys(path, "new")
        with structlog.testing.capture_logs() as logs:
            ask()
            ask()
    assert [event["event"] for event in logs] == ["credentials_replaced"]


def test_other_keys_can_be_given_while_a_store_is_used(proxy: FaultProxy, bucket: str) -> None:
    proxy.fault = only("new", s3_error(403, "InvalidAccessKeyId"))
    with ObjectStore(config_for(proxy.url, bucket)) as store:
        with pytest.raises(StorageError):
            list(store.objects())
        store.use_credentials(AccessKey("new", "secret"))
        assert list(store.objects()) == []
        store.confirm(KEY, size=1, checksum="AAAAAAAAAAA=", proven_etag=None)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Searches:
    """Counts how often the chain is searched; what it finds is `found`."""

    def __init__(self, found: Credentials) -> None:
        self.count = 0
        self._found = found

    def __call__(self) -> Any:
        self.count += 1
        session: Any = botocore.session.Session()
        session._credentials = self._found
        return session


def test_refused_keys_are_read_again_at_most_once_in_ten_seconds() -> None:
    clock, searches = Clock(), Searches(Credentials("a", "b"))
    chain = CredentialChain(None, searches, clock=clock)
    counts = []
    for seconds in (0.0, READ_AGAIN_SECONDS - 1, 1.0, 1.0, READ_AGAIN_SECONDS):
        clock.now += seconds
        chain.get_frozen_credentials()
        chain.note_refusal("InvalidAccessKeyId", 403)
        chain.get_frozen_credentials()
        counts.append(searches.count)
    assert counts == [1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("code", "status", "renews_itself", "is_read_again"),
    [
        ("NoSuchBucket", 404, False, False),
        ("InvalidRequest", 400, False, False),
        ("AccessDenied", 403, False, True),
        ("AccessDenied", 403, True, False),
        ("http-403", 403, True, False),
        ("ExpiredToken", 400, True, True),
    ],
)
def test_what_renews_itself_is_searched_again_only_if_it_is_the_credentials_that_are_refused(
    code: str, status: int, renews_itself: bool, is_read_again: bool
) -> None:
    found = Credentials("a", "b")
    if renews_itself:
        expiry = datetime.now(UTC) + timedelta(hours=6)
        found = RefreshableCredentials("a", "b", "c", expiry, dict, "iam-role")
    clock, searches = Clock(), Searches(found)
    chain = CredentialChain(None, searches, clock=clock)
    chain.get_frozen_credentials()
    clock.now += READ_AGAIN_SECONDS
    chain.note_refusal(code, status)
    chain.get_frozen_credentials()
    assert searches.count == 1 + is_read_again


def test_keys_of_the_configuration_are_not_searched_for() -> None:
    searches = Searches(Credentials("a", "b"))
    chain = CredentialChain(AccessKey("x", "y"), searches, clock=Clock())
    chain.note_refusal("InvalidAccessKeyId", 403)
    assert chain.get_frozen_credentials().access_key == "x"
    assert searches.count == 0
