"""botocore's sessions, whose requests all end: also those for credentials, and the programs run for them.

botocore has a timeout for each read, none for a whole answer or for `credential_process`, and no limit of
size; it has no public place for any of them.
"""

import os
import selectors
import subprocess
import time
from contextlib import suppress
from functools import partial
from typing import Any

import botocore.endpoint
import botocore.session
import botocore.utils
from botocore import credentials
from botocore.config import Config
from botocore.exceptions import CredentialRetrievalError

from storage.aws.bounded_answers import bounded_pools
from storage.aws.proxies import environ_proxies
from storage.aws.response_parsing import ParserFactory, shared_loader

CONNECT_TIMEOUT_SECONDS = 5
ATTEMPTS = 2
"""One immediate retry; further ones are the caller's decision."""

CREDENTIAL_SECONDS = 10.0
"""The limit for each answer with credentials: of STS, SSO, a container's agent, or the instance metadata."""
PROCESS_SECONDS = 60.0
"""The limit for `credential_process`, which may make several requests itself."""
MAX_PROCESS_BYTES = 1 << 20
"""The limit for its output."""

# The clients of credential providers, of STS and of single sign-on take no other rule.
botocore.endpoint.get_environ_proxies = environ_proxies
botocore.utils.get_environ_proxies = environ_proxies


class BoundedSession(botocore.session.Session):
    """A session whose clients get answers with a deadline, their `read_timeout`, and a limit of their size.

    Its parsers raise nothing but `ResponseParserError`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._has_bounded_providers = False
        self.register_component("response_parser_factory", ParserFactory())
        self.register_component("data_loader", shared_loader())
        # For the clients that the providers of credentials create; others have a configuration of their own.
        self.set_default_client_config(
            Config(
                connect_timeout=CONNECT_TIMEOUT_SECONDS,
                read_timeout=CREDENTIAL_SECONDS,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            )
        )

    def create_client(self, *arguments: Any, **options: Any) -> Any:
        """As botocore's."""
        client: Any = super().create_client(*arguments, **options)
        _bound_requests(vars(client)["_endpoint"].http_session, client.meta.config.read_timeout)
        return client

    def get_credentials(self) -> Any:
        """As botocore's."""
        if not self._has_bounded_providers:
            chain = self.get_component("credential_provider")
            # Another kind of chain searches in a session of its own.
            for provider in getattr(chain, "providers", ()):
                _bound_provider(provider)
            self._has_bounded_providers = True
        return super().get_credentials()


def _bound_requests(http_session: Any, seconds: float) -> None:
    pools = vars(http_session)["_pool_classes_by_scheme"]
    pools.update(bounded_pools(pools, deadline=lambda: time.monotonic() + seconds))


def _bound_provider(provider: Any) -> None:
    match provider:
        case credentials.InstanceMetadataProvider():
            _bound_requests(vars(vars(provider)["_role_fetcher"])["_session"], CREDENTIAL_SECONDS)
        case credentials.ContainerProvider():
            _bound_requests(vars(vars(provider)["_fetcher"])["_session"], CREDENTIAL_SECONDS)
        case credentials.ProcessProvider():
            vars(provider)["_popen"] = partial(_BoundedProcess, vars(provider)["_popen"])
        case credentials.AssumeRoleProvider():
            _bound_source_profiles(vars(provider)["_profile_provider_builder"])


def _bound_source_profiles(builder: Any) -> None:
    """Bound the providers of the profiles whose credentials assume a role."""
    make_providers = builder.providers

    def make_bounded(*arguments: Any, **options: Any) -> Any:
        providers = make_providers(*arguments, **options)
        for provider in providers:
            _bound_provider(provider)
        return providers

    builder.providers = make_bounded


class _BoundedProcess:
    """A program that is killed after `PROCESS_SECONDS`, or once it has printed too much."""

    def __init__(self, popen: type[subprocess.Popen[bytes]], command: list[str], **options: Any) -> None:
        self._process = popen(command, **options)

    @property
    def returncode(self) -> int | None:
        """The exit status."""
        return self._process.returncode

    def communicate(self) -> tuple[bytes, bytes]:
        """Return what it prints. Raises CredentialRetrievalError if it was killed."""
        deadline = time.monotonic() + PROCESS_SECONDS
        process = self._process
        printed: dict[Any, bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
        try:
            with selectors.DefaultSelector() as selector:
                for stream in printed:
                    selector.register(stream, selectors.EVENT_READ)
                while selector.get_map():
                    for key, _ in selector.select(_left(deadline)):
                        block = os.read(key.fd, 1 << 16)
                        printed[key.fileobj] += block
                        if not block:
                            selector.unregister(key.fileobj)
                        elif len(printed[key.fileobj]) > MAX_PROCESS_BYTES:
                            raise _failed(f"printed more than {MAX_PROCESS_BYTES:,} bytes")
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_left(deadline))
        finally:
            process.kill()
            process.wait()
            for stream in printed:
                stream.close()
        return bytes(printed[process.stdout]), bytes(printed[process.stderr])


def _left(deadline: float) -> float:
    """The seconds until then. Raises CredentialRetrievalError if there are none."""
    if (left := deadline - time.monotonic()) <= 0:
        raise _failed(f"did not end within {PROCESS_SECONDS:g} seconds")
    return left


def _failed(what: str) -> CredentialRetrievalError:
    return CredentialRetrievalError(
        provider=credentials.ProcessProvider.METHOD, error_msg=f"the program of credential_process {what}"
    )
