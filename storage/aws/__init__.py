"""What boto3 and botocore contribute: sessions and clients, errors, trust, and the parsing of answers."""

from storage.aws.clients import AwsSession, Closeable
from storage.aws.errors import translate, translated
from storage.aws.response_parsing import present, required
from storage.aws.sessions import BoundedSession
from storage.aws.trust import Trust

__all__ = [
    "AwsSession",
    "BoundedSession",
    "Closeable",
    "Trust",
    "present",
    "required",
    "translate",
    "translated",
]
