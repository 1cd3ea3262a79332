"""The real daemon as a process: what it finds, how it stops, what it says, and what it survives."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import datetime, timedelta
from pathlib import Path
from urllib.request import urlopen

import pytest

from db import Ledger, State, migrate, open_database
from tests.faults.http_wire import HttpWire
from tests.faults.wire_faults import BlackHole
from tests.support.bucket_contents import keys
from tests.support.daemon_process import command, place_file, rows, running_daemon
from tests.support.databases import enqueue
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, s3_error
from tests.support.harness import BUCKET, VIDEO_ID, MakeSettings, settings_for
from tests.support.media import Media, encoding
from tests.support.notify_socket import expect_message, notify_socket
from tests.support.s3_server import S3Server
from tests.support.video_files import OTHER_VIDEO, PATH, padded
from watcher.failpoints import CRASH_AT_VARIABLE, Point
from watcher.settings import Settings

pytestmark = pytest.mark.long

SHUTDOWN_SECONDS = 10


def test_every_way_of_arriving_is_seen_without_waiting_for_the_periodic_scan(
    settings: MakeSettings, server: S3Server, media: Media, place: str
) -> None:
    """There before the start, in a directory made a moment earlier, renamed in, and a tree moved in."""
    chosen = settings(RESCAN_SECONDS=86400)
    place_file(chosen, f"{VIDEO_ID}/before_144p.mp4", media.faststart)
    elsewhere = os.path.join(place, "elsewhere")
    os.makedirs(os.path.join(elsewhere, OTHER_VIDEO))
    for name in ("tree_144p.mp4", "tree_240p.mp4"):
        shutil.copy(media.faststart, os.path.join(elsewhere, OTHER_VIDEO, name))
    shutil.copy(media.plain, os.path.join(elsewhere, "renamed.mp4"))
    with running_daemon(chosen) as daemon:
        daemon.expect("daemon_ready")
        new_video = "2d0a5b82-1f7e-4e3c-8a0a-5d3b2c9f4e33"
        place_file(chosen, f"{new_video}/at_once_144p.mp4", media.faststart)
        os.rename(
            os.path.join(elsewhere, "renamed.mp4"),
            os.path.join(chosen.completed_dir, f"{VIDEO_ID}/renamed_240p.mp4"),
        )
        os.rename(os.path.join(elsewhere, OTHER_VIDEO), os.path.join(chosen.completed_dir, OTHER_VIDEO))
        daemon.expect("upload_released", count=5)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert keys(server) == {
        f"videos/{VIDEO_ID}/before_144p.mp4",
        f"videos/{VIDEO_ID}/renamed_240p.mp4",
        f"videos/{OTHER_VIDEO}/tree_144p.mp4",
        f"videos/{OTHER_VIDEO}/tree_240p.mp4",
        f"videos/{new_video}/at_once_144p.mp4",
    }
    assert [row.state for row in rows(chosen)] == [State.RELEASED] * 5


def test_an_encode_under_way_is_uploaded_only_when_it_is_done(
    settings: MakeSettings, server: S3Server, place: str
) -> None:
    """A real ffmpeg writes straight onto the final path; SIGTERM ends it with a valid, shorter file.

    Whoever begins to write in the very moment of a look breaks a lease, and the kernel sends SIGIO for it; a
    daemon that systemd starts has not inherited from anybody that it ignores that.
    """
    chosen = settings()
    target = os.path.join(chosen.completed_dir, PATH)
    os.makedirs(os.path.dirname(target))
    started_anew = ("env", "--default-signal=IO")
    with running_daemon(chosen, environment={"LOG_LEVEL": "DEBUG"}, through=started_anew) as daemon:
        daemon.expect("daemon_ready")
        with encoding(target, "-movflags", "+faststart") as encoder:
            daemon.expect("file_busy", path=PATH)
            assert keys(server) == set()
            daemon.signal(signal.SIGIO)
            encoder.send_signal(signal.SIGTERM)
            encoder.wait(20)
        daemon.expect("upload_released", path=PATH)
    assert keys(server) == {f"videos/{PATH}"}


def test_a_killed_encode_is_rejected(settings: MakeSettings, server: S3Server) -> None:
    """The kernel sends `closed` all the same; the file has no index."""
    chosen = settings()
    target = os.path.join(chosen.completed_dir, PATH)
    os.makedirs(os.path.dirname(target))
    with running_daemon(chosen, environment={"LOG_LEVEL": "DEBUG"}) as daemon:
        daemon.expect("daemon_ready")
        with encoding(target) as encoder:
            daemon.expect("file_busy", path=PATH)
            encoder.kill()
            encoder.wait(20)
            daemon.expect("upload_rejected", path=PATH, code="incomplete")
    assert keys(server) == set()
    assert os.path.exists(target)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds requests back until it is set, at the latest at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def test_a_silent_server_keeps_the_daemon_neither_from_starting_nor_from_stopping(
    place: str, server: S3Server
) -> None:
    with HttpWire(server.url) as wire:
        injection = wire.inject(BlackHole())
        with running_daemon(settings_for(place, wire.url)) as daemon:
            daemon.expect("daemon_ready")
            injection.wait_for(1)
            daemon.signal(signal.SIGTERM)
            assert daemon.wait(SHUTDOWN_SECONDS) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_in_the_middle_of_an_upload_takes_seconds_and_the_next_start_goes_on(
    settings: MakeSettings,
    server: S3Server,
    proxy: FaultProxy,
    media: Media,
    gate: threading.Event,
    number: signal.Signals,
) -> None:
    """The server does not answer at all; nothing is lost and nothing counts as failed."""
    chosen = settings()
    held = threading.Event()

    def stall(request: Request, forward: Forward) -> Answer | None:
        if request.action == "PutObject":
            held.set()
            gate.wait(60)
            return None
        return forward()

    proxy.fault = stall
    place_file(chosen, PATH, media.faststart)
    with running_daemon(chosen) as daemon:
        assert held.wait(20)
        daemon.signal(number)
        assert daemon.wait(SHUTDOWN_SECONDS) == 0
    gate.set()
    assert [row.state for row in rows(chosen)] == [State.PENDING]
    assert os.path.exists(os.path.join(chosen.completed_dir, PATH))
    proxy.fault = lambda _request, forward: forward()
    with running_daemon(chosen) as daemon:
        daemon.expect("upload_released", path=PATH)
    assert keys(server) == {f"videos/{PATH}"}


def test_a_daemon_killed_in_the_middle_goes_on_at_the_next_start(
    settings: MakeSettings, server: S3Server, proxy: FaultProxy, media: Media
) -> None:
    """SIGKILL after the server has the object and before the ledger knows: it is adopted, not sent again."""
    chosen = settings()
    killed: list[int] = []
    place_file(chosen, PATH, media.faststart)
    with running_daemon(chosen) as daemon:

        def kill(request: Request, forward: Forward) -> Answer | None:
            if request.action != "PutObject":
                return forward()
            forward()
            daemon.process.kill()
            killed.append(daemon.process.wait())
            return None

        proxy.fault = kill
        assert daemon.wait(20) == -signal.SIGKILL
    assert killed == [-signal.SIGKILL]
    proxy.fault = lambda _request, forward: forward()
    with running_daemon(chosen) as daemon:
        daemon.expect("object_adopted", path=PATH)
        daemon.expect("upload_released", path=PATH)
    assert proxy.actions.count("PutObject") == 1
    assert [row.state for row in rows(chosen)] == [State.RELEASED]


def test_what_a_crash_left_aside_gets_its_name_back_though_nothing_is_to_be_released(
    settings: MakeSettings, media: Media
) -> None:
    chosen = settings()
    place_file(chosen, PATH, media.faststart)
    with running_daemon(chosen, environment={CRASH_AT_VARIABLE: Point.QUARANTINED.value}) as daemon:
        assert daemon.wait(30) == -signal.SIGKILL
    directory = os.path.join(chosen.completed_dir, VIDEO_ID)
    assert os.listdir(directory) != [os.path.basename(PATH)]
    with running_daemon(settings(KEEP_LOCAL=True)) as daemon:
        daemon.expect("daemon_ready")
    assert os.listdir(directory) == [os.path.basename(PATH)]


BROKEN = """
from watcher.detection.scanner import Scanner
from watcher.detection.settler import Settler
from watcher.supervision.background_thread import Supervisor
from watcher.supervision.backoff import Backoff

really, failures = {method}, iter(range({failures}))

def fail_at_first(self, *arguments, **options):
    for _ in failures:
        raise ZeroDivisionError("broken on purpose")
    return really(self, *arguments, **options)

{method} = fail_at_first
Supervisor.__init__.__kwdefaults__["backoff"] = Backoff(base=0.01, cap=0.01)
"""
"""A sitecustomize.py: a method raises an unforeseen exception at first, and threads are restarted at once."""


def broken(place: str, method: str, failures: int) -> dict[str, str]:
    """The environment of a process in which the first calls of a method fail."""
    os.mkdir(modules := os.path.join(place, "modules"))
    write_text(os.path.join(modules, "sitecustomize.py"), BROKEN.format(method=method, failures=failures))
    return {"PYTHONPATH": f"{modules}:{Path(__file__).parents[2]}"}


def test_a_thread_that_keeps_failing_ends_the_daemon_with_exit_code_1(
    settings: MakeSettings, place: str
) -> None:
    """The end is an orderly one, and systemd starts the daemon again."""
    chosen = settings(RESCAN_SECONDS=1)
    with running_daemon(chosen, environment=broken(place, "Scanner.scan", 1000)) as daemon:
        assert daemon.wait(30) == 1
    errors = [line for line in daemon.events if line["event"] == "internal_error"]
    assert [(line["thread"], line["attempts"]) for line in errors] == [("scan", n) for n in range(1, 6)]
    assert all("ZeroDivisionError: broken on purpose" in line["exception"] for line in errors)
    (failed,) = [line for line in daemon.events if line["event"] == "daemon_failed"]
    assert "thread scan failed 5 times" in failed["reason"]
    assert daemon.events[-1]["event"] == "daemon_stopped"
    assert daemon.events[-1]["in_time"]


def test_an_internal_error_is_survived_and_shown(settings: MakeSettings, media: Media, place: str) -> None:
    """The file is uploaded, and `status`, its report and a metric name the error."""
    port = free_port()
    chosen = settings(METRICS_ADDRESS=f"127.0.0.1:{port}", RESCAN_SECONDS=1)
    place_file(chosen, PATH, media.faststart)
    with running_daemon(chosen, environment=broken(place, "Scanner.scan", 1)) as daemon:
        daemon.expect("internal_error", thread="scan")
        daemon.expect("daemon_ready")
        daemon.expect("upload_released", path=PATH)
        (error,) = json.loads(command(chosen, "status", "--json").stdout)["report"]["internal_errors"]
        assert (error["thread"], error["count"]) == ("scan", 1)
        assert error["error"] == "ZeroDivisionError: broken on purpose"
        printed = command(chosen, "status").stdout
        assert f"internal error in thread scan at {error['at']}: ZeroDivisionError" in printed
        assert 'video_uploader_internal_errors_total{thread="scan"} 1.0' in scrape(port)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0


def test_one_pass_whose_threads_keep_failing_ends_with_exit_code_1_and_says_why(
    settings: MakeSettings, media: Media, place: str
) -> None:
    chosen = settings()
    for number in range(10):
        place_file(chosen, f"{VIDEO_ID}/v{number}_720p.mp4", media.faststart)
    environment = broken(place, "Settler._check_path", 1000)
    with running_daemon(chosen, "--once", environment=environment) as daemon:
        assert daemon.wait(30) == 1
    assert b"internal error in thread settle-" in daemon.raw
    assert b"failed 5 times within 10 minutes, most recently with ZeroDivisionError" in daemon.raw


def test_one_pass_with_an_internal_error_does_not_end_as_if_all_were_well(
    settings: MakeSettings, media: Media, place: str
) -> None:
    chosen = settings()
    place_file(chosen, PATH, media.faststart)
    environment = broken(place, "Settler._check_path", 1)
    with running_daemon(chosen, "--once", environment=environment) as daemon:
        assert daemon.wait(30) == 1
    assert b"internal error in thread settle-" in daemon.raw
    assert rows(chosen) == []


def test_a_second_daemon_of_the_same_instance_refuses_to_start(settings: MakeSettings) -> None:
    chosen = settings()
    with running_daemon(chosen) as daemon:
        daemon.expect("daemon_ready")
        second = command(chosen, "run", "--once")
    assert second.returncode == 1
    assert "INSTANCE_ID" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize("arguments", [(), ("--once",)])
def test_a_daemon_whose_instance_runs_on_another_machine_refuses_to_start_and_touches_nothing(
    settings: MakeSettings, arguments: tuple[str, ...]
) -> None:
    chosen = settings()
    with closing(open_database(chosen.ledger_url)) as database:
        migrate(database)
        elsewhere = Ledger(database, chosen.instance)
        row = enqueue(elsewhere)
        claim = elsewhere.claim_one(row.id, lease=timedelta(minutes=1))
        host = {"machine": "other", "boot": "x", "name": "elsewhere"}
        elsewhere.heartbeat({"phase": "running", "host": host})
        with running_daemon(chosen, *arguments) as refused:
            assert refused.wait(30) == 1
        assert b"on host elsewhere" in refused.raw
        assert elsewhere.uploads() == [claim]
        elsewhere.heartbeat({"phase": "stopped", "host": host})
    # An empty directory could be one that is not mounted.
    os.mkdir(os.path.join(chosen.completed_dir, "entry"))
    with running_daemon(chosen) as daemon:
        daemon.expect("daemon_ready")
    report = command(chosen, "status", "--json")
    assert '"conflict": null' in report.stdout


def heartbeat_at(settings: Settings, ledger: str) -> datetime:
    """The time of the daemon's heartbeat in a ledger's file."""
    with closing(open_database(f"sqlite://{ledger}", read_only=True)) as database:
        report = Ledger(database, settings.instance).instance_report()
    assert report is not None
    return report.heartbeat_at


def test_an_older_ledger_that_is_copied_over_the_one_in_use_pauses_the_daemon(
    settings: MakeSettings, server: S3Server, media: Media, place: str
) -> None:
    """Nothing is written to it, sent or removed, and no row becomes `gone`. The next start tells it again."""
    chosen = settings()
    ledger, backup = chosen.ledger_url.removeprefix("sqlite://"), f"{place}/backup"
    with running_daemon(chosen) as daemon:
        daemon.expect("daemon_ready")
        place_file(chosen, f"{VIDEO_ID}/before_144p.mp4", media.faststart)
        daemon.expect("upload_released")
        with closing(sqlite3.connect(ledger)) as source, closing(sqlite3.connect(backup)) as copy:
            source.backup(copy)
        place_file(chosen, f"{VIDEO_ID}/after_144p.mp4", media.faststart)
        daemon.expect("upload_released", count=2)
        while heartbeat_at(chosen, ledger) == heartbeat_at(chosen, backup):
            daemon.read(0.2)
        shutil.copyfile(backup, ledger)
        place_file(chosen, PATH, media.faststart)
        for event in ("settling_paused", "stage_paused"):
            daemon.patience_seconds = 60
            paused = daemon.expect(event, code="database")
            assert f"the content of the database file {ledger} has been replaced" in paused["reason"]
        assert Path(ledger).read_bytes() == Path(backup).read_bytes()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert {line["event"] for line in daemon.events} & {"upload_gone", "internal_error"} == set()
    assert keys(server) == {f"videos/{VIDEO_ID}/{name}_144p.mp4" for name in ("before", "after")}
    assert os.path.exists(os.path.join(chosen.completed_dir, PATH))
    shutil.copyfile(backup, ledger)
    with running_daemon(chosen) as daemon:
        assert "has a last heartbeat of" in daemon.expect("ledger_older")["reason"]
        daemon.expect("upload_released", path=PATH)


@pytest.mark.parametrize("arguments", [(), ("--once",)])
def test_a_second_daemon_on_the_directory_refuses_to_start_whatever_its_state_directory(
    settings: MakeSettings, place: str, arguments: tuple[str, ...]
) -> None:
    """It would release what the first was told to keep."""
    first = settings(KEEP_LOCAL=True)
    second = settings(
        COMPLETED_DIR=first.completed_dir, DATABASE_URL=f"sqlite://{place}/second.sqlite3", INSTANCE_ID="two"
    )
    with running_daemon(first) as daemon:
        daemon.expect("daemon_ready")
        environment = {"STATE_DIRECTORY": f"{place}/second"}
        with running_daemon(second, *arguments, environment=environment) as refused:
            assert refused.wait(30) == 1
    holder = f"(process {daemon.process.pid} of user "
    assert f"the directory {first.completed_dir} {holder}" in refused.raw.decode()
    assert not os.path.exists(f"{place}/second.sqlite3")
    with running_daemon(second, environment=environment) as daemon:
        daemon.expect("daemon_ready")


def test_a_pause_is_said_everywhere_and_ends_by_itself(
    settings: MakeSettings, server: S3Server, proxy: FaultProxy, media: Media, place: str
) -> None:
    """Log, `status`, metrics and systemd's status name the reason; no row is marked failed for it."""
    port = free_port()
    chosen = settings(METRICS_ADDRESS=f"127.0.0.1:{port}")
    proxy.fault = lambda request, forward: (
        s3_error(403, "AccessDenied") if request.action == "PutObject" else forward()
    )
    place_file(chosen, PATH, media.faststart)
    with (
        notify_socket(place) as (path, messages),
        running_daemon(chosen, environment={"NOTIFY_SOCKET": path}) as daemon,
    ):
        daemon.expect("stage_paused", code="AccessDenied")
        expect_message(messages, "upload paused")
        status = json.loads(command(chosen, "status", "--json").stdout)
        assert status["running"]
        assert "AccessDenied" in status["report"]["paused"]["upload"]
        assert "upload paused" in command(chosen, "status").stdout
        assert 'video_uploader_stage_paused{stage="upload"} 1.0' in scrape(port)
        proxy.fault = lambda _request, forward: forward()
        daemon.expect("stage_resumed")
        daemon.expect("upload_released", path=PATH)
        assert 'video_uploader_stage_paused{stage="upload"} 0.0' in scrape(port)
    assert [row.state for row in rows(chosen)] == [State.RELEASED]


@pytest.fixture
def many_files() -> Iterator[None]:
    """Lets this process have as many open files as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_a_thousand_idle_connections_to_the_metrics_stop_nothing(
    settings: MakeSettings, media: Media
) -> None:
    """The daemon may have 256 open files; it uploads, and answers a scrape, while they are connected."""
    port = free_port()
    chosen = settings(METRICS_ADDRESS=f"127.0.0.1:{port}")
    with running_daemon(chosen, through=("prlimit", "--nofile=256")) as daemon, ExitStack() as clients:
        daemon.expect("daemon_ready")
        before = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
        for _ in range(1000):
            clients.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        place_file(chosen, PATH, media.faststart)
        daemon.expect("upload_released", path=PATH)
        assert "video_uploader_published_uploads_total 1.0" in scrape(port)
        assert len(os.listdir(f"/proc/{daemon.process.pid}/fd")) < before + 50


def test_systemd_is_told_of_the_start_the_watchdog_the_reload_and_the_end(
    settings: MakeSettings, media: Media, place: str
) -> None:
    """READY comes after the first scan, which has noticed what was there."""
    chosen = settings()
    place_file(chosen, PATH, media.faststart)
    environment = {"WATCHDOG_USEC": "400000"}
    with (
        notify_socket(place) as (path, messages),
        running_daemon(chosen, environment=environment | {"NOTIFY_SOCKET": path}) as daemon,
    ):
        expect_message(messages, "READY=1")
        daemon.expect("scan_completed")
        expect_message(messages, "WATCHDOG=1")
        expect_message(messages, "WATCHDOG=1")
        daemon.signal(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in expect_message(messages, "RELOADING=1")
        expect_message(messages, "READY=1")
        daemon.signal(signal.SIGTERM)
        expect_message(messages, "STOPPING=1")
        assert daemon.wait() == 0


def test_a_reload_changes_what_can_change_and_names_what_cannot(
    settings: MakeSettings, media: Media, place: str
) -> None:
    """KEEP_LOCAL is taken back by SIGHUP, and the copy that it kept is released."""
    chosen = settings()
    place_file(chosen, PATH, media.faststart)
    env_file = os.path.join(place, ".env")
    write_text(env_file, "KEEP_LOCAL=true\nUPLOAD_CONCURRENCY=2\n")
    with running_daemon(chosen) as daemon:
        daemon.expect("upload_published", path=PATH)
        write_text(env_file, "KEEP_LOCAL=perhaps\n")
        daemon.signal(signal.SIGHUP)
        refused = daemon.expect("reload_refused")
        assert "KEEP_LOCAL" in refused["problems"][0]
        write_text(env_file, "KEEP_LOCAL=false\nUPLOAD_CONCURRENCY=3\nMAX_BANDWIDTH=7:00 9MB/s 23:00 9MB/s\n")
        daemon.signal(signal.SIGHUP)
        assert daemon.expect("restart_needed")["settings"] == ["UPLOAD_CONCURRENCY"]
        assert daemon.expect("settings_reloaded")["changed"] == ["KEEP_LOCAL", "MAX_BANDWIDTH"]
        assert daemon.expect("bandwidth_changed")["bytes_per_second"] == 9_000_000
        daemon.expect("upload_released", path=PATH)


def test_a_taken_metrics_port_is_a_warning_and_not_an_end(settings: MakeSettings, media: Media) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        chosen = settings(METRICS_ADDRESS=f"127.0.0.1:{taken.getsockname()[1]}")
        place_file(chosen, PATH, media.faststart)
        with running_daemon(chosen) as daemon:
            daemon.expect("metrics_unavailable")
            daemon.expect("upload_released", path=PATH)


def test_an_upload_that_is_under_way_can_be_watched_from_another_process(
    settings: MakeSettings, proxy: FaultProxy, media: Media, place: str, gate: threading.Event
) -> None:
    """`list` shows the bytes that S3 has accepted so far."""
    chosen = settings()
    large = os.path.join(place, "large.mp4")
    with open(media.faststart, "rb") as small, open(large, "wb") as file:
        video = small.read()
        padding = 76 * 1024 * 1024
        file.write(video + padding.to_bytes(4) + b"free" + bytes(padding - 8))
    held = threading.Event()

    def hold_the_last_part(request: Request, forward: Forward) -> Answer | None:
        if request.action == "UploadPart":
            # More parts than go at once; the ledger hears of progress once a second at most.
            is_last = request.part_number == 10
            if is_last:
                held.set()
            gate.wait(30 if is_last else 1.1)
        return forward()

    proxy.fault = hold_the_last_part
    place_file(chosen, PATH, large)
    with running_daemon(chosen) as daemon:
        daemon.expect("upload_started", path=PATH)
        assert held.wait(30)
        (listed,) = json.loads(command(chosen, "list", "--json").stdout)
        assert 0 < listed["bytes_sent"] < listed["size"]
        assert "It is being uploaded" in command(chosen, "explain", PATH).stdout
        gate.set()
        daemon.expect("upload_released", path=PATH)


def grown(content: bytes) -> bytes:
    """The video with a box of free space more at its end."""
    return content + b"\0\0\0\x08free"


def rewritten(content: bytes) -> bytes:
    """A video of the same size whose free space holds something else."""
    return content[:-1000] + b"\1" * 1000


def truncated(content: bytes) -> bytes:
    """A video that breaks off, as one that is being encoded again."""
    return content[: len(content) // 2]


@pytest.mark.parametrize("change", [grown, rewritten, truncated])
def test_a_file_changed_in_place_in_the_middle_of_its_upload_never_ends_as_anything_but_its_final_self(
    settings: MakeSettings,
    server: S3Server,
    proxy: FaultProxy,
    video: bytes,
    change: Callable[[bytes], bytes],
) -> None:
    """The daemon lives on; what S3 ends with is what the disk ends with, or nothing if that is incomplete."""
    chosen = settings(KEEP_LOCAL=True)
    target = os.path.join(chosen.completed_dir, PATH)
    os.makedirs(os.path.dirname(target))
    first = padded(video, 40 * 1024 * 1024)
    final = change(first)
    with open(target, "wb") as file:
        file.write(first)
    changed = threading.Lock()

    def change_once(request: Request, forward: Forward) -> Answer:
        if request.action == "UploadPart" and request.part_number == 2 and changed.acquire(blocking=False):
            with open(target, "r+b") as file:
                file.truncate(len(final))
                file.write(final)
        return forward()

    proxy.fault = change_once
    with running_daemon(chosen) as daemon:
        if change is truncated:
            daemon.expect("upload_rejected", path=PATH)
        else:
            daemon.expect("upload_published", path=PATH)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert [row.state for row in rows(chosen)][-1] is (
        State.REJECTED if change is truncated else State.PUBLISHED
    )
    assert keys(server) == (set() if change is truncated else {f"videos/{PATH}"})
    if change is not truncated:
        stored = server.client().get_object(Bucket=BUCKET, Key=f"videos/{PATH}")["Body"].read()
        assert stored == final


def write_text(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def scrape(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
        return text
