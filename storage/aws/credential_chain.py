"""Credentials: those of the configuration, or what boto3's chain finds, which is read again when refused.

The chain: https://docs.aws.amazon.com/boto3/latest/guide/credentials.html. botocore keeps what it finds in a
file or gets from a process, so that a key that was replaced on disk would be used until a restart.
"""

import threading
import time
from collections.abc import Callable

import botocore.session
import structlog
from botocore.credentials import Credentials, ReadOnlyCredentials, RefreshableCredentials
from botocore.exceptions import NoCredentialsError

from storage.aws.errors import EXPIRED_CODES, REFUSED_CREDENTIALS_CODES
from storage.config import AccessKey

_log: structlog.stdlib.BoundLogger = structlog.get_logger("storage")

READ_AGAIN_SECONDS = 10.0
"""Credentials that are refused are read again at most once in this time."""
CONFIGURED = "configured"
"""The method of credentials of the configuration, as `CredentialChain.method` names it."""

_CODES = REFUSED_CREDENTIALS_CODES | EXPIRED_CODES | {"SignatureDoesNotMatch", "CredentialsNotSupported"}
_STATUSES = frozenset({401, 403})
_UNEXPLAINED = frozenset({"", "400", "Unknown", "http-400"})
"""The codes of an answer 400 without a body, with which S3 refuses an expired token in a HEAD request."""


class CredentialChain(Credentials):
    """Credentials for any number of botocore's clients, for which it is the `credential_provider`, too.

    `make_session` makes a new session of botocore, in which the chain is searched. Safe for threads; `clock`
    gives monotonic seconds.
    """

    def __init__(
        self,
        key: AccessKey | None,
        make_session: Callable[[], botocore.session.Session],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("", "", method="chain")
        self._make_session = make_session
        self._clock = clock
        self._lock = threading.Lock()
        self._found: Credentials | None = None
        self._found_at = float("-inf")
        self._used_key: str | None = None
        self._refused_key: str | None = None
        self.use(key)

    def load_credentials(self) -> Credentials:
        """These credentials, as botocore asks its `credential_provider`."""
        return self

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Credentials that are valid now; expiring ones are refreshed first, which may take requests.

        Raises what botocore's providers raise, and botocore's `NoCredentialsError` if there are none.
        """
        frozen = self._current().get_frozen_credentials()
        with self._lock:
            is_other = self._refused_key not in (None, frozen.access_key)
            if is_other:
                self._refused_key = None
            self._used_key = frozen.access_key
        if is_other:
            _log.info("credentials_replaced")
        return frozen

    @property
    def source(self) -> str:
        """Botocore's name of the provider that has found the credentials; raises as the method above."""
        return self._current().method

    def use(self, key: AccessKey | None) -> None:
        """Use these from now on, or where they are None those of the chain."""
        with self._lock:
            self._key = key
            self._found = None if key is None else Credentials(*key, method=CONFIGURED)

    def note_refusal(self, code: str, status: int | None) -> None:
        """Have the chain searched again if this error code and HTTP status may be due to its credentials.

        A refusal of permission may be, too, but not where the credentials renew themselves.
        """
        with self._lock:
            may_be = status in _STATUSES or (status == 400 and code in _UNEXPLAINED)
            renews_itself = isinstance(self._found, RefreshableCredentials)
            if self._key is not None or not (code in _CODES or (may_be and not renews_itself)):
                return
            if self._found is not None and self._clock() - self._found_at >= READ_AGAIN_SECONDS:
                self._found = None
                self._refused_key = self._used_key

    def _current(self) -> Credentials:
        with self._lock:
            if self._found is None:
                self._found = self._make_session().get_credentials()
                self._found_at = self._clock()
            if self._found is None:
                raise NoCredentialsError
            return self._found
