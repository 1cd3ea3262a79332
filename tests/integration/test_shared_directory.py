"""Real daemons on one directory and one PostgreSQL: each file once, whoever of them dies, sleeps or wakes."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import pytest

from db import State, Upload
from tests.integration.conftest import MakeSettings
from tests.integration.test_daemon import PATH, command, keys, place_file
from tests.integration.test_upload_rules import LARGE, padded
from tests.support.daemon_process import DaemonProcess, running_daemon
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request
from tests.support.harness import BUCKET, VIDEO_ID
from tests.support.media import Media
from tests.support.s3_server import S3Server
from tests.support.shared_directory import shared  # noqa: F401  # a fixture
from watcher.app.factories import make_ledger, open_ledger_database
from watcher.settings.model import Settings

pytestmark = pytest.mark.long

# The fixtures are named as parameters below.
# ruff: noqa: F811

FILES = [f"{VIDEO_ID}/video_{number}_720p.mp4" for number in range(9)]


def rows(settings: Settings) -> list[Upload]:
    """The ledger, read from outside."""
    database = open_ledger_database(settings, read_only=True)
    try:
        return make_ledger(settings, database).uploads()
    finally:
        database.close()


def per_object(proxy: FaultProxy, action: str) -> Counter[str]:
    """How often the server was asked to do something, by path below the bucket's prefix."""
    start = f"/{BUCKET}/videos/"
    return Counter(
        unquote(urlsplit(request.path).path).removeprefix(start)
        for request in proxy.requests
        if request.action == action
    )


@dataclass
class LastPart:
    """Holds the first request with the last part of an upload until it is let go, at the latest at the end.

    The other parts are accepted before it is reported as held.
    """

    parts: int
    held: threading.Event = field(default_factory=threading.Event)
    release_claim: threading.Event = field(default_factory=threading.Event)
    accepted: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __call__(self, request: Request, forward: Forward) -> Answer | None:
        if request.action != "UploadPart" or self.held.is_set():
            return forward()
        if request.part_number < self.parts:
            answer = forward()
            self.accepted.release()
            return answer
        for _ in range(self.parts - 1):
            assert self.accepted.acquire(timeout=20)
        self.held.set()
        self.release_claim.wait(40)
        return forward()


@pytest.fixture
def last_part(proxy: FaultProxy) -> Iterator[LastPart]:
    """The proxy holds the third part of three."""
    holding = LastPart(3)
    proxy.fault = holding
    yield holding
    holding.release_claim.set()


@pytest.fixture
def large(place: str, video: bytes) -> str:
    """A video of three parts."""
    path = os.path.join(place, "large.mp4")
    with open(path, "wb") as file:
        file.write(padded(video, LARGE))
    return path


def start(stack: ExitStack, settings: Settings) -> DaemonProcess:
    return stack.enter_context(running_daemon(settings))


def test_three_daemons_on_one_directory_upload_every_file_once(
    shared: MakeSettings, server: S3Server, proxy: FaultProxy, media: Media
) -> None:
    """Old files and new ones; each daemon is told of in `status --all`, and a second of a name is refused."""
    chosen = [shared(INSTANCE_ID=name) for name in ("a", "b", "c")]
    for path in FILES[:6]:
        place_file(chosen[0], path, media.faststart)
    with ExitStack() as stack:
        daemons = [start(stack, settings) for settings in chosen]
        for daemon in daemons:
            daemon.expect("daemon_ready")
        for path in FILES[6:]:
            place_file(chosen[0], path, media.faststart)
        await_released(daemons, len(FILES))
        refused = command(chosen[0], "run", "--once")
        assert (refused.returncode, "INSTANCE_ID" in refused.stderr) == (1, True)
        told = json.loads(command(chosen[1], "status", "--all", "--json").stdout)
    assert per_object(proxy, "PutObject") == dict.fromkeys(FILES, 1)
    assert keys(server) == {f"videos/{path}" for path in FILES}
    assert [row.state for row in rows(chosen[0])] == [State.RELEASED] * len(FILES)
    assert [(one["instance"], one["condition"]) for one in told["instances"]] == [
        ("a", "running"),
        ("b", "running"),
        ("c", "running"),
    ]
    assert [one["counts"]["released"] for one in told["ledgers"]] == [len(FILES)]


def await_released(daemons: list[DaemonProcess], number: int) -> None:
    """Read the daemons' logs in turns until they have released so many files between them."""
    for _ in range(200):
        released = [
            line["path"] for one in daemons for line in one.events if line["event"] == "upload_released"
        ]
        if len(released) >= number:
            assert len(set(released)) == len(released) == number
            return
        for one in daemons:
            one.read(0.1)
    pytest.fail(f"{released} were released, and no more")


def test_an_upload_whose_daemon_was_killed_is_gone_on_with_by_another(
    shared: MakeSettings, proxy: FaultProxy, large: str, last_part: LastPart
) -> None:
    """After CLAIM_SECONDS; the parts that are there stay there, and only the rest is sent."""
    first, second = shared(INSTANCE_ID="first"), shared(INSTANCE_ID="second")
    place_file(first, PATH, large)
    with ExitStack() as stack:
        killed = start(stack, first)
        assert last_part.held.wait(20)
        other = start(stack, second)
        other.expect("daemon_ready")
        killed.process.kill()
        killed.process.wait(10)
        del proxy.requests[:]
        assert other.expect("upload_resumed")["parts_kept"] == 2
        other.expect("upload_released", path=PATH)
    sent = [request.part_number for request in proxy.requests if request.action == "UploadPart"]
    assert sent == [3]
    assert per_object(proxy, "CompleteMultipartUpload") == {PATH: 1}
    assert "CreateMultipartUpload" not in proxy.actions
    assert "AbortMultipartUpload" not in proxy.actions
    assert [row.state for row in rows(first)] == [State.RELEASED]


def test_a_daemon_that_slept_through_its_claim_is_fenced_off_when_it_wakes(
    shared: MakeSettings, server: S3Server, proxy: FaultProxy, large: str, last_part: LastPart
) -> None:
    """SIGSTOP, not death: what it does afterwards changes nothing, and it goes on with other files."""
    first, second = (
        shared(INSTANCE_ID="first", KEEP_LOCAL=True),
        shared(INSTANCE_ID="second", KEEP_LOCAL=True),
    )
    place_file(first, PATH, large)
    with ExitStack() as stack:
        asleep = start(stack, first)
        assert last_part.held.wait(20)
        other = start(stack, second)
        other.expect("daemon_ready")
        asleep.signal(signal.SIGSTOP)
        other.expect("upload_published", path=PATH)
        last_part.release_claim.set()
        asleep.signal(signal.SIGCONT)
        asleep.expect("claim_lost", path=PATH)
        other.signal(signal.SIGTERM)
        assert other.wait() == 0
        place_file(first, FILES[0], large)
        asleep.expect("upload_published", path=FILES[0])
        asleep.signal(signal.SIGTERM)
        assert asleep.wait() == 0
    assert per_object(proxy, "CompleteMultipartUpload") == {PATH: 1, FILES[0]: 1}
    assert [row.state for row in rows(first)] == [State.PUBLISHED] * 2
    with open(large, "rb") as file:
        assert server.client().get_object(Bucket=BUCKET, Key=f"videos/{PATH}")["Body"].read() == file.read()
