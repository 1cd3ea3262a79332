"""The minimal IAM policy for the daemon.

See https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html.
"""

from typing import Any

from storage.bucket.documents import POLICY_VERSION, bucket_arn, objects_arn, partition


def minimal_policy(
    bucket: str,
    prefix: str,
    region: str,
    *,
    with_acl: bool,
    with_tags: bool = False,
    kms_key_id: str | None = None,
    cloudfront_distribution_id: str | None = None,
) -> dict[str, Any]:
    """The permissions for uploading, confirming, resuming, deleting and invalidating.

    `kms_key_id` may be a key's id or its ARN. `bucket setup` needs more, and an administrator's identity.
    """
    actions = ["s3:PutObject", "s3:GetObject", "s3:DeleteObject"]
    actions += ["s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    if with_acl:
        actions.append("s3:PutObjectAcl")
    if with_tags:
        actions.append("s3:PutObjectTagging")
    statements = [
        _allow("Objects", actions, objects_arn(bucket, prefix, region)),
        # Without ListBucket S3 answers 403 instead of 404 for a missing object. A condition on the prefix
        # would have the same effect, because a HEAD has none.
        _allow("Bucket", ["s3:ListBucket", "s3:ListBucketMultipartUploads"], bucket_arn(bucket, region)),
    ]
    if kms_key_id is not None:
        is_arn = kms_key_id.startswith("arn:")
        key = kms_key_id if is_arn else f"arn:{partition(region)}:kms:{region}:*:key/{kms_key_id}"
        # S3 decrypts the parts when it completes a multipart upload.
        statements.append(_allow("EncryptionKey", ["kms:GenerateDataKey", "kms:Decrypt"], key))
    if cloudfront_distribution_id is not None:
        distribution = f"arn:{partition(region)}:cloudfront::*:distribution/{cloudfront_distribution_id}"
        statements.append(_allow("Invalidation", ["cloudfront:CreateInvalidation"], distribution))
    return {"Version": POLICY_VERSION, "Statement": statements}


def _allow(sid: str, actions: list[str], resource: str) -> dict[str, Any]:
    return {"Sid": f"VideoUploader{sid}", "Effect": "Allow", "Action": actions, "Resource": resource}
