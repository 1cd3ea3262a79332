"""A bucket's documents are read and written on a real server; refusals are translated."""

import json

import pytest

from storage import BucketAdmin, ErrorKind, StorageError, is_unsupported
from storage.bucket.documents import (
    NEW_ELSEWHERE,
    NEW_ON_AWS,
    BucketDocument,
    DesiredBucket,
    Transition,
    desired_documents,
)
from tests.support.fault_proxy import Answer, Fault, FaultProxy, Forward, Request, s3_error
from tests.support.s3_server import REGION, S3Server, config_for

DESIRED = DesiredBucket(
    bucket="renditions",
    prefix="videos",
    region=REGION,
    uses_acl=True,
    cors_origins=("https://player.example", "https://other.example"),
    transition=Transition(30, "STANDARD_IA"),
    expire_days=400,
)


def refusing(query: str, *answers: Answer, method: str | None = None) -> Fault:
    def fault(request: Request, forward: Forward) -> Answer:
        named = query in request.path and method in (None, request.method)
        return answers[0] if named else forward()

    return fault


def test_a_bucket_is_made_in_the_configured_region_and_is_there_then(s3: S3Server) -> None:
    with BucketAdmin(config_for(s3.url, "made-here")) as admin:
        assert not admin.exists()
        admin.create()
        assert admin.exists()
    assert s3.client().get_bucket_location(Bucket="made-here")["LocationConstraint"] == REGION
    s3.forget_everything()


def test_the_oldest_region_is_not_named_when_a_bucket_is_made_in_it(proxy: FaultProxy, s3: S3Server) -> None:
    with BucketAdmin(config_for(proxy.url, "made-there", region="us-east-1")) as admin:
        admin.create()
    (request,) = proxy.requests
    assert request.body == b""
    s3.forget_everything()


def test_what_is_written_is_read_back_and_then_it_is_as_wanted(
    proxy: FaultProxy, bucket: str, s3: S3Server
) -> None:
    client = s3.client()
    client.put_public_access_block(
        Bucket=bucket,
        PublicAccessBlockConfiguration=dict(NEW_ON_AWS[BucketDocument.PUBLIC_ACCESS_BLOCK] or {}),  # type: ignore[arg-type]
    )
    client.put_bucket_ownership_controls(
        Bucket=bucket, OwnershipControls={"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    )
    with BucketAdmin(config_for(proxy.url, bucket)) as admin:
        asked = desired_documents(admin.read(), DESIRED)
        for part, document in asked.items():
            assert document is not None
            admin.write(part, document)
        now = admin.read()
        assert desired_documents(now, DESIRED) == now
    assert not any(client.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    controls = client.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]
    assert controls == {"Rules": [{"ObjectOwnership": "BucketOwnerPreferred"}]}
    assert json.loads(client.get_bucket_policy(Bucket=bucket)["Policy"]) == asked[BucketDocument.POLICY]


def test_an_empty_bucket_has_no_documents(s3: S3Server, bucket: str) -> None:
    with BucketAdmin(config_for(s3.url, bucket)) as admin:
        assert admin.read() == NEW_ELSEWHERE == admin.new_bucket


@pytest.mark.parametrize("endpoint", [None, "https://s3.eu-central-1.amazonaws.com"])
def test_a_new_bucket_on_aws_is_expected_to_be_closed(endpoint: str | None) -> None:
    """Also where AWS's endpoint is named."""
    with BucketAdmin(config_for("", "renditions", endpoint_url=endpoint)) as admin:
        assert admin.new_bucket == NEW_ON_AWS


def test_a_bucket_in_another_region_is_an_error_that_names_it(s3: S3Server, bucket: str) -> None:
    with (
        BucketAdmin(config_for(s3.url, bucket, region="eu-west-1")) as admin,
        pytest.raises(StorageError) as caught,
    ):
        admin.exists()
    assert (caught.value.kind, caught.value.code) == (ErrorKind.ENVIRONMENT, "wrong-region")
    assert REGION in caught.value.hint


def test_a_refusal_names_the_permissions_that_are_missing(proxy: FaultProxy, bucket: str) -> None:
    proxy.fault = refusing("?cors", s3_error(403, "AccessDenied"))
    with BucketAdmin(config_for(proxy.url, bucket)) as admin, pytest.raises(StorageError) as caught:
        admin.read()
    assert (caught.value.kind, caught.value.code) == (ErrorKind.ENVIRONMENT, "AccessDenied")
    assert caught.value.operation == "read the bucket's CORS"
    assert "s3:GetBucketCORS" in caught.value.hint


def test_a_bucket_of_another_account_is_neither_there_nor_missing(proxy: FaultProxy, bucket: str) -> None:
    proxy.fault = refusing("", Answer(403))
    with BucketAdmin(config_for(proxy.url, bucket)) as admin, pytest.raises(StorageError) as caught:
        admin.exists()
    assert (caught.value.kind, caught.value.code) == (ErrorKind.ENVIRONMENT, "http-403")


def test_what_the_server_does_not_take_says_its_reason_and_is_not_tried_again(
    proxy: FaultProxy, bucket: str
) -> None:
    proxy.fault = refusing("?policy", s3_error(400, "MalformedPolicy", "Invalid principal in policy."))
    with BucketAdmin(config_for(proxy.url, bucket)) as admin, pytest.raises(StorageError) as caught:
        admin.write(BucketDocument.POLICY, {"Statement": []})
    assert (caught.value.kind, caught.value.code) == (ErrorKind.ENVIRONMENT, "MalformedPolicy")
    assert "Invalid principal in policy" in caught.value.hint
    assert len(proxy.requests) == 1


def test_a_server_with_a_bad_moment_is_transient(proxy: FaultProxy, bucket: str) -> None:
    proxy.fault = refusing("?policy", s3_error(503, "SlowDown"))
    with BucketAdmin(config_for(proxy.url, bucket)) as admin, pytest.raises(StorageError) as caught:
        admin.read()
    assert (caught.value.kind, caught.value.code) == (ErrorKind.TRANSIENT, "SlowDown")


def test_a_bucket_name_of_another_account_is_a_setting_to_change(proxy: FaultProxy) -> None:
    proxy.fault = refusing("", s3_error(409, "BucketAlreadyExists"))
    with BucketAdmin(config_for(proxy.url, "taken-name")) as admin, pytest.raises(StorageError) as caught:
        admin.create()
    assert caught.value.kind is ErrorKind.ENVIRONMENT
    assert "AWS_S3_BUCKET" in caught.value.hint


@pytest.mark.parametrize("answer", [s3_error(501, "NotImplemented"), s3_error(405, "MethodNotAllowed")])
def test_a_document_that_a_server_does_not_know_is_left_out(
    proxy: FaultProxy, bucket: str, answer: Answer
) -> None:
    proxy.fault = refusing("?ownershipControls", answer)
    with BucketAdmin(config_for(proxy.url, bucket)) as admin:
        assert set(BucketDocument) - admin.read().keys() == {BucketDocument.OWNERSHIP}
        with pytest.raises(StorageError) as caught:
            admin.write(BucketDocument.OWNERSHIP, {"Rules": [{"ObjectOwnership": "ObjectWriter"}]})
    assert is_unsupported(caught.value)


def test_a_lifecycle_is_written_with_the_setting_that_belongs_to_all_its_rules(
    proxy: FaultProxy, bucket: str, s3: S3Server
) -> None:
    with BucketAdmin(config_for(proxy.url, bucket)) as admin:
        lifecycle = desired_documents({BucketDocument.LIFECYCLE: None}, DESIRED)[BucketDocument.LIFECYCLE]
        assert lifecycle is not None
        admin.write(
            BucketDocument.LIFECYCLE,
            {**lifecycle, "TransitionDefaultMinimumObjectSize": "varies_by_storage_class"},
        )
    headers = {name.lower(): value for name, value in proxy.requests[-1].headers.items()}
    assert headers["x-amz-transition-default-minimum-object-size"] == "varies_by_storage_class"
