"""What boto3 and botocore contribute: sessions and clients, errors, trust, and the parsing of answers."""

from storage.aws.clients import AwsSession, Closeable
from storage.aws.errors import translate, translated
from storage.aws.response_parsing import botocore_session, present, required
from storage.aws.trust import Trust

__all__ = [
    "AwsSession",
    "Closeable",
    "Trust",
    "botocore_session",
    "present",
    "required",
    "translate",
    "translated",
]
