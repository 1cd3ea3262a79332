"""The checks of S3 on a server that works, and on one with each fault that they detect."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from storage import (
    BucketAdmin,
    CheckResult,
    ObjectStore,
    Outcome,
    StorageConfig,
    check_storage,
    desired_documents,
)
from storage.anonymous_http import AnonymousHttp
from storage.bucket.documents import DesiredBucket
from storage.checks.connectivity import BASICS
from storage.checks.probe_object import CONTENT, ProbeObject
from storage.proof_by_reading import keeps_objects
from tests.support.certificates import Certificate
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, no_fault, s3_error
from tests.support.s3_server import REGION, S3Server, config_for

pytestmark = pytest.mark.long

Checked = dict[str, CheckResult]
ORIGINS = ("https://player.example",)


def check(config: StorageConfig, **options: Any) -> Checked:
    results = list(check_storage(config, **{"cors_origins": ORIGINS} | options))
    assert len({result.name for result in results}) == len(results)
    return {result.name: result for result in results}


def failures(checked: Checked) -> set[str]:
    return {result.name for result in checked.values() if result.outcome is Outcome.FAILED}


def warnings(checked: Checked) -> set[str]:
    return {result.name for result in checked.values() if result.outcome is Outcome.WARNING}


def leftovers(s3: S3Server, bucket: str) -> list[object]:
    client = s3.client()
    versions = client.list_object_versions(Bucket=bucket)
    return [
        *versions.get("Versions", []),
        *versions.get("DeleteMarkers", []),
        *client.list_multipart_uploads(Bucket=bucket).get("Uploads", []),
    ]


@pytest.fixture
def ready(s3: S3Server, bucket: str) -> str:
    """A bucket as `bucket setup` leaves it."""
    desired = DesiredBucket(
        bucket=bucket, prefix="videos", region=REGION, uses_acl=True, cors_origins=ORIGINS
    )
    with BucketAdmin(config_for(s3.url, bucket)) as admin:
        for part, document in desired_documents(admin.read(), desired).items():
            if document is not None:
                admin.write(part, document)
    return bucket


@pytest.fixture
def config(proxy: FaultProxy, ready: str) -> StorageConfig:
    return config_for(proxy.url, ready, acl="public-read")


def answering(picks: Callable[[Request], bool], answer: Answer) -> Callable[[Request, Forward], Answer]:
    return lambda request, forward: answer if picks(request) else forward()


def always(answer: Answer) -> Callable[[Request, Forward], Answer]:
    def fault(request: Request, forward: Forward) -> Answer:
        return answer

    return fault


def having(**changes: str | None) -> Callable[[Request, Forward], Answer]:
    def fault(request: Request, forward: Forward) -> Answer:
        return forward().having(**changes)

    return fault


def header(request: Request, name: str) -> str:
    return next((value for given, value in request.headers.items() if given.lower() == name), "")


def signed(request: Request) -> bool:
    return bool(header(request, "authorization"))


def test_where_everything_is_right_every_check_is_ok_and_nothing_stays(
    config: StorageConfig, s3: S3Server, ready: str
) -> None:
    checked = check(config)
    assert {result.outcome for result in checked.values()} == {Outcome.OK}
    assert tuple(checked) == (*BASICS, "ListBucket", *ProbeObject.NAMES)
    assert leftovers(s3, ready) == []


def test_on_a_bucket_with_versions_no_version_of_the_probe_stays(
    s3: S3Server, proxy: FaultProxy, ready: str
) -> None:
    s3.client().put_bucket_versioning(Bucket=ready, VersioningConfiguration={"Status": "Enabled"})
    assert check(config_for(proxy.url, ready))["DeleteObject"].outcome is Outcome.OK
    assert leftovers(s3, ready) == []


@pytest.mark.parametrize("may_remove", [True, False])
def test_on_a_bucket_with_versions_nothing_that_was_tried_out_stays(
    s3: S3Server, proxy: FaultProxy, ready: str, may_remove: bool
) -> None:
    """A version that may not be removed is hidden behind a delete marker."""
    s3.client().put_bucket_versioning(Bucket=ready, VersioningConfiguration={"Status": "Enabled"})
    if not may_remove:
        denied = answering(lambda request: "versionId=" in request.path, s3_error(403, "AccessDenied"))
        proxy.fault = denied
    config = config_for(proxy.url, ready)
    with ObjectStore(config) as store:
        assert store.makes_etags_of_md5s()
        assert keeps_objects(store._crt, config)
        store.compares_checksums()
    assert "Contents" not in s3.client().list_objects_v2(Bucket=ready)
    assert (leftovers(s3, ready) == []) is may_remove


def test_versions_that_may_not_be_removed_are_reported(
    config: StorageConfig, proxy: FaultProxy, s3: S3Server, ready: str
) -> None:
    s3.client().put_bucket_versioning(Bucket=ready, VersioningConfiguration={"Status": "Enabled"})
    proxy.fault = answering(lambda request: "versionId=" in request.path, s3_error(403, "AccessDenied"))
    checked = check(config)
    assert (failures(checked), warnings(checked)) == (set(), {"DeleteObject"})


def test_checks_that_are_closed_early_leave_nothing_behind(
    config: StorageConfig, s3: S3Server, ready: str
) -> None:
    results = check_storage(config)
    while next(results).name != "GetObject":
        pass
    assert leftovers(s3, ready) != []
    results.close()
    assert leftovers(s3, ready) == []


@pytest.mark.parametrize(
    ("code", "status", "unmet"),
    [
        ("InvalidAccessKeyId", 403, "credentials"),
        ("SignatureDoesNotMatch", 403, "credentials"),
        ("ExpiredToken", 400, "credentials"),
        ("RequestTimeTooSkewed", 403, "clock"),
        ("NoSuchBucket", 404, "bucket"),
        ("AuthorizationHeaderMalformed", 400, "region"),
        ("PermanentRedirect", 301, "region"),
        ("InternalError", 500, "bucket"),
    ],
)
def test_the_first_refusal_is_reported_with_its_reason_and_nothing_is_stored(
    config: StorageConfig, proxy: FaultProxy, code: str, status: int, unmet: str
) -> None:
    proxy.fault = answering(lambda request: request.method == "GET", s3_error(status, code))
    checked = check(config)
    assert failures(checked) == {unmet}
    assert checked[unmet].remedy
    assert set(checked) == {*BASICS, "ListBucket", *ProbeObject.NAMES}
    assert checked["PutObject"].outcome is Outcome.WARNING
    assert unmet in checked["PutObject"].detail
    assert {request.method for request in proxy.requests} <= {"GET", "HEAD"}


def test_without_credentials_anywhere_nothing_is_asked(proxy: FaultProxy, ready: str) -> None:
    checked = check(config_for(proxy.url, ready, access_key_id=None, secret_access_key=None))
    assert failures(checked) == {"credentials"}
    assert "AWS_ACCESS_KEY_ID" in checked["credentials"].remedy
    assert proxy.requests == []


def test_the_source_of_the_credentials_is_reported(
    proxy: FaultProxy, ready: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "credentials"
    shared.write_text("[default]\naws_access_key_id = shared\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))
    checked = check(config_for(proxy.url, ready, access_key_id=None, secret_access_key=None))
    assert "the shared credentials file" in checked["credentials"].detail
    explicit = check(config_for(proxy.url, ready))
    assert "AWS_ACCESS_KEY_ID" in explicit["credentials"].detail


def test_a_profile_that_is_not_there_is_a_failed_check(
    config: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert failures(check(config)) == {"credentials"}


def test_a_server_that_does_not_answer_is_reported_first(ready: str) -> None:
    checked = check(config_for("http://127.0.0.1:9", ready))
    assert failures(checked) == {"server"}
    assert next(iter(checked)) == "server"
    assert "AWS_ENDPOINT_URL" in checked["server"].remedy


@pytest.mark.parametrize(
    ("off", "outcome", "word"),
    [
        (timedelta(minutes=14), Outcome.WARNING, "ahead"),
        (timedelta(minutes=-14), Outcome.WARNING, "behind"),
        (timedelta(minutes=16), Outcome.FAILED, "ahead"),
        (timedelta(minutes=-16), Outcome.FAILED, "behind"),
        (timedelta(seconds=20), Outcome.OK, "agrees"),
    ],
)
def test_a_wrong_clock_is_measured_by_the_servers(
    config: StorageConfig, off: timedelta, outcome: Outcome, word: str
) -> None:
    clock = check(config, clock=lambda: datetime.now(UTC) + off)["clock"]
    assert clock.outcome is outcome
    assert word in clock.detail


@pytest.mark.parametrize("date", [None, "yesterday"])
def test_a_server_that_sends_no_date_is_a_warning(
    config: StorageConfig, proxy: FaultProxy, date: str | None
) -> None:
    proxy.fault = having(date=date)
    assert check(config)["clock"].outcome is Outcome.WARNING


def test_a_bucket_in_another_region_is_named_with_the_region_it_is_in(proxy: FaultProxy, ready: str) -> None:
    checked = check(config_for(proxy.url, ready, region="eu-west-1"))
    assert failures(checked) == {"region"}
    assert f"Set AWS_REGION to {REGION}" in checked["region"].remedy


def has(query: str, method: str) -> Callable[[Request], bool]:
    return lambda request: request.method == method and query in request.path and signed(request)


@pytest.mark.parametrize(
    ("picks", "unmet", "action"),
    [
        (lambda request: request.action == "PutObject", "PutObject", "s3:PutObject"),
        (lambda request: bool(header(request, "x-amz-acl")), "PutObjectAcl", "s3:PutObjectAcl"),
        (
            lambda request: has("probe", "GET")(request) and "?" not in request.path,
            "GetObject",
            "s3:GetObject",
        ),
        (lambda request: request.action == "CreateMultipartUpload", "multipart", "s3:AbortMultipartUpload"),
        (lambda request: request.action == "AbortMultipartUpload", "multipart", "s3:AbortMultipartUpload"),
        (has("uploadId", "GET"), "multipart", "s3:ListMultipartUploadParts"),
        (has("uploads", "GET"), "multipart", "s3:ListBucketMultipartUploads"),
        (lambda request: request.action == "DeleteObject", "DeleteObject", "s3:DeleteObject"),
        (has("list-type", "GET"), "ListBucket", "s3:ListBucket"),
    ],
)
def test_each_permission_that_is_missing_is_named(
    config: StorageConfig,
    proxy: FaultProxy,
    picks: Callable[[Request], bool],
    unmet: str,
    action: str,
) -> None:
    proxy.fault = answering(picks, s3_error(403, "AccessDenied"))
    checked = check(config)
    assert failures(checked) == {unmet}
    assert action in checked[unmet].remedy
    assert "--iam" in checked[unmet].remedy


def test_a_head_that_is_refused_is_a_missing_permission(config: StorageConfig, proxy: FaultProxy) -> None:
    proxy.fault = answering(lambda request: request.method == "HEAD" and "probe" in request.path, Answer(403))
    assert failures(check(config)) == {"HeadObject", "checksums"}


def test_a_probe_that_cannot_be_deleted_is_named(config: StorageConfig, proxy: FaultProxy) -> None:
    proxy.fault = answering(lambda request: request.action == "DeleteObject", s3_error(403, "AccessDenied"))
    assert "videos/.video-uploader-probe-" in check(config)["DeleteObject"].detail


def test_an_object_that_comes_back_different_is_reported(config: StorageConfig, proxy: FaultProxy) -> None:
    def fault(request: Request, forward: Forward) -> Answer:
        answer = forward()
        is_get = request.method == "GET" and answer.body == CONTENT
        return Answer(200, {"content-type": "text/plain"}, b"an error page") if is_get else answer

    proxy.fault = fault
    assert failures(check(config)) == {"GetObject", "public URL"}


def test_disabled_acls_do_no_harm_where_the_policy_makes_objects_public(
    config: StorageConfig, proxy: FaultProxy
) -> None:
    refused = s3_error(400, "AccessControlListNotSupported")
    proxy.fault = answering(lambda request: bool(header(request, "x-amz-acl")), refused)
    checked = check(config)
    assert (failures(checked), warnings(checked)) == (set(), {"PutObjectAcl", "ACL"})


def test_disabled_acls_without_a_policy_fail_and_the_ways_out_are_named(
    config: StorageConfig, proxy: FaultProxy, s3: S3Server, ready: str
) -> None:
    s3.client().delete_bucket_policy(Bucket=ready)
    refused = s3_error(400, "AccessControlListNotSupported")
    proxy.fault = answering(lambda request: bool(header(request, "x-amz-acl")), refused)
    checked = check(config)
    assert failures(checked) == {"public URL", "ACL"}
    assert all(word in checked["ACL"].remedy for word in ("AWS_S3_ACL=none", "bucket policy", "CDN"))


def test_the_policy_alone_makes_objects_public(proxy: FaultProxy, ready: str) -> None:
    assert failures(check(config_for(proxy.url, ready))) == set()


def test_objects_that_are_not_public_fail_without_acl_and_policy(
    proxy: FaultProxy, s3: S3Server, ready: str
) -> None:
    s3.client().delete_bucket_policy(Bucket=ready)
    checked = check(config_for(proxy.url, ready))
    assert failures(checked) == {"public URL", "ACL"}
    assert "403" in checked["public URL"].detail


def test_a_base_url_that_leads_elsewhere_is_reported(proxy: FaultProxy, ready: str) -> None:
    checked = check(config_for(proxy.url, ready, base_url=f"{proxy.url}/another-bucket"))
    assert failures(checked) == {"public URL", "CORS"}
    assert "AWS_S3_BASE_URL" in checked["public URL"].remedy
    assert "not tried" in checked["ACL"].detail


def test_a_base_url_that_does_not_answer_is_reported(proxy: FaultProxy, ready: str) -> None:
    checked = check(config_for(proxy.url, ready, base_url="http://127.0.0.1:9/there"))
    assert failures(checked) == {"public URL", "CORS"}
    assert "not tried" in checked["ACL"].detail


def test_every_origin_is_asked_for_and_those_that_are_refused_are_named(config: StorageConfig) -> None:
    checked = check(config, cors_origins=("https://player.example", "https://other.example"))
    assert failures(checked) == {"CORS"}
    assert "https://other.example" in checked["CORS"].detail
    assert "https://player.example" not in checked["CORS"].detail


@pytest.mark.parametrize(
    "change",
    [
        {"access_control_allow_origin": None},
        {"access_control_allow_methods": "PUT"},
        {"access_control_allow_headers": "content-type"},
    ],
)
def test_a_preflight_must_allow_origin_method_and_ranges(
    config: StorageConfig, proxy: FaultProxy, change: dict[str, str | None]
) -> None:
    def fault(request: Request, forward: Forward) -> Answer:
        return forward().having(**change) if request.method == "OPTIONS" else forward()

    proxy.fault = fault
    assert failures(check(config)) == {"CORS"}


def test_the_preflight_is_a_browsers(config: StorageConfig, proxy: FaultProxy) -> None:
    check(config, cors_origins=("*",))
    (preflight,) = (request for request in proxy.requests if request.method == "OPTIONS")
    assert not signed(preflight)
    assert header(preflight, "origin") == "https://player.example"
    assert header(preflight, "access-control-request-method") == "GET"
    assert header(preflight, "access-control-request-headers") == "range"


def test_whether_a_server_refuses_wrong_content_and_keeps_checksums_is_reported(
    config: StorageConfig, proxy: FaultProxy
) -> None:
    def strict(request: Request, forward: Forward) -> Answer:
        is_wrong = request.action == "PutObject" and CONTENT.upper() in request.body
        return s3_error(400, "BadDigest") if is_wrong else forward()

    proxy.fault = strict
    assert "refuses content" in check(config)["checksums"].detail
    proxy.fault = having(x_amz_checksum_crc64nvme=None)
    old = check(config)["checksums"]
    assert old.outcome is Outcome.OK
    assert "keeps no CRC64NVME" in old.detail


def test_a_server_that_proves_nothing_fails_unless_objects_are_read_back(
    config: StorageConfig, proxy: FaultProxy
) -> None:
    proxy.fault = having(x_amz_checksum_crc64nvme="AAAAAA==", etag='"opaque"')
    assert failures(check(replace(config, prove_by_reading=False))) == {"checksums"}
    found = check(config)
    assert not failures(found)
    assert found["checksums"].outcome is Outcome.WARNING


def test_a_bad_moment_of_the_server_says_so(config: StorageConfig, proxy: FaultProxy) -> None:
    proxy.fault = answering(lambda request: request.action == "PutObject", s3_error(503, "SlowDown"))
    checked = check(config)
    assert failures(checked) == {"PutObject"}
    assert "again" in checked["PutObject"].remedy


def test_the_cdn_is_asked_by_its_domain(
    config: StorageConfig, s3: S3Server, ready: str, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.path))

    def through(request: Request, forward: Forward) -> Answer:
        bare = f"{s3.url}/{ready}{request.path}"
        answer = AnonymousHttp().fetch(bare)
        return Answer(answer.status, {"x-cache": "Miss from cloudfront"}, answer.body)

    with FaultProxy(fault=through, tls=certificate.server_side) as cdn:
        domain = cdn.url.removeprefix("https://")
        good = check(config, cdn_domain=domain)["CDN"]
        cdn.fault = always(s3_error(403, "AccessDenied"))
        bad = check(config, cdn_domain=domain)["CDN"]
    assert (good.outcome, bad.outcome) == (Outcome.OK, Outcome.FAILED)
    assert "Miss from cloudfront" in good.detail
    assert "origin access control" in bad.remedy


def test_a_result_is_ready_for_json(config: StorageConfig, proxy: FaultProxy) -> None:
    proxy.fault = no_fault
    result = check(config)["server"]
    assert json.loads(json.dumps(result.as_dict())) == {
        "name": "server",
        "outcome": "ok",
        "detail": f"{proxy.url} answers.",
        "mend": "",
    }
