"""Checks whether S3 works as configured, by real requests whose traces are removed."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from storage.aws.clients import PATH_STYLE_REFUSALS, AwsSession
from storage.aws.credential_chain import CONFIGURED
from storage.aws.errors import (
    ACCOUNT_CODES,
    BUCKET_CODES,
    CLOCK_CODES,
    EXPIRED_CODES,
    REFUSED_CREDENTIALS_CODES,
    REGION_CODES,
    translated,
)
from storage.aws.proxies import PROXY_FAILED, PROXY_REFUSED, proxy_for
from storage.bucket.documents import key_prefix
from storage.checks.probe_object import ProbeObject
from storage.checks.results import CheckResult, Outcome, failed, not_tried, ok, warning
from storage.config import StorageConfig
from storage.dialect import PATH_STYLE, ServerTrait
from storage.errors import StorageError
from storage.object_store import ObjectStore

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

TOLERATED_SKEW = timedelta(minutes=15)
"""The skew that S3 tolerates, https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html."""

NOTABLE_SKEW = timedelta(minutes=1)

_SAID_WHY = frozenset({"untrusted-certificate", PROXY_FAILED, PROXY_REFUSED})
_NO_ANSWER = frozenset({"connection", "timeout", "unexpected"}) | _SAID_WHY
_NO_CREDENTIALS = frozenset({"no-credentials", "bad-settings"})
_BAD_CREDENTIALS = (
    REFUSED_CREDENTIALS_CODES | EXPIRED_CODES | ACCOUNT_CODES | {"SignatureDoesNotMatch", "http-401"}
)
_OTHER_REGION = REGION_CODES | {"http-301", "http-307"}

BASICS = ("server", "credentials", "clock", "bucket", "region")
"""The names of the checks on which all others depend."""

_SOURCES: Mapping[str, str] = {
    "env": "the environment",
    "shared-credentials-file": "the shared credentials file",
    "config-file": "the AWS configuration file",
    "assume-role": "a role that is assumed",
    "assume-role-with-web-identity": "a role that is assumed with a web identity",
    "sso": "single sign-on",
    "iam-role": "the instance's role",
    "container-role": "the container's role",
    "custom-process": "the configured process",
    CONFIGURED: "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
}


@dataclass(frozen=True, slots=True)
class _FirstAnswer:
    """The answer to the first signed request."""

    headers: Mapping[str, str]
    ahead: timedelta | None
    """How far the server's clock is ahead of ours; None without a date in the answer."""
    code: str
    """The error's code; empty without an error."""
    hint: str


def check_storage(
    config: StorageConfig,
    *,
    cors_origins: tuple[str, ...] = ("*",),
    cdn_domain: str | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    report: Callable[[Sequence[ServerTrait]], object] = len,
) -> Generator[CheckResult, None, None]:
    """Make every check, and yield each result as soon as it is known.

    Small objects are uploaded under the prefix and deleted again, also if the generator is closed early.
    `report` is given what was found out about the server, once that is known.
    """
    try:
        session = AwsSession(config)
        client = session.client
        store = ObjectStore(config)
    except StorageError as exc:
        yield failed("credentials", f"No request can be made ({exc.code}).", exc.hint)
        return
    with session, store:
        answer = _first_answer(client, config, clock)
        if answer.code in PATH_STYLE_REFUSALS and config.addressing == "auto":
            store.dialect.learn(PATH_STYLE, answer.code)
            session.use_virtual_addresses()
            client = session.client
            answer = _first_answer(client, config, clock)
        basics = list(_basics(session, config, answer))
        yield from basics
        unmet = next((result.name for result in basics if result.outcome is Outcome.FAILED), None)
        if unmet is None:
            yield _listing(answer)
            yield from ProbeObject(
                client, config, store, cors_origins=cors_origins, cdn_domain=cdn_domain
            ).checks()
            report(store.dialect.traits)
        else:
            reported = {result.name for result in basics}
            names = (name for name in (*BASICS, "ListBucket", *ProbeObject.NAMES) if name not in reported)
            yield from (not_tried(name, unmet) for name in names)


def _first_answer(client: "S3Client", config: StorageConfig, clock: Callable[[], datetime]) -> _FirstAnswer:
    code = hint = ""
    headers: Mapping[str, str] = {}
    sent_at = clock()
    try:
        with translated("list", None):
            answer = client.list_objects_v2(Bucket=config.bucket, Prefix=key_prefix(config.prefix), MaxKeys=1)
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
    except StorageError as exc:
        if isinstance(exc.__cause__, ClientError):
            headers = exc.__cause__.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        code, hint = exc.code, exc.hint
    return _FirstAnswer(headers, _skew(headers.get("date"), sent_at, clock()), code, hint)


def _skew(date: str | None, sent_at: datetime, answered_at: datetime) -> timedelta | None:
    """How far an HTTP date lies outside the time between the request and its answer."""
    if date is None:
        return None
    try:
        server_time = parsedate_to_datetime(date)
    except ValueError:
        return None
    # RFC 9110, section 5.6.7: always GMT, to the second.
    server_time = server_time.replace(tzinfo=server_time.tzinfo or UTC)
    if server_time > answered_at:
        return server_time - answered_at
    return min(timedelta(), server_time + timedelta(seconds=1) - sent_at)


def _basics(session: AwsSession, config: StorageConfig, answer: _FirstAnswer) -> Iterator[CheckResult]:
    server = config.endpoint_url or "AWS"
    if answer.code in _NO_CREDENTIALS:
        yield failed("credentials", "No credentials were found.", answer.hint)
        return
    if answer.code in _NO_ANSWER:
        remedy = answer.hint
        if answer.code not in _SAID_WHY:
            remedy = "Check AWS_ENDPOINT_URL and AWS_REGION, and whether this machine may connect there."
        yield failed("server", f"{server} gives no answer ({answer.code}).", remedy)
        return
    proxy = proxy_for(session.bucket_url)
    yield ok("server", f"{server} answers{f' through {proxy.variable}' if proxy else ''}.")
    yield _credentials(session, answer)
    yield _clock(answer)
    if answer.code in _BAD_CREDENTIALS | CLOCK_CODES:
        return
    if answer.code in BUCKET_CODES:
        yield failed(
            "bucket",
            f"There is no bucket {config.bucket}.",
            "Create it with `video-uploader bucket setup`, or correct AWS_S3_BUCKET.",
        )
        return
    yield _bucket(config, answer)
    yield _region(session.client, config, answer)


def _credentials(session: AwsSession, answer: _FirstAnswer) -> CheckResult:
    with translated("find credentials", None):
        source = session.credential_chain.source
    found = f"They were found in {_SOURCES.get(source, source)}"
    if answer.code in _BAD_CREDENTIALS:
        return failed("credentials", f"{found}, and the server refuses them ({answer.code}).", answer.hint)
    if answer.code in CLOCK_CODES:
        return not_tried("credentials", "the clock")
    return ok("credentials", f"{found}, and the server accepts them.")


def _clock(answer: _FirstAnswer) -> CheckResult:
    if answer.code in CLOCK_CODES:
        return failed("clock", f"The server rejects this machine's time ({answer.code}).", answer.hint)
    if answer.ahead is None:
        return warning("clock", "The server sends no date.", "Synchronize this machine's clock (NTP).")
    seconds = abs(answer.ahead).total_seconds()
    difference = (
        f"This machine's clock is {seconds:.0f} s {'behind' if answer.ahead > timedelta() else 'ahead'}."
    )
    if abs(answer.ahead) >= TOLERATED_SKEW:
        return failed("clock", difference, "Set this machine's clock (NTP): S3 refuses its requests.")
    if abs(answer.ahead) >= NOTABLE_SKEW:
        return warning(
            "clock", difference, "Set this machine's clock (NTP): S3 tolerates 15 minutes at most."
        )
    return ok("clock", "This machine's clock agrees with the server's.")


def _bucket(config: StorageConfig, answer: _FirstAnswer) -> CheckResult:
    if not answer.code or answer.code in {"AccessDenied", "http-403"} | _OTHER_REGION:
        return ok("bucket", f"{config.bucket} exists.")
    return failed(
        "bucket", f"The server does not say whether {config.bucket} exists ({answer.code}).", answer.hint
    )


def _region(client: "S3Client", config: StorageConfig, answer: _FirstAnswer) -> CheckResult:
    region = answer.headers.get("x-amz-bucket-region") or _reported_region(client, config)
    if answer.code in _OTHER_REGION or (region is not None and region != config.region):
        return failed(
            "region",
            f"The bucket is in {region or 'another region'}, and AWS_REGION is {config.region}.",
            f"Set AWS_REGION to {region or 'the region the bucket is in'}: public URLs are made from it.",
        )
    if region is None:
        return ok("region", f"The server accepts {config.region}; it does not report the bucket's region.")
    return ok("region", f"The bucket is in {region}, as AWS_REGION says.")


def _reported_region(client: "S3Client", config: StorageConfig) -> str | None:
    """The bucket's region by a HEAD request, which AWS answers even without permission."""
    try:
        answer = client.head_bucket(Bucket=config.bucket)
    except ClientError as exc:
        headers = exc.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return headers.get("x-amz-bucket-region")
    except BotoCoreError:
        return None
    return answer.get("BucketRegion")


def _listing(answer: _FirstAnswer) -> CheckResult:
    if not answer.code:
        return ok("ListBucket", "The bucket can be listed.")
    return failed(
        "ListBucket",
        f"The bucket cannot be listed ({answer.code}), so S3 answers 403 for missing objects.",
        "Allow these credentials s3:ListBucket on the bucket; `doctor --iam` prints the policy.",
    )
