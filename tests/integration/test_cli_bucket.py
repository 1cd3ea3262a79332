"""`bucket setup` and `bucket show` as processes, on a real S3 server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.request import Request as UrlRequest
from urllib.request import urlopen

import pytest

from tests.support.cli_process import Command
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, s3_error
from tests.support.harness import BUCKET
from tests.support.s3_server import REGION, S3Server

pytestmark = pytest.mark.long

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

THEIRS = {
    "Sid": "TheirBackup",
    "Effect": "Allow",
    "Principal": {"AWS": "arn:aws:iam::111122223333:root"},
    "Action": "s3:GetObject",
    "Resource": f"arn:aws:s3:::{BUCKET}/backup/*",
}
THEIR_ORIGIN = {"ID": "studio", "AllowedMethods": ["PUT"], "AllowedOrigins": ["https://studio.example"]}
THEIR_RULE = {"ID": "logs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}
CLOSED = {
    "BlockPublicAcls": True,
    "IgnorePublicAcls": True,
    "BlockPublicPolicy": True,
    "RestrictPublicBuckets": True,
}


@pytest.fixture
def empty(s3: S3Server) -> Iterator[S3Server]:
    """The S3 server without any bucket."""
    yield s3
    s3.forget_everything()


@pytest.fixture
def proxy(empty: S3Server) -> Iterator[FaultProxy]:
    """A proxy before it."""
    with FaultProxy(empty.url) as running:
        yield running


@pytest.fixture
def command(place: str, proxy: FaultProxy) -> Command:
    """The command before the proxy."""
    return Command(place, proxy.url)


@pytest.fixture
def others(empty: S3Server) -> S3Client:
    """A bucket as AWS makes it, with documents of other programs."""
    empty.create_bucket(BUCKET)
    client = empty.client()
    client.put_bucket_policy(
        Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": [THEIRS]})
    )
    client.put_bucket_cors(Bucket=BUCKET, CORSConfiguration={"CORSRules": [THEIR_ORIGIN]})  # type: ignore[list-item]
    client.put_bucket_lifecycle_configuration(
        Bucket=BUCKET,
        LifecycleConfiguration={"Rules": [THEIR_RULE]},  # type: ignore[list-item]
    )
    client.put_public_access_block(Bucket=BUCKET, PublicAccessBlockConfiguration=CLOSED)  # type: ignore[arg-type]
    client.put_bucket_ownership_controls(
        Bucket=BUCKET, OwnershipControls={"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    )
    return client


def policy(client: S3Client) -> Any:
    return json.loads(client.get_bucket_policy(Bucket=BUCKET)["Policy"])


def writes(proxy: FaultProxy) -> list[Request]:
    return [request for request in proxy.requests if request.method not in ("GET", "HEAD")]


def test_a_missing_bucket_is_made_and_set_up_and_the_second_run_writes_nothing(
    command: Command, proxy: FaultProxy, empty: S3Server
) -> None:
    first = command("bucket", "setup")
    assert (first.code, first.err) == (0, "")
    assert first.out.startswith(f"Creating the bucket {BUCKET} in {REGION}.\n")
    client = empty.client()
    assert client.get_bucket_location(Bucket=BUCKET)["LocationConstraint"] == REGION
    (statement,) = policy(client)["Statement"]
    assert statement["Resource"] == f"arn:aws:s3:::{BUCKET}/videos/*"
    proxy.requests.clear()
    second = command("bucket", "setup")
    assert (second.code, second.err) == (0, "")
    assert second.out.count("as required") == 5
    assert writes(proxy) == []


def test_the_prefix_is_public_then_and_only_the_prefix(command: Command, empty: S3Server) -> None:
    command("bucket", "setup", AWS_S3_ACL="none")
    client = empty.client()
    for key in ("videos/a/b.mp4", "private.txt"):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"content")
    with urlopen(f"{empty.url}/{BUCKET}/videos/a/b.mp4") as answer:
        assert answer.read() == b"content"
    with pytest.raises(OSError, match="403"):
        urlopen(f"{empty.url}/{BUCKET}/private.txt")


def test_a_dry_run_shows_what_would_change_and_writes_nothing(
    command: Command, proxy: FaultProxy, others: S3Client
) -> None:
    before = policy(others)
    ran = command("bucket", "setup", "--dry-run")
    assert (ran.code, ran.err) == (0, "")
    assert writes(proxy) == []
    assert policy(others) == before
    for line in (
        '+      "Sid": "video-uploader-public-read-videos"',
        '-  "BlockPublicPolicy": true,',
        '+  "BlockPublicPolicy": false,',
        '-      "ObjectOwnership": "BucketOwnerEnforced"',
        '+      "ObjectOwnership": "BucketOwnerPreferred"',
        '       "Sid": "TheirBackup"',
    ):
        assert line in [shown.removeprefix("  ") for shown in ran.out.splitlines()], line
    assert ran.out.endswith("Nothing was written.\n")


def test_a_dry_run_makes_no_bucket(command: Command, proxy: FaultProxy, empty: S3Server) -> None:
    ran = command("bucket", "setup", "--dry-run")
    assert (ran.code, ran.out.splitlines()[0]) == (0, f"Would create the bucket {BUCKET} in {REGION}.")
    assert writes(proxy) == []
    assert empty.client().list_buckets()["Buckets"] == []


def test_a_dry_run_shows_what_would_change_in_a_bucket_that_is_missing(
    command: Command, empty: S3Server
) -> None:
    """A new one on AWS is closed. Whether that of another server is can only be seen once it is there."""
    lines = command("bucket", "setup", "--dry-run").out.splitlines()
    for part in ("public access block", "object ownership"):
        assert f"{part}: would be changed, if this server gives it to a new bucket as AWS does." in lines
    assert '  +  "BlockPublicPolicy": false,' in lines
    assert '  +      "ObjectOwnership": "BucketOwnerPreferred"' in lines
    assert "policy: would be changed." in lines


def test_what_belongs_to_others_stays(command: Command, others: S3Client) -> None:
    ran = command("bucket", "setup", CORS_ORIGINS="https://a.example, https://b.example")
    assert (ran.code, ran.err) == (0, "")
    assert policy(others)["Statement"][0] == THEIRS
    theirs, ours = others.get_bucket_cors(Bucket=BUCKET)["CORSRules"]
    assert theirs == THEIR_ORIGIN
    assert ours["AllowedOrigins"] == ["https://a.example", "https://b.example"]
    rules = others.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    assert rules[0] == THEIR_RULE
    assert rules[1]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert not any(others.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"].values())


def test_a_policy_lifts_only_what_stands_in_its_way(command: Command, others: S3Client) -> None:
    command("bucket", "setup", AWS_S3_ACL="none")
    block = others.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"]
    assert block == {**CLOSED, "BlockPublicPolicy": False, "RestrictPublicBuckets": False}
    controls = others.get_bucket_ownership_controls(Bucket=BUCKET)["OwnershipControls"]
    assert controls == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}


def test_the_lifecycle_follows_the_settings_there_and_back(command: Command, empty: S3Server) -> None:
    command(
        "bucket",
        "setup",
        LIFECYCLE_TRANSITION_DAYS="30",
        LIFECYCLE_TRANSITION_CLASS="STANDARD_IA",
        LIFECYCLE_EXPIRE_DAYS="365",
    )
    client = empty.client()
    (rule,) = client.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    assert rule["Transitions"] == [{"Days": 30, "StorageClass": "STANDARD_IA"}]
    assert rule["Expiration"] == {"Days": 365}
    command("bucket", "setup")
    (rule,) = client.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    assert "Transitions" not in rule
    assert "Expiration" not in rule


def test_days_without_a_class_are_a_setting_that_is_wrong(command: Command) -> None:
    ran = command("bucket", "show", LIFECYCLE_TRANSITION_DAYS="30")
    assert ran.code == 2
    assert "LIFECYCLE_TRANSITION_CLASS" in ran.err


def test_an_origin_that_is_none_is_a_setting_that_is_wrong(command: Command) -> None:
    ran = command("bucket", "show", CORS_ORIGINS="https://player.example/path")
    assert ran.code == 2
    assert "CORS_ORIGINS" in ran.err


def test_show_tells_what_is_there_against_what_is_wanted(
    command: Command, proxy: FaultProxy, others: S3Client
) -> None:
    ran = command("bucket", "show", AWS_S3_ACL="none")
    assert (ran.code, ran.err) == (0, "")
    assert "object ownership: as required." in ran.out
    assert "policy: not as required." in ran.out
    assert '+      "Sid": "video-uploader-public-read-videos"' in ran.out
    command("bucket", "setup", AWS_S3_ACL="none")
    assert "not as required" not in command("bucket", "show", AWS_S3_ACL="none").out
    assert len(writes(proxy)) == 4


def test_show_of_a_missing_bucket_says_so(command: Command) -> None:
    ran = command("bucket", "show")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"There is no bucket {BUCKET}")


def test_a_bucket_in_another_region_is_not_touched(
    command: Command, proxy: FaultProxy, others: S3Client
) -> None:
    ran = command("bucket", "setup", AWS_REGION="eu-west-1")
    assert (ran.code, ran.out) == (1, "")
    assert REGION in ran.err
    assert writes(proxy) == []


def test_a_refusal_is_one_sentence_with_the_missing_permission(
    command: Command, proxy: FaultProxy, others: S3Client
) -> None:
    def fault(request: Request, forward: Forward) -> Answer:
        refused = request.method == "PUT" and "?policy" in request.path
        return s3_error(403, "AccessDenied") if refused else forward()

    proxy.fault = fault
    ran = command("bucket", "setup")
    assert ran.code == 1
    (sentence,) = ran.err.splitlines()
    assert "s3:PutBucketPolicy" in sentence


def test_a_server_without_cors_documents_gets_the_rest_and_the_exit_says_so(
    command: Command, proxy: FaultProxy, empty: S3Server
) -> None:
    def fault(request: Request, forward: Forward) -> Answer:
        unknown = request.method == "PUT" and "?cors" in request.path
        return s3_error(501, "NotImplemented") if unknown else forward()

    proxy.fault = fault
    ran = command("bucket", "setup")
    assert ran.code == 1
    assert "CORS was not changed" in ran.err
    assert empty.client().get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]


def test_a_browser_may_read_afterwards_if_its_page_is_of_a_wanted_origin(
    command: Command, empty: S3Server
) -> None:
    command("bucket", "setup", CORS_ORIGINS="https://player.example")

    def allowed(origin: str) -> str | None:
        preflight = UrlRequest(
            f"{empty.url}/{BUCKET}/videos/a.mp4",
            method="OPTIONS",
            headers={"Origin": origin, "Access-Control-Request-Method": "GET"},
        )
        with urlopen(preflight) as answer:
            allowed: str | None = answer.headers.get("Access-Control-Allow-Origin")
            return allowed

    assert allowed("https://player.example") == "https://player.example"
    with pytest.raises(OSError, match="403"):
        allowed("https://other.example")
