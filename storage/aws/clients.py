"""botocore's session and clients for one configuration, for everything but the transfer of files.

Every setting that matters is set here, so that none depends on the machine's AWS configuration.
"""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import closing
from functools import cached_property
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal, Self

import botocore.session
from botocore import UNSIGNED
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import PartialCredentialsError
from urllib3.response import HTTPResponse

from storage.aws.credential_chain import CredentialChain
from storage.aws.errors import translated
from storage.aws.proxies import environ_proxies
from storage.aws.sessions import ATTEMPTS, CONNECT_TIMEOUT_SECONDS, BoundedSession
from storage.aws.trust import Trust
from storage.config import AccessKey, StorageConfig
from storage.errors import ErrorKind, StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

READ_TIMEOUT_SECONDS = 30


class Closeable(ABC):
    """A context manager that closes itself at the end of the block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Release the connections. No call may be in progress or follow."""


Observer = Callable[[str, float, bool], None]
"""Told of a request: its operation in S3's API reference, its seconds, and whether it failed."""


PATH_STYLE_REFUSALS = frozenset({"SecondLevelDomainForbidden", "PathStyleDomainForbidden"})
"""Error codes of servers that want the bucket in the host name: those of Alibaba OSS and Tencent COS."""


class AwsSession(Closeable):
    """A botocore session for one configuration: its clients, credentials, trust and the bucket's address.

    Construction makes no request. It raises `StorageError` of kind environment for a missing profile.
    `clock` gives monotonic seconds.
    """

    def __init__(self, config: StorageConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        with translated("set up the clients of AWS", None):
            session = BoundedSession()
            self.botocore = session
            key = _access_key(config)
        self.trust = Trust(session)
        self.credential_chain = CredentialChain(key, self._chain_session, clock=clock)
        session.register_component("credential_provider", self.credential_chain)
        # Virtual-hosted style needs DNS and certificates that only AWS is sure to have.
        default = "auto" if config.endpoint_url is None else "path"
        self._addressing = default if config.addressing == "auto" else config.addressing
        self._retired: list[S3Client] = []
        self.observer: Observer | None = None
        """Told of every request that has ended, in any thread."""
        self._sendable: ReadOnlyCredentials | None = None
        """The latest credentials, which can be sent in a header."""

    def _chain_session(self) -> botocore.session.Session:
        """A session in which credentials are searched: its clients of STS and others are as ours."""
        session = BoundedSession()
        session.set_config_variable("region", self._config.region)
        session.set_config_variable("ca_bundle", self.trust.bundle_file)
        return session

    @cached_property
    def client(self) -> "S3Client":
        """A thread-safe client. Raises `StorageError` of kind environment for unusable settings."""
        return self._make_client("s3v4", proxies=self._proxies())

    @cached_property
    def anonymous(self) -> "S3Client":
        """A client without credentials, which sees what everyone sees."""
        return self._make_client(UNSIGNED, proxies=self._proxies())

    def use_virtual_addresses(self) -> None:
        """Put the bucket into the host name from now on: the server refuses it in the path."""
        self._addressing = "virtual"
        for name in ("client", "anonymous", "bucket_url"):
            if (made := self.__dict__.pop(name, None)) is not None and name != "bucket_url":
                # A request may be in progress.
                self._retired.append(made)

    def close(self) -> None:
        """Close the clients' connections."""
        for client in self._retired:
            client.close()
        for name in ("client", "anonymous"):
            if name in self.__dict__:
                self.__dict__[name].close()
        self.trust.close()

    @cached_property
    def bucket_url(self) -> str:
        """The bucket's URL in the right addressing style, without the '/' before a key.

        It is taken from a request that botocore builds and that is never sent.
        Raises `StorageError` of kind environment for an invalid bucket name.
        """
        seen: list[str] = []

        def intercept(request: AWSPreparedRequest, **_: object) -> AWSResponse:
            seen.append(request.url)
            return AWSResponse(request.url, 200, HTTPHeaders(), HTTPResponse(BytesIO()))

        with closing(self._make_client(UNSIGNED)) as client:
            client.meta.events.register("before-send.s3", intercept)  # type: ignore[arg-type]  # the stubs know no answers
            with translated("find the address of the bucket", None):
                client.head_object(Bucket=self._config.bucket, Key="k")
        return seen[0].removesuffix("/k")

    def credentials(self) -> ReadOnlyCredentials:
        """Credentials that are valid now; expiring ones are refreshed first, which may take requests.

        Raises `StorageError` of kind environment if there are none.
        """
        with translated("find credentials", None):
            frozen = self.credential_chain.get_frozen_credentials()
        if frozen == self._sendable:
            return frozen
        for value in (frozen.access_key, frozen.secret_key, frozen.token):
            # As a header it would be refused by a library whose message quotes it.
            if value is not None and not re.fullmatch(r"[\x21-\x7e]+", value):
                hint = (
                    "The access key, the secret key or the session token contains white space or characters "
                    f"other than ASCII. Correct it where it was found: {self.credential_chain.source}."
                )
                raise StorageError(ErrorKind.ENVIRONMENT, "find credentials", None, "bad-credentials", hint)
        self._sendable = frozen
        return frozen

    def _proxies(self) -> dict[str, str] | None:
        """The proxies for the bucket's own address; None where it has none, which every request reports."""
        try:
            url = self.bucket_url
        except StorageError:
            return None
        return environ_proxies(url)

    def _make_client(self, signature: object, **options: object) -> "S3Client":
        client: S3Client = make_client(
            "s3",
            self._config,
            self,
            attempts=ATTEMPTS,
            read_timeout=READ_TIMEOUT_SECONDS,
            max_pool_connections=self._config.connections,
            signature_version=signature,
            s3={"addressing_style": self._addressing},
            tcp_keepalive=True,
            **options,
        )
        events = client.meta.events
        events.register_last("before-parameter-build.s3", _stay_in_region)
        events.register("before-call.s3", _note_start)
        events.register("after-call.s3", self._note_answer)
        events.register("after-call-error.s3", self._note_failure)
        return client

    def observe(self, operation: str, seconds: float, status: int) -> None:
        """Tell the observer of a request; `status` is that of its answer, 0 for none.

        That there is no object, and that a condition was not met, is no failure.
        """
        if self.observer is not None:
            is_absent = status == HTTPStatus.NOT_FOUND and operation == "HeadObject"
            is_answered = 0 < status < HTTPStatus.BAD_REQUEST or status == HTTPStatus.PRECONDITION_FAILED
            self.observer(operation, seconds, not (is_answered or is_absent))

    def _note_answer(self, http_response: AWSResponse, model: Any, context: Any, **_: object) -> None:
        self.observe(model.name, time.monotonic() - context[_STARTED], http_response.status_code)

    def _note_failure(self, context: Any, event_name: str, **_: object) -> None:
        self.observe(event_name.rpartition(".")[2], time.monotonic() - context[_STARTED], 0)

    def note_refusal(self, http_response: AWSResponse, parsed: dict[str, Any], **_: object) -> None:
        """Read the credentials again if they may be the reason for an answer, as botocore reports it."""
        code = parsed.get("Error", {}).get("Code", "")
        self.credential_chain.note_refusal(str(code), http_response.status_code)


def make_client(
    service: Literal["s3", "cloudfront"],
    config: StorageConfig,
    session: AwsSession,
    *,
    attempts: int,
    read_timeout: float,
    **options: Any,
) -> Any:
    """A client for an AWS service with these options of botocore's `Config`; makes no request.

    With a `BoundedSession` an answer must be complete within `read_timeout` seconds. Raises `StorageError` of
    kind environment for unusable settings.
    """
    if service == "s3":
        endpoint_url, name, variables = config.endpoint_url, "S3", "AWS_ENDPOINT_URL and AWS_REGION"
    else:
        endpoint_url, name = config.cloudfront_endpoint_url, "CloudFront"
        variables = "AWS_REGION and AWS_ENDPOINT_URL_CLOUDFRONT"
    operation = f"set up the {name} client"
    create: Callable[..., Any] = session.botocore.create_client
    try:
        with translated(operation, None):
            client = create(
                service,
                region_name=config.region,
                endpoint_url=endpoint_url,
                verify=session.trust.bundle_file,
                config=Config(  # type: ignore[call-arg]  # the stubs lack ignore_configured_endpoint_urls
                    # AWS_ENDPOINT_URL_S3 and ~/.aws/config must not override the endpoint that public URLs
                    # are made from, nor AWS_ENDPOINT_URL, which names an S3 server, that of CloudFront.
                    ignore_configured_endpoint_urls=True,
                    retries={"mode": "standard", "total_max_attempts": attempts},
                    # What is sent along with bodies is decided here, and not every server takes it.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    connect_timeout=CONNECT_TIMEOUT_SECONDS,
                    read_timeout=read_timeout,
                    **options,
                ),
            )
    except ValueError as exc:
        hint = f"{exc}. Check {variables}."
        raise StorageError(ErrorKind.ENVIRONMENT, operation, None, "bad-settings", hint) from exc
    if options.get("signature_version") is not UNSIGNED:
        client.meta.events.register("after-call", session.note_refusal)
    return client


def _access_key(config: StorageConfig) -> AccessKey | None:
    key, secret = config.access_key_id, config.secret_access_key
    if key is None and secret is None:
        return None
    if key is None or secret is None:
        missing = "access_key_id" if key is None else "secret_access_key"
        raise PartialCredentialsError(provider="the configuration", cred_var=missing)
    return AccessKey(key, secret, config.session_token)


def expected_owner(config: StorageConfig) -> dict[str, Any]:
    """The argument that makes S3 refuse a request if the bucket belongs to another account."""
    owner = config.expected_bucket_owner
    return {} if owner is None else {"ExpectedBucketOwner": owner}


_STARTED = "video-uploader-started"


def _note_start(context: dict[str, Any], **_: object) -> None:
    context[_STARTED] = time.monotonic()


def _stay_in_region(context: dict[str, Any], **_: object) -> None:
    """Keep botocore from following a redirect to another region, by claiming that it has followed one.

    The public URLs point to the configured region.
    """
    context["s3_redirect"]["redirected"] = True
