"""Uploads of public-read objects to buckets with disabled ACLs, whose policy may make them public."""

import threading
from collections.abc import Callable
from typing import TypeVar

import structlog

from storage.aws.errors import PUBLIC_MODES
from storage.errors import ErrorKind, StorageError

_log: structlog.stdlib.BoundLogger = structlog.get_logger("storage")

ACLS_DISABLED = "AccessControlListNotSupported"
"""S3's error code, https://docs.aws.amazon.com/AmazonS3/latest/userguide/about-object-ownership.html."""

_HINT = (
    f"The bucket has ACLs disabled and its objects are not public. {PUBLIC_MODES} If the objects are not "
    "meant to be public, set AWS_S3_ACL=none."
)

_T = TypeVar("_T")


class AclFallback:
    """Sends the canned ACL `acl` until the bucket refuses it; from then on verifies that objects are public.

    With an `acl` of None it does neither. `is_public` returns whether everyone can read the object of a key.
    Safe for threads.
    """

    def __init__(self, acl: str | None, is_public: Callable[[str], bool]) -> None:
        self._acl = acl
        self._is_public = is_public
        self._is_refused = False
        self._is_logged = False
        self._lock = threading.Lock()

    def upload(self, key: str, send: Callable[[str | None], _T]) -> _T:
        """Call `send` with the ACL to send, if any, and again without if the bucket has ACLs disabled.

        Raises what `send` raises, and `StorageError` of kind environment for an object that is not public.
        """
        if self._acl is None:
            return send(None)
        if not self._is_refused:
            try:
                return send(self._acl)
            except StorageError as exc:
                if exc.code != ACLS_DISABLED:
                    raise
                self._is_refused = True
        sent = send(None)
        self.ensure_public(key)
        return sent

    def ensure_public(self, key: str) -> None:
        """Raise `StorageError` of kind environment unless an existing object is public."""
        if self._acl is None:
            return
        if not self._is_public(key):
            raise StorageError(ErrorKind.ENVIRONMENT, "make public", key, ACLS_DISABLED, _HINT)
        with self._lock:
            is_first, self._is_logged = self._is_refused and not self._is_logged, True
        if is_first:
            _log.info("acl_not_needed", key=key)
