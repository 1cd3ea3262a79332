"""Statements and rules of ours are merged into a bucket's documents; the rest stays as it is."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.bucket.documents import (
    NEW_ELSEWHERE,
    NEW_ON_AWS,
    BucketDocument,
    DesiredBucket,
    Document,
    PublicMode,
    Transition,
    desired_documents,
    entry_name,
    objects_arn,
    public_mode_of,
)
from storage.bucket.iam_policy import minimal_policy

OURS_IN_POLICY = "video-uploader-public-read-videos"
THEIRS_IN_POLICY = {
    "Sid": "TheirBackup",
    "Effect": "Allow",
    "Principal": {"AWS": "arn:aws:iam::111122223333:root"},
    "Action": ["s3:GetObject", "s3:ListBucket"],
    "Resource": ["arn:aws:s3:::films", "arn:aws:s3:::films/*"],
}
FOR_CLOUDFRONT = {
    "Sid": "AllowCloudFrontServicePrincipal",
    "Effect": "Allow",
    "Principal": {"Service": "cloudfront.amazonaws.com"},
    "Action": "s3:GetObject",
    "Resource": "arn:aws:s3:::films/*",
}


def desired(**changes: Any) -> DesiredBucket:
    values: dict[str, Any] = {
        "bucket": "films",
        "prefix": "videos",
        "region": "eu-central-1",
        "uses_acl": False,
    }
    return DesiredBucket(**values | changes)


def merged(part: BucketDocument, present: Document | None, **changes: Any) -> Any:
    return desired_documents({part: present}, desired(**changes))[part]


def test_everyone_may_read_objects_under_the_prefix_and_do_nothing_else() -> None:
    assert merged(BucketDocument.POLICY, None) == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": OURS_IN_POLICY,
                "Effect": "Allow",
                "Principal": "*",
                "Action": "s3:GetObject",
                "Resource": "arn:aws:s3:::films/videos/*",
            }
        ],
    }


def test_the_statements_of_others_stay_as_they_are_and_where_they_are() -> None:
    present = {"Version": "2008-10-17", "Id": "theirs", "Statement": [THEIRS_IN_POLICY, FOR_CLOUDFRONT]}
    policy = merged(BucketDocument.POLICY, present)
    assert policy["Statement"][:2] == present["Statement"]
    assert [statement["Sid"] for statement in policy["Statement"][2:]] == [OURS_IN_POLICY]
    assert {name: policy[name] for name in ("Version", "Id")} == {"Version": "2008-10-17", "Id": "theirs"}


def test_a_policy_of_one_statement_without_a_list_is_understood() -> None:
    policy = merged(BucketDocument.POLICY, {"Version": "2012-10-17", "Statement": THEIRS_IN_POLICY})
    assert policy["Statement"][0] == THEIRS_IN_POLICY
    assert len(policy["Statement"]) == 2


@pytest.mark.parametrize(
    "change", [{"Resource": "arn:aws:s3:::films/*"}, {"Effect": "Deny"}, {"Action": "s3:*"}]
)
def test_a_changed_statement_of_ours_is_corrected_in_its_place(change: dict[str, str]) -> None:
    right = merged(BucketDocument.POLICY, {"Version": "2012-10-17", "Statement": [THEIRS_IN_POLICY]})
    wrong = {**right, "Statement": [{**right["Statement"][1], **change}, THEIRS_IN_POLICY]}
    assert merged(BucketDocument.POLICY, wrong)["Statement"] == [right["Statement"][1], THEIRS_IN_POLICY]


def test_two_prefixes_of_one_bucket_have_a_statement_and_a_rule_each() -> None:
    first = desired_documents(NEW_ELSEWHERE, desired(prefix="videos"))
    both = desired_documents(first, desired(prefix="live/clips"))
    policy, lifecycle = both[BucketDocument.POLICY], both[BucketDocument.LIFECYCLE]
    assert policy is not None
    assert lifecycle is not None
    assert [statement["Resource"] for statement in policy["Statement"]] == [
        "arn:aws:s3:::films/videos/*",
        "arn:aws:s3:::films/live/clips/*",
    ]
    assert [rule["Filter"]["Prefix"] for rule in lifecycle["Rules"]] == ["videos/", "live/clips/"]


@given(st.text(max_size=8), st.text(max_size=8))
def test_different_prefixes_never_share_a_name(one: str, other: str) -> None:
    assert (entry_name("x", one) == entry_name("x", other)) is (one == other)


def test_without_a_prefix_the_whole_bucket_is_meant() -> None:
    assert (
        merged(BucketDocument.POLICY, None, prefix="")["Statement"][0]["Resource"] == "arn:aws:s3:::films/*"
    )
    assert merged(BucketDocument.LIFECYCLE, None, prefix="")["Rules"][0]["Filter"] == {"Prefix": ""}


@pytest.mark.parametrize(
    ("region", "partition"), [("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov"), ("us-east-1", "aws")]
)
def test_an_arn_names_the_partition_of_its_region(region: str, partition: str) -> None:
    assert objects_arn("films", "videos", region) == f"arn:{partition}:s3:::films/videos/*"


def test_cors_lets_the_wanted_origins_read_ranges_after_the_rules_of_others() -> None:
    theirs = {"AllowedMethods": ["PUT"], "AllowedOrigins": ["https://studio.example"]}
    rules = merged(
        BucketDocument.CORS, {"CORSRules": [theirs]}, cors_origins=("https://a.example", "https://b.example")
    )
    assert rules["CORSRules"][0] == theirs
    ours = rules["CORSRules"][1]
    assert ours["AllowedMethods"] == ["GET", "HEAD"]
    assert ours["AllowedOrigins"] == ["https://a.example", "https://b.example"]
    assert "Content-Range" in ours["ExposeHeaders"]


def test_a_server_that_forgets_names_and_order_of_rules_gets_ours_only_once() -> None:
    present = merged(BucketDocument.CORS, None, cors_origins=("https://a.example", "https://b.example"))
    rule = {
        name: value[::-1] if isinstance(value, list) else value
        for name, value in present["CORSRules"][0].items()
    }
    del rule["ID"]
    forgotten = {"CORSRules": [rule]}
    assert (
        merged(BucketDocument.CORS, forgotten, cors_origins=("https://a.example", "https://b.example"))
        == forgotten
    )


def test_open_multiparts_are_aborted_after_a_week_and_nothing_else_happens_unless_it_is_asked_for() -> None:
    (rule,) = merged(BucketDocument.LIFECYCLE, None)["Rules"]
    assert rule == {
        "ID": "video-uploader-lifecycle-videos",
        "Status": "Enabled",
        "Filter": {"Prefix": "videos/"},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
    }


def test_objects_move_and_expire_when_that_is_asked_for_and_no_longer_when_it_is_not() -> None:
    grown = merged(BucketDocument.LIFECYCLE, None, transition=Transition(30, "STANDARD_IA"), expire_days=365)
    (rule,) = grown["Rules"]
    assert rule["Transitions"] == [{"Days": 30, "StorageClass": "STANDARD_IA"}]
    assert rule["Expiration"] == {"Days": 365}
    assert merged(BucketDocument.LIFECYCLE, grown) == merged(BucketDocument.LIFECYCLE, None)


def test_the_lifecycle_of_others_keeps_its_rules_dates_and_settings() -> None:
    theirs = {"ID": "theirs", "Status": "Enabled", "Expiration": {"Date": datetime(2030, 1, 1, tzinfo=UTC)}}
    present = {"Rules": [theirs], "TransitionDefaultMinimumObjectSize": "varies_by_storage_class"}
    lifecycle = merged(BucketDocument.LIFECYCLE, present)
    assert lifecycle["Rules"][0] == theirs
    assert lifecycle["TransitionDefaultMinimumObjectSize"] == "varies_by_storage_class"


def test_a_policy_needs_two_of_the_four_blocks_lifted_and_acls_all_of_them() -> None:
    block = NEW_ON_AWS[BucketDocument.PUBLIC_ACCESS_BLOCK]
    assert merged(BucketDocument.PUBLIC_ACCESS_BLOCK, block) == {
        "BlockPublicAcls": True,
        "IgnorePublicAcls": True,
        "BlockPublicPolicy": False,
        "RestrictPublicBuckets": False,
    }
    assert not any(merged(BucketDocument.PUBLIC_ACCESS_BLOCK, block, uses_acl=True).values())


@pytest.mark.parametrize("present", [None, {"BlockPublicAcls": True, "BlockPublicPolicy": False}])
def test_where_nothing_is_in_the_way_of_a_policy_no_block_is_touched(present: Document | None) -> None:
    assert merged(BucketDocument.PUBLIC_ACCESS_BLOCK, present) is present


def test_acls_are_enabled_only_if_objects_are_to_be_public_by_them() -> None:
    enforced = NEW_ON_AWS[BucketDocument.OWNERSHIP]
    assert merged(BucketDocument.OWNERSHIP, enforced, uses_acl=True) == {
        "Rules": [{"ObjectOwnership": "BucketOwnerPreferred"}]
    }
    assert merged(BucketDocument.OWNERSHIP, enforced) is enforced
    assert merged(BucketDocument.OWNERSHIP, None, uses_acl=True) is None
    writer = {"Rules": [{"ObjectOwnership": "ObjectWriter"}]}
    assert merged(BucketDocument.OWNERSHIP, writer, uses_acl=True) is writer


def test_a_bucket_that_only_cloudfront_reads_is_not_made_public() -> None:
    present = {**NEW_ON_AWS, BucketDocument.POLICY: {"Version": "2012-10-17", "Statement": [FOR_CLOUDFRONT]}}
    documents = desired_documents(present, desired(cdn_domain="d111.cloudfront.net"))
    for part in (BucketDocument.POLICY, BucketDocument.OWNERSHIP, BucketDocument.PUBLIC_ACCESS_BLOCK):
        assert documents[part] is present[part]
    assert documents[BucketDocument.CORS] is not None


@pytest.mark.parametrize(
    ("changes", "statements", "way"),
    [
        ({"cdn_domain": "d111.cloudfront.net"}, [FOR_CLOUDFRONT], PublicMode.CDN),
        ({"cdn_domain": "d111.cloudfront.net"}, [{**FOR_CLOUDFRONT, "Effect": "Deny"}], PublicMode.POLICY),
        ({"cdn_domain": "d111.cloudfront.net"}, [THEIRS_IN_POLICY], PublicMode.POLICY),
        ({"cdn_domain": "d111.cloudfront.net", "uses_acl": True}, [FOR_CLOUDFRONT], PublicMode.ACL),
        ({}, [FOR_CLOUDFRONT], PublicMode.POLICY),
    ],
)
def test_the_public_mode_follows_from_the_settings_and_the_policy(
    changes: dict[str, Any], statements: list[Document], way: PublicMode
) -> None:
    assert public_mode_of(desired(**changes), {"Statement": statements}) is way


def test_what_a_server_does_not_know_is_not_asked_of_it() -> None:
    assert set(desired_documents({BucketDocument.POLICY: None}, desired())) == {BucketDocument.POLICY}


@pytest.mark.parametrize("new", [NEW_ON_AWS, NEW_ELSEWHERE])
@pytest.mark.parametrize("uses_acl", [True, False])
@pytest.mark.parametrize("prefix", ["", "videos", "live/clips"])
def test_once_it_is_as_wanted_nothing_changes_any_more(new: Any, uses_acl: bool, prefix: str) -> None:
    asked = desired(
        uses_acl=uses_acl, prefix=prefix, transition=Transition(0, "INTELLIGENT_TIERING"), expire_days=9
    )
    once = json.loads(json.dumps(desired_documents(new, asked)))
    assert (
        desired_documents({BucketDocument(name): document for name, document in once.items()}, asked) == once
    )


def test_the_smallest_policy_allows_what_the_daemon_does_on_its_prefix_alone() -> None:
    objects, bucket = minimal_policy("films", "videos", "eu-central-1", with_acl=False)["Statement"]
    assert objects["Resource"] == "arn:aws:s3:::films/videos/*"
    assert set(objects["Action"]) == {
        "s3:PutObject",
        "s3:GetObject",
        "s3:DeleteObject",
        "s3:AbortMultipartUpload",
        "s3:ListMultipartUploadParts",
    }
    assert bucket["Resource"] == "arn:aws:s3:::films"
    assert set(bucket["Action"]) == {"s3:ListBucket", "s3:ListBucketMultipartUploads"}


def test_the_smallest_policy_grows_with_what_is_asked_for() -> None:
    policy = minimal_policy(
        "films",
        "videos",
        "eu-central-1",
        with_acl=True,
        with_tags=True,
        kms_key_id="1234",
        cloudfront_distribution_id="E1",
    )
    objects, _, key, distribution = policy["Statement"]
    assert {"s3:PutObjectAcl", "s3:PutObjectTagging"} < set(objects["Action"])
    assert key["Resource"] == "arn:aws:kms:eu-central-1:*:key/1234"
    assert distribution["Resource"] == "arn:aws:cloudfront::*:distribution/E1"
