"""Invalidates replaced objects in the caches of a CloudFront distribution.

See https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/Invalidation.html.
"""

import string
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from urllib.parse import quote

from storage.aws.clients import AwsSession, Closeable, make_client
from storage.aws.errors import translated
from storage.aws.response_parsing import required
from storage.config import AccessKey, StorageConfig
from storage.errors import ErrorKind, StorageError
from storage.keys import public_url

MAX_INVALIDATION_PATHS = 1_000
"""The most paths in one request; CloudFront allows 3,000 in progress at a time."""

READ_TIMEOUT_SECONDS = 10

_UNSAFE = ' <>"#%{}|\\^~[]`'
"""The unsafe characters of RFC 1738, section 2.2."""

_KEPT = "".join(set(string.printable) - set(string.whitespace) - set(_UNSAFE) - {"?"})
"""The characters that are not encoded: all other printable ASCII but the one that begins a query."""

_HINTS: Mapping[str, str] = MappingProxyType(
    {
        "AccessDenied": "Allow these credentials cloudfront:CreateInvalidation on the distribution.",
        "NoSuchDistribution": "This account has no such distribution: correct CLOUDFRONT_DISTRIBUTION_ID or "
        "unset it.",
    }
)
"""Hints for CloudFront's own error codes of kind environment; S3's table has the rest."""

_REFUSED = "CloudFront refuses a path. Invalidate it by hand, or wait until the caches drop the old object."
_REFUSALS = frozenset({"InvalidArgument", "BatchTooLarge"})
"""CloudFront's error codes for paths that it does not take: fewer of them may be taken."""

_INVALIDATE = "invalidate"


class Distribution(Closeable):
    """The distribution of `config`. Safe for threads; close it at the end.

    Every method raises `StorageError`, never an exception of the underlying library.
    """

    def __init__(self, config: StorageConfig) -> None:
        if config.cloudfront_distribution_id is None:
            raise ValueError("the configuration names no distribution")
        self.id = config.cloudfront_distribution_id
        self._session = AwsSession(config)
        self._client = make_client(
            "cloudfront",
            config,
            self._session,
            attempts=1,  # retries are the caller's decision
            read_timeout=READ_TIMEOUT_SECONDS,
            max_pool_connections=1,
        )

    def close(self) -> None:
        """Release the connections. No call may be in progress or follow."""
        self._client.close()
        self._session.close()

    def use_credentials(self, key: AccessKey | None) -> None:
        """Use these from now on, or where they are None those that boto3 finds."""
        self._session.credential_chain.use(key)

    def invalidate(self, paths: Iterable[str], *, reference: str) -> str:
        """Invalidate at most `MAX_INVALIDATION_PATHS` paths, in the form of `invalidation_paths`.

        Returns the invalidation's id. A request with the `reference` and the paths of an earlier one is the
        same request, so that it can be repeated after its answer was lost. One HTTP request is made, without
        retries. A `StorageError` of kind object means that at least one of the paths is refused.
        """
        items = list(paths)
        try:
            with translated(_INVALIDATE, None):
                answer = self._client.create_invalidation(
                    DistributionId=self.id,
                    InvalidationBatch={
                        "Paths": {"Quantity": len(items), "Items": items},
                        "CallerReference": reference,
                    },
                )
        except StorageError as exc:
            if exc.code in _REFUSALS:
                raise StorageError(ErrorKind.OBJECT, _INVALIDATE, None, exc.code, _REFUSED) from exc
            if hint := _HINTS.get(exc.code):
                hint = f"{hint} It is {self.id}."
                raise StorageError(ErrorKind.ENVIRONMENT, _INVALIDATE, None, exc.code, hint) from exc
            raise
        return required(answer.get("Invalidation", {}), "Id", _INVALIDATE, self.id)


def invalidation_paths(key: str) -> list[str]:
    """The paths that invalidate the object of a key: one, or two where encodings differ.

    CloudFront expects non-ASCII and RFC 1738's unsafe characters percent-encoded and no others. Players
    request the path of the public URL, in which more is encoded ('+' as '%2B'); where the two differ both are
    returned, because an unused path does no harm. A trailing asterisk would be a wildcard.
    """
    path = "/" + quote(key, safe=_KEPT)
    if path.endswith("*"):
        path = path.removesuffix("*") + "%2A"
    # Python does not encode '~', as RFC 3986 says.
    requested = (path, public_url("", key))
    return list(dict.fromkeys(written.replace("~", "%7E") for written in requested))
