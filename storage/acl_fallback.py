"""Uploads of public-read objects to buckets with disabled ACLs, whose policy may make them public."""

import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

import structlog

from storage.aws.errors import PUBLIC_MODES
from storage.errors import ErrorKind, StorageError

_log: structlog.stdlib.BoundLogger = structlog.get_logger("storage")

ACLS_DISABLED = "AccessControlListNotSupported"
"""S3's error code, https://docs.aws.amazon.com/AmazonS3/latest/userguide/about-object-ownership.html."""

_UNWANTED = "If the objects are not meant to be public, set AWS_S3_ACL=none."
_HINT = f"The bucket has ACLs disabled and its objects are not public. {PUBLIC_MODES} {_UNWANTED}"
_REFUSED_HINT = (
    "The object is in place with the same content and is not public, and these credentials may not change "
    f"its ACL: allow them s3:PutObjectAcl on it, or make it public yourself. {_UNWANTED}"
)
_IGNORED_HINT = (
    "The object is in place with the same content and its ACL was set, and it is not public nevertheless: "
    f"the bucket's public access block or its policy overrides ACLs. {PUBLIC_MODES} {_UNWANTED}"
)

_T = TypeVar("_T")


class AclFallback:
    """Sends the canned ACL `acl` until the bucket refuses it; from then on verifies that objects are public.

    With an `acl` of None it does neither. `is_public` returns whether everyone can read the object of a key,
    and `set_acl` gives an existing object an ACL. Safe for threads.
    """

    def __init__(
        self, acl: str | None, *, is_public: Callable[[str], bool], set_acl: Callable[[str, str], None]
    ) -> None:
        self._acl = acl
        self._is_public = is_public
        self._set_acl = set_acl
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
        """Give an existing object the ACL if it is not public.

        Raises `StorageError` of kind environment, which says what to do, if it is not public then either.
        """
        if self._acl is None:
            return
        if not self._is_public(key):
            if self._is_refused:
                raise _not_public(key, ACLS_DISABLED, _HINT)
            self._make_public(key, self._acl)
            return
        with self._lock:
            is_first, self._is_logged = self._is_refused and not self._is_logged, True
        if is_first:
            _log.info("acl_not_needed", key=key)

    def _make_public(self, key: str, acl: str) -> None:
        try:
            self._set_acl(key, acl)
        except StorageError as exc:
            if exc.code == ACLS_DISABLED:
                raise _not_public(key, ACLS_DISABLED, _HINT) from exc
            if exc.kind is ErrorKind.ENVIRONMENT and exc.status == HTTPStatus.FORBIDDEN:
                raise _not_public(key, exc.code, _REFUSED_HINT) from exc
            raise
        if not self._is_public(key):
            raise _not_public(key, "not-public", _IGNORED_HINT)
        _log.info("object_made_public", key=key)


def _not_public(key: str, code: str, hint: str) -> StorageError:
    return StorageError(ErrorKind.ENVIRONMENT, "make public", key, code, hint)
