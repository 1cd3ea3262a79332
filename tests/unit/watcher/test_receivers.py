"""Receivers of events: what a webhook, a command and a monitor are given, and which answers are failures."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from storage import AnonymousHttp
from tests.support.certificates import make_certificate
from tests.support.forward_proxy import ForwardProxy
from tests.support.http_receiver import HttpReceiver, http_receiver
from watcher.stages.receivers import (
    SUMMARY_SECONDS,
    Command,
    DeliveryError,
    Endpoint,
    Heartbeat,
    Trouble,
    Webhook,
)
from watcher.supervision.background_thread import Supervisor
from watcher.telemetry import Metrics, redact
from watcher.telemetry.redaction import MASK

PAYLOAD = json.dumps({"event": "video_complete", "path": "ä.mp4"})


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with http_receiver() as running:
        yield running


def reason_of(receiver: Webhook | Command) -> str:
    with pytest.raises(DeliveryError) as failed:
        receiver.deliver("an-id", PAYLOAD)
    return str(failed.value)


def test_a_webhook_is_posted_json_with_a_signature_of_time_and_body(receiver: HttpReceiver) -> None:
    """The signature is computed here as docs/operations.md tells receivers to."""
    Webhook(f"{receiver.url}/hook?x=1", "s3cr3t", clock=lambda: 1_700_000_000.9).deliver("an-id", PAYLOAD)
    got = receiver.next()
    assert (got.method, got.path, got.content) == ("POST", "/hook?x=1", PAYLOAD.encode())
    assert got.headers["content-type"] == "application/json"
    assert got.headers["x-video-uploader-delivery"] == "an-id"
    given = dict(pair.split("=", 1) for pair in got.headers["x-video-uploader-signature"].split(","))
    assert given["t"] == "1700000000"
    signed = hmac.digest(b"s3cr3t", given["t"].encode() + b"." + got.content, hashlib.sha256)
    assert given["v1"] == signed.hex()


def test_a_login_in_the_url_goes_into_a_header_and_without_a_key_there_is_no_signature(
    receiver: HttpReceiver,
) -> None:
    Webhook(receiver.url.replace("//", "//me:p%40ss@"), None).deliver("an-id", PAYLOAD)
    got = receiver.next()
    assert "x-video-uploader-signature" not in got.headers
    assert got.headers["authorization"] == "Basic bWU6cEBzcw=="
    assert "@" not in got.headers["host"]


@pytest.mark.parametrize(
    ("status", "said"),
    [(500, "answered 500"), (404, "answered 404"), (302, "redirects are not followed"), (0, "no connection")],
)
def test_anything_but_a_success_is_a_failed_attempt(receiver: HttpReceiver, status: int, said: str) -> None:
    receiver.location = f"{receiver.url}/elsewhere"
    receiver.answers = [status]
    assert said in reason_of(Webhook(receiver.url, "key"))
    assert len(receiver.received) == 1


def test_a_receiver_that_is_away_or_silent_or_not_trusted_is_told_apart(
    receiver: HttpReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate counts once SSL_CERT_FILE names its authority."""
    with http_receiver() as ended:
        pass
    assert "no connection can be made" in reason_of(Webhook(ended.url, None))
    receiver.silent.set()
    quick = Endpoint(receiver.url, http=AnonymousHttp(timeout=0.2))
    with pytest.raises(DeliveryError, match="does not answer"):
        quick.request("GET")
    certificate = make_certificate(tmp_path)
    with http_receiver(tls=certificate.server_side) as secure:
        assert reason_of(Webhook(secure.url, None)) == "its certificate is not trusted"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.path))
        Webhook(secure.url, None).deliver("an-id", PAYLOAD)
        assert secure.next().content == PAYLOAD.encode()


def test_the_proxy_of_the_environment_is_used(
    receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ForwardProxy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        Webhook(receiver.url, None).deliver("an-id", PAYLOAD)
        assert receiver.next().content == PAYLOAD.encode()
        assert proxy.targets


def script(text: str) -> str:
    return f"{sys.executable} -c '{text}'"


def test_a_command_is_given_the_event_and_its_last_line_is_logged(tmp_path: Path) -> None:
    """There is no shell: what one would expand is an argument as it is."""
    target = tmp_path / "given"
    text = 'import sys; open(sys.argv[1], "w").write(sys.stdin.read()); print(*sys.argv[2:])'
    with capture_logs() as logs:
        Command("on_published", f"{script(text)} {target} '$HOME; *' b").deliver("an-id", PAYLOAD)
    assert target.read_text() == PAYLOAD
    ended = [entry for entry in logs if entry["event"] == "hook_ended"]
    assert [(entry["status"], entry["output"]) for entry in ended] == [(0, "$HOME; * b")]


def test_a_command_that_fails_says_how() -> None:
    assert reason_of(Command("x", script('print("a"); print("no luck"); raise SystemExit(3)'))) == (
        "it exited with 3: no luck"
    )
    assert "was ended by SIGKILL" in reason_of(Command("x", script("import os; os.kill(os.getpid(), 9)")))
    assert "cannot be run: No such file" in reason_of(Command("x", "/no/such/program"))


@pytest.mark.long
def test_a_command_that_does_not_end_is_killed_with_what_it_has_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    text = (
        "import os, subprocess, sys, time; "
        f'p = subprocess.Popen(["sleep", "600"]); open("{child}", "w").write(str(p.pid)); time.sleep(600)'
    )
    assert "was killed" in reason_of(Command("x", script(text), seconds=3))
    pid = int(child.read_text())
    deadline = time.monotonic() + 10
    while _is_running(pid):
        assert time.monotonic() < deadline
    # What prints without an end is killed, too, and little of it is kept.
    assert "was killed" in reason_of(Command("x", "yes", seconds=0.5))


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except FileNotFoundError:
        return False


def test_what_a_command_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    left = tmp_path / "left"
    text = f'import subprocess; open("{left}", "w").write(str(subprocess.Popen(["sleep", "600"]).pid))'
    Command("x", script(text), seconds=60).deliver("an-id", PAYLOAD)
    os.kill(int(left.read_text()), 9)


def test_a_command_is_ended_when_the_daemon_stops(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    command = Command("x", script(f'import time; open("{begun}", "w"); time.sleep(600)'))
    failures: list[str] = []
    thread = threading.Thread(target=lambda: failures.append(reason_of(command)))
    thread.start()
    while not begun.exists():
        assert thread.is_alive()
    command.interrupt()
    thread.join(20)
    assert failures == ["it was ended by SIGTERM"]


def test_output_and_reasons_tell_no_secret() -> None:
    redact.learn(["s3cr3t-token-of-a-hook"])
    try:
        reason = reason_of(Command("x", script('print("key s3cr3t-token-of-a-hook"); raise SystemExit(1)')))
    finally:
        redact.forget()
    assert reason == f"it exited with 1: key {MASK}"


def test_the_environment_has_nothing_of_the_service_managers_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    monkeypatch.setenv("OTHER", "kept")
    target = tmp_path / "names"
    text = f'import os; open("{target}", "w").write(" ".join(os.environ))'
    Command("x", script(text)).deliver("an-id", PAYLOAD)
    names = target.read_text().split()
    assert "OTHER" in names
    assert "NOTIFY_SOCKET" not in names


def test_a_heartbeat_comes_once_a_minute_while_all_is_well(receiver: HttpReceiver) -> None:
    """Not while something is wrong, and not once the reports end, as those of a main thread that hangs."""
    seconds = [1000.0]
    heartbeat = Heartbeat(f"{receiver.url}/ping", supervisor=Supervisor(Metrics()), clock=lambda: seconds[0])
    assert heartbeat.step() == 60
    assert receiver.received == []
    heartbeat.report(is_well=True)
    for second in range(0, 180, 5):
        seconds[0] = 1000.0 + second
        heartbeat.report(is_well=True)
        heartbeat.step()
    assert [(got.method, got.path) for got in receiver.received] == [("GET", "/ping")] * 3
    heartbeat.report(is_well=False)
    seconds[0] += 300
    heartbeat.step()
    assert len(receiver.received) == 3
    heartbeat.report(is_well=True)
    heartbeat.step()
    assert len(receiver.received) == 4
    seconds[0] += 61
    heartbeat.step()
    assert len(receiver.received) == 4


def test_a_receiver_that_keeps_failing_is_logged_once_and_then_summed_up() -> None:
    seconds = [0.0]
    trouble = Trouble("heartbeat", lambda: seconds[0])
    with capture_logs() as logs:
        for _ in range(61):
            trouble.failed("it answered 500")
            seconds[0] += SUMMARY_SECONDS / 30
        trouble.succeeded()
        trouble.succeeded()
    assert [entry["event"] for entry in logs] == [
        "notification_failed",
        "notifications_failing",
        "notifications_failing",
        "notifications_resumed",
    ]
    assert logs[-1]["failures"] == 61
