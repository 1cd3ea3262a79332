"""Every request for credentials ends, and every program that is run for them, whatever they answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from botocore.utils import ContainerMetadataFetcher

from storage import ErrorKind, StorageError
from storage.aws import AwsSession, sessions
from storage.aws.bounded_answers import MAX_ANSWER_BYTES
from storage.config import StorageConfig
from tests.support.endless_server import BODY, EndlessServer

pytestmark = pytest.mark.long

DEADLINE_SECONDS = 0.3
"""In the place of the seconds that an answer may take."""
BUSY_SECONDS = 25
"""What is not bounded takes longer than this, however busy the machine."""
SETTINGS = StorageConfig(bucket="b", region="eu-central-1")

Configure = Callable[[pytest.MonkeyPatch, Path, str], None]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch, no_aws_environment: None) -> None:
    monkeypatch.setattr(sessions, "CREDENTIAL_SECONDS", DEADLINE_SECONDS)
    # A container's agent is asked three times.
    monkeypatch.setattr(ContainerMetadataFetcher, "SLEEP_TIME", 0)


def of_the_instance(monkeypatch: pytest.MonkeyPatch, _place: Path, url: str) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)


def of_a_container(monkeypatch: pytest.MonkeyPatch, _place: Path, url: str) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)


def of_a_web_identity(monkeypatch: pytest.MonkeyPatch, place: Path, url: str) -> None:
    token = place / "token"
    token.write_text("token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/r")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)


def use_profile(monkeypatch: pytest.MonkeyPatch, place: Path, *lines: str) -> None:
    config = place / "config"
    config.write_text("\n".join(lines))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))


@contextmanager
def ends() -> Iterator[pytest.ExceptionInfo[StorageError]]:
    """An error in time."""
    started = time.monotonic()
    with pytest.raises(StorageError) as caught:
        yield caught
    assert time.monotonic() - started < BUSY_SECONDS


SERVERS = pytest.mark.parametrize(
    "configure", [of_the_instance, of_a_container, of_a_web_identity], ids=lambda f: f.__name__
)


@SERVERS
def test_an_answer_that_drips_ends_by_the_deadline(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each byte comes long before a read would time out."""
    with EndlessServer(BODY, b" ", seconds=0.05) as server:
        configure(monkeypatch, tmp_path, server.url)
        with ends(), closing(AwsSession(SETTINGS)) as session:
            session.credentials()
    assert server.sent


@SERVERS
def test_an_answer_that_does_not_end_is_not_kept(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sessions, "CREDENTIAL_SECONDS", BUSY_SECONDS)
    with EndlessServer(BODY, b"x" * (1 << 20), seconds=0) as server:
        configure(monkeypatch, tmp_path, server.url)
        with ends(), closing(AwsSession(SETTINGS)) as session:
            session.credentials()
    assert server.sent < 8 * MAX_ANSWER_BYTES


@pytest.mark.parametrize("has_role", [False, True])
@pytest.mark.parametrize(
    ("program", "seconds", "said"),
    [
        ("sleep 1000", DEADLINE_SECONDS, "did not end within 0.3 seconds"),
        ("sh -c 'exec >&- 2>&-; exec sleep 1000'", DEADLINE_SECONDS, "did not end within 0.3 seconds"),
        ("yes", BUSY_SECONDS, "printed more than 1,048,576 bytes"),
    ],
)
def test_a_program_that_does_not_end_is_killed(
    program: str, seconds: float, said: str, has_role: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where it gives the credentials that assume a role."""
    monkeypatch.setattr(sessions, "PROCESS_SECONDS", seconds)
    role = ["role_arn = arn:aws:iam::123456789012:role/r", "source_profile = p"]
    use_profile(
        monkeypatch,
        tmp_path,
        *("[default]", "region = eu-central-1", *(role if has_role else [f"credential_process = {program}"])),
        *("[profile p]", f"credential_process = {program}"),
    )
    with ends() as caught, closing(AwsSession(SETTINGS)) as session:
        session.credentials()
    assert caught.value.kind is ErrorKind.ENVIRONMENT
    assert said in str(caught.value)


def test_a_program_that_ends_gives_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    answer.write_text('{"Version": 1, "AccessKeyId": "key", "SecretAccessKey": "secret"}')
    use_profile(monkeypatch, tmp_path, "[default]", f"credential_process = cat {answer}")
    with closing(AwsSession(SETTINGS)) as session:
        assert session.credentials()[:2] == ("key", "secret")
