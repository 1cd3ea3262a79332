"""Uploads through the CRT, in a single PUT or in parts, within shared limits of memory and bandwidth."""

from storage.transfer.crt_client import CrtClient, acquire_crt_client, release_crt_client
from storage.transfer.crt_request import Request
from storage.transfer.multipart import Multipart, MultipartSender, OpenMultipart, abort
from storage.transfer.part_layout import part_size_for
from storage.transfer.preconditions import WriteCondition
from storage.transfer.single_put import Sent, Target, Transfer, put_object

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
