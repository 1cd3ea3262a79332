from .crt_client import CrtClient, acquire_crt_client, release_crt_client
from .crt_request import Request
from .multipart import Multipart, MultipartSender, OpenMultipart, abort
from .part_layout import part_size_for
from .preconditions import WriteCondition
from .single_put import Sent, Target, Transfer, put_object

__all__ = [
    "CrtClient",
    "Multipart",
    "MultipartSender",
    "OpenMultipart",
    "Request",
    "Sent",
    "Target",
    "Transfer",
    "WriteCondition",
    "abort",
    "acquire_crt_client",
    "part_size_for",
    "put_object",
    "release_crt_client",
]
