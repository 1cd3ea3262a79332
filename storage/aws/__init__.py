"""What boto3 and botocore contribute: sessions and clients, errors, trust, and the parsing of answers."""

from storage.aws.clients import AwsSession, expected_owner
from storage.aws.errors import PUBLIC_MODES, http_status, translate, translated
from storage.aws.response_parsing import botocore_session, present, required, unquoted, version
from storage.aws.trust import Trust

__all__ = [
    "PUBLIC_MODES",
    "AwsSession",
    "Trust",
    "botocore_session",
    "expected_owner",
    "http_status",
    "present",
    "required",
    "translate",
    "translated",
    "unquoted",
    "version",
]
