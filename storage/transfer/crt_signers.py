"""What the CRT signs requests with: a signer for each request in flight, which is told of each attempt.

The CRT reports its own retries nowhere else. Signers are used again and never dropped while the process runs:
the CRT may still refer to them in threads of its own after a request or a client has ended, and releases the
last reference to Python's objects there without Python's lock.
"""

import threading
from collections import defaultdict
from collections.abc import Callable

from awscrt.auth import AwsCredentials, AwsCredentialsProvider
from awscrt.s3 import create_default_s3_signing_config

_lock = threading.Lock()


class Signer:
    """Signs one request at a time in a region, with what `sign` returns in a thread of the CRT."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.sign: Callable[[], AwsCredentials] | None = None
        provider = AwsCredentialsProvider.new_delegate(self._credentials)
        self.config = create_default_s3_signing_config(region=region, credential_provider=provider)

    def _credentials(self) -> AwsCredentials:
        if (sign := self.sign) is None:
            raise ValueError("the request has ended")
        return sign()


_all: list[Signer] = []
_free: defaultdict[str, list[Signer]] = defaultdict(list)


def take(region: str, sign: Callable[[], AwsCredentials]) -> Signer:
    """A signer for one request, which calls `sign` for each attempt. Give it back at the request's end."""
    with _lock:
        if _free[region]:
            signer = _free[region].pop()
        else:
            signer = Signer(region)
            _all.append(signer)
    signer.sign = sign
    return signer


def give_back(signer: Signer) -> None:
    """Have other requests use the signer: its request has ended."""
    signer.sign = None
    with _lock:
        _free[signer.region].append(signer)
