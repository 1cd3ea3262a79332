"""Public-read objects on buckets that have ACLs disabled: the policy may make them public all the same."""

import threading
from collections.abc import Callable

import structlog

from storage.aws.errors import PUBLIC_MODES
from storage.errors import ErrorKind, StorageError
from storage.object_store import ObjectStore
from storage.transfer.single_put import Sent

_log: structlog.stdlib.BoundLogger = structlog.get_logger("storage")

ACLS_DISABLED = "AccessControlListNotSupported"
"""S3's own code, https://docs.aws.amazon.com/AmazonS3/latest/userguide/about-object-ownership.html."""

_HINT = (
    f"The bucket has ACLs disabled and its objects are not public. {PUBLIC_MODES} If the objects are not "
    "meant to be public, set AWS_S3_ACL=none."
)


class AclFallback:
    """Remembers whether the bucket takes ACLs, and makes sure that objects which should be public are.

    `is_wanted` is whether they should. For any number of threads.
    """

    def __init__(self, store: ObjectStore, *, is_wanted: bool) -> None:
        self._store = store
        self._is_wanted = is_wanted
        self._is_refused = False
        self._is_said = False
        self._lock = threading.Lock()

    def upload(self, key: str, send: Callable[[bool], Sent]) -> Sent:
        """Call `send` with whether to send an ACL along; once more without, if the bucket takes none.

        Raises what `send` raises and, of kind environment, a `StorageError` for an object that nobody could
        fetch: it names the three ways out.
        """
        if not self._is_wanted:
            return send(False)
        if not self._is_refused:
            try:
                return send(True)
            except StorageError as exc:
                if exc.code != ACLS_DISABLED:
                    raise
                self._is_refused = True
        sent = send(False)
        self.ensure(key)
        return sent

    def ensure(self, key: str) -> None:
        """Make sure that an object which is there already can be fetched by everybody; raises as `upload`."""
        if not self._is_wanted:
            return
        if not self._store.is_public(key):
            raise StorageError(ErrorKind.ENVIRONMENT, "make public", key, ACLS_DISABLED, _HINT)
        with self._lock:
            is_news, self._is_said = self._is_refused and not self._is_said, True
        if is_news:
            _log.info("acl_not_needed", key=key)
