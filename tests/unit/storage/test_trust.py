"""The certificate authorities of every connection, chosen by botocore's rule."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from botocore.httpsession import get_cert_path

from storage import (
    Distribution,
    ErrorKind,
    ObjectStore,
    Outcome,
    PublicCheck,
    SourceFile,
    StorageError,
    Target,
    Verdict,
    check_storage,
)
from storage.aws.sessions import BoundedSession
from storage.aws.trust import Trust
from tests.support.certificates import Certificate
from tests.support.fault_proxy import FaultProxy
from tests.support.s3_server import S3Server, config_for

pytestmark = pytest.mark.long

KEY = "videos/v/name_720p.mp4"


def directory_of(certificate: Certificate, tmp_path: Path) -> Path:
    """A directory of authorities without hashed names, beside a file that is none."""
    directory = tmp_path / "authorities"
    directory.mkdir()
    (directory / "README").write_text("Authorities of this site")
    for name in ("one.pem", "again.pem"):
        (directory / name).write_bytes(b"# a comment\n" + certificate.path.read_bytes())
    return directory


@pytest.fixture(params=["file", "directory"])
def trusted(
    request: pytest.FixtureRequest, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Certificate:
    """A certificate that is trusted by a file, and by a directory."""
    path = certificate.path if request.param == "file" else directory_of(certificate, tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
    return certificate


@pytest.fixture
def tls_proxy(s3: S3Server, trusted: Certificate) -> Iterator[FaultProxy]:
    with FaultProxy(s3.url, tls=trusted.server_side) as proxy:
        yield proxy


def test_an_object_is_stored_confirmed_fetched_and_deleted_behind_a_private_authority(
    tls_proxy: FaultProxy, bucket: str, source_of: Callable[[bytes], SourceFile]
) -> None:
    source = source_of(bytes(1000))
    config = config_for(tls_proxy.url, bucket, acl="public-read")
    with ObjectStore(config) as store:
        checksum = source.checksum()
        store.upload(source, Target(KEY, "video/mp4"), checksum=checksum, progress=lambda _sent: None)
        found = store.confirm(KEY, size=source.size, checksum=checksum, proven_etag=None)
        assert found.verdict is Verdict.AGREES
        PublicCheck().require(
            f"{tls_proxy.url}/{bucket}/{KEY}", key=KEY, size=source.size, content_type="video/mp4"
        )
        store.delete(KEY)
        assert list(store.objects()) == []


def test_a_healthy_bucket_behind_a_private_authority_passes_the_checks(
    tls_proxy: FaultProxy, bucket: str
) -> None:
    results = list(check_storage(config_for(tls_proxy.url, bucket, acl="public-read"), cors_origins=()))
    assert {result.name for result in results if result.outcome is not Outcome.OK} == set()


def test_where_the_public_url_is_not_trusted_nothing_is_said_of_acls(
    proxy: FaultProxy, bucket: str, certificate: Certificate
) -> None:
    with FaultProxy(tls=certificate.server_side) as cdn:
        config = config_for(proxy.url, bucket, acl="public-read", base_url=cdn.url)
        results = {result.name: result for result in check_storage(config, cors_origins=())}
    assert "AWS_CA_BUNDLE" in results["public URL"].remedy
    assert "not tried" in results["ACL"].detail
    assert "AWS_S3_ACL" not in results["ACL"].remedy


def test_cloudfront_is_reached_behind_a_private_authority(trusted: Certificate) -> None:
    with (
        FaultProxy(fault=lambda _request, _forward: None, tls=trusted.server_side) as cloudfront,
        Distribution(
            config_for(
                "http://127.0.0.1:9",
                "bucket",
                cloudfront_distribution_id="E1",
                cloudfront_endpoint_url=cloudfront.url,
            )
        ) as distribution,
        pytest.raises(StorageError) as caught,
    ):
        distribution.invalidate(["/x"], reference="1")
    assert caught.value.code == "connection"
    assert len(cloudfront.requests) == 1


def path_of_trust() -> str:
    return Trust(BoundedSession()).path


def test_the_first_setting_that_names_authorities_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert path_of_trust() == get_cert_path(True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/requests")
    assert path_of_trust() == "/requests"
    profiles = tmp_path / "config"
    profiles.write_text("[default]\nca_bundle = /profile\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(profiles))
    assert path_of_trust() == "/profile"
    monkeypatch.setenv("AWS_CA_BUNDLE", "/environment")
    assert path_of_trust() == "/environment"


def test_a_directory_becomes_one_file_of_distinct_certificates(
    certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(directory_of(certificate, tmp_path)))
    trust = Trust(BoundedSession())
    try:
        content = Path(trust.bundle_file).read_text(encoding="ascii")
    finally:
        trust.close()
    assert content == trust.certificates
    assert content.count("BEGIN") == 1


@pytest.mark.parametrize("name", ["", "missing", "empty directory", "empty file"])
def test_a_path_without_certificates_is_for_the_operator_to_correct(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty directory").mkdir()
    (tmp_path / "empty file").touch()
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / name) if name else "")
    with pytest.raises(StorageError, match="AWS_CA_BUNDLE") as caught:
        Trust(BoundedSession()).context()
    assert (caught.value.kind, caught.value.code) == (ErrorKind.ENVIRONMENT, "bad-settings")
