"""Public objects on servers and buckets that do not take ACLs, whose policy may make them public."""

import threading
from collections.abc import Callable

import structlog

from storage.aws.errors import PUBLIC_MODES
from storage.dialect import ACL, ServerDialect
from storage.errors import ErrorKind, StorageError

_log: structlog.stdlib.BoundLogger = structlog.get_logger("storage")

_UNWANTED = "If the objects are not meant to be public, set AWS_S3_ACL=none."
_HINT = (
    "The object is in place and is not public, and its ACL cannot be set: the server said {said}. Allow "
    f"these credentials s3:PutObjectAcl, or make the objects public without ACLs. {PUBLIC_MODES} {_UNWANTED}"
)
_IGNORED_HINT = (
    "The object is in place with the same content and its ACL was set, and it is not public nevertheless: "
    f"the bucket's public access block or its policy overrides ACLs. {PUBLIC_MODES} {_UNWANTED}"
)


class AclFallback:
    """Makes objects public by the canned ACL `acl`, or verifies that they are where the server refuses ACLs.

    With an `acl` of None it does nothing. `is_public` returns whether everyone can read the object of a key,
    and `set_acl` gives an existing object an ACL. Safe for threads.
    """

    def __init__(
        self,
        acl: str | None,
        dialect: ServerDialect,
        *,
        is_public: Callable[[str], bool],
        set_acl: Callable[[str, str], None],
    ) -> None:
        self._acl = acl
        self._dialect = dialect
        self._is_public = is_public
        self._set_acl = set_acl
        self._is_logged = False
        self._lock = threading.Lock()

    def after_upload(self, key: str) -> None:
        """Raise as `ensure_public` if the object was sent without the ACL, because the server refuses it."""
        if not self._dialect.takes(ACL):
            self.ensure_public(key)

    def ensure_public(self, key: str) -> None:
        """Give an existing object the ACL if it is not public.

        Raises `StorageError` of kind environment, which says what to do, if it is not public then either.
        """
        if self._acl is None:
            return
        if not self._is_public(key):
            self._make_public(key, self._acl)
            # What was missing may have been a permission.
            self._dialect.forget(ACL)
            return
        with self._lock:
            is_first, self._is_logged = not self._is_logged and not self._dialect.takes(ACL), True
        if is_first:
            _log.info("acl_not_needed", key=key)

    def _make_public(self, key: str, acl: str) -> None:
        try:
            self._set_acl(key, acl)
        except StorageError as exc:
            if exc.is_refusal:
                raise _not_public(key, exc.code, _HINT.format(said=exc.said)) from exc
            raise
        if not self._is_public(key):
            raise _not_public(key, "not-public", _IGNORED_HINT)
        _log.info("object_made_public", key=key)


def _not_public(key: str, code: str, hint: str) -> StorageError:
    return StorageError(ErrorKind.ENVIRONMENT, "make public", key, code, hint)
