"""Odd objects, answers, connections and ledgers under the real daemon: the others go on at full speed."""

from __future__ import annotations

import os
import select
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from db import State
from tests.compressor.database import add_video
from tests.faults.files_at_stake import BYSTANDERS, FilesAtStake
from tests.faults.going_well import going_well, states
from tests.faults.http_faults import Throttled
from tests.faults.http_wire import HttpWire
from tests.faults.wire_faults import Requests
from tests.slow_line.watchdog import guarded, watchdog
from tests.support.bucket_contents import keys
from tests.support.catalog_rows import CatalogRows
from tests.support.daemon_process import DaemonProcess, command, running_daemon
from tests.support.fault_proxy import Answer, FaultProxy, Forward, no_fault, s3_error
from tests.support.fault_proxy import Request as S3Request
from tests.support.harness import BUCKET, VIDEO_ID, MakeSettings, settings_for
from tests.support.ports import free_address
from tests.support.s3_requests import BODIES
from tests.support.s3_server import S3Server
from tests.support.video_files import padded
from watcher.settings.model import Settings

NAME = "odd_720p.mp4"
PATH = f"{VIDEO_ID}/{NAME}"
KEY = f"videos/{PATH}"
IDLE = 400
RETENTION_SECONDS = 5
DESCRIPTORS = 256
"""Fewer than there are idle connections."""
ACCEPT_SECONDS = 0.03
"""How long a port that takes everything needs for one connection."""
DRIP_SECONDS = 0.5
PATIENCE_SECONDS = 8
SLOW_SECONDS = 12
SLOW_BYTES = 4_000_000
"""A single PUT, and more than the buffers of a connection take."""


@pytest.mark.fault("object in place that is private")
def test_an_identical_object_that_is_private_is_made_public(
    chosen: Settings, server: S3Server, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """It was uploaded by others; until it is public its row waits, and no other one does."""
    server.client().put_object(Bucket=BUCKET, Key=KEY, Body=video)
    with going_well(chosen) as daemon:
        files_at_stake.put(chosen, PATH, video)
        files_at_stake.inject()
        for _ in range(3):
            files_at_stake.bystander(daemon, chosen, video)
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
    files_at_stake.judge(chosen)


@pytest.mark.fault("one key that a policy denies")
def test_a_key_that_is_denied_is_its_own_rows_trouble(
    chosen: Settings, proxy: FaultProxy, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """The stage pauses only while another row is probed, and not at all once that one succeeds."""
    denied = threading.Event()

    def deny(request: S3Request, forward: Forward) -> Answer:
        if request.method != "PUT" or NAME not in request.path:
            return forward()
        denied.set()
        files_at_stake.inject()
        return s3_error(403, "AccessDenied")

    proxy.fault = deny
    with going_well(chosen) as daemon:
        files_at_stake.put(chosen, PATH, video)
        assert denied.wait(20)
        for _ in range(5):
            files_at_stake.bystander(daemon, chosen, video)
        proxy.fault = no_fault
        files_at_stake.over()
        assert command(chosen, "retry", "--all").returncode == 0
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
    files_at_stake.judge(chosen)


@contextmanager
def dripping(upstream: str, name: str, stopped: threading.Event) -> Iterator[str]:
    """The URL of a site before a server; of one object it sends no more than a header that does not end."""
    fetch = build_opener(ProxyHandler({}))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # http.server's name
            if name in self.path and not stopped.is_set():
                self.drip()
                return
            asked = {"Range": value} if (value := self.headers.get("Range")) else {}
            request = Request(upstream + self.path, headers=asked, method=self.command)
            with fetch.open(request, timeout=20) as answer:
                self.send_response_only(answer.status)
                for header in ("Content-Type", "Content-Length", "Content-Range"):
                    if value := answer.headers.get(header):
                        self.send_header(header, value)
                self.end_headers()
                self.wfile.write(answer.read())

        do_HEAD = do_GET  # noqa: N815  # http.server's name

        def drip(self) -> None:
            self.close_connection = True
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Dripping: ")
            with suppress(ConnectionError):
                while not stopped.wait(DRIP_SECONDS):
                    self.wfile.write(b"x")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{site.server_address[1]}/{BUCKET}"
        finally:
            stopped.set()
            site.shutdown()
            thread.join()


@pytest.mark.fault("public URL that drips one byte a second")
def test_an_answer_that_does_not_end_holds_up_its_own_row(
    settings: MakeSettings, server: S3Server, video: bytes, files_at_stake: FilesAtStake
) -> None:
    stopped = threading.Event()
    with dripping(server.url, NAME, stopped) as url:
        chosen = settings(RESCAN_SECONDS=86400, VERIFY_PUBLIC_URL=True, AWS_S3_BASE_URL=url)
        with going_well(chosen) as daemon:
            files_at_stake.put(chosen, PATH, video)
            files_at_stake.inject()
            daemon.expect("upload_verified", path=PATH)
            for _ in range(3):
                files_at_stake.bystander(daemon, chosen, video)
            stopped.set()
            files_at_stake.over()
            daemon.expect("upload_released", path=PATH)
            files_at_stake.recovered()
    files_at_stake.judge(chosen)


@pytest.mark.fault("one file on a line that is slower than a thread is patient")
def test_a_body_that_takes_longer_than_patience_holds_up_nothing(
    place: str, server: S3Server, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """Its bytes move, so that its thread is not stuck and the watchdog stays fed; the others pass it."""
    impatient = (sys.executable, "-m", "tests.slow_line.impatient", str(PATIENCE_SECONDS))
    with HttpWire(server.url) as wire, watchdog(place, PATIENCE_SECONDS) as dog:
        chosen = settings_for(place, wire.url, RESCAN_SECONDS=86400)
        slow = wire.inject(Throttled(SLOW_BYTES / SLOW_SECONDS), Requests(BODIES, first=1))
        with going_well(chosen, through=impatient, environment=dog.environment) as daemon:
            with guarded(dog, daemon.process.pid):
                files_at_stake.put(chosen, PATH, padded(video, SLOW_BYTES))
                daemon.expect("upload_started", path=PATH)
                for _ in range(3):
                    files_at_stake.bystander(daemon, chosen, video)
                assert states(chosen)[PATH] is State.PENDING
                slow.wait_for(1)
                files_at_stake.inject(slow.injected)
                daemon.expect("upload_verified", path=PATH)
                files_at_stake.over()
                daemon.expect("upload_released", path=PATH)
                files_at_stake.recovered()
            assert not dog.has_fired
    # One more finds out whether the server compares checksums.
    assert wire.actions.count("PutObject") == 4 + 1
    files_at_stake.judge(chosen)


def descriptors(daemon: DaemonProcess) -> int:
    """How many file descriptors the daemon has open."""
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


@pytest.mark.fault("idle connections on the port of the metrics")
def test_idle_connections_take_no_descriptors_from_uploads(
    settings: MakeSettings, server: S3Server, video: bytes, files_at_stake: FilesAtStake
) -> None:
    chosen = settings(RESCAN_SECONDS=86400, METRICS_ADDRESS=free_address())
    host, _, port = chosen.served_address.rpartition(":")
    few = ("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}")
    with going_well(chosen, through=few) as daemon, ExitStack() as stack:
        for _ in range(IDLE):
            before = descriptors(daemon)
            idle = stack.enter_context(socket.socket())
            idle.setblocking(False)
            idle.connect_ex((host, int(port)))
            deadline = time.monotonic() + ACCEPT_SECONDS
            # A queue of connections that overflows would be emptied by retransmissions, a few a second.
            while descriptors(daemon) <= before and time.monotonic() < deadline:
                select.select([], [], [], ACCEPT_SECONDS / 10)
        files_at_stake.inject(IDLE)
        for _ in range(3):
            path = files_at_stake.bystander(daemon, chosen, video)
        daemon.expect("upload_released", path=path)
    files_at_stake.judge(chosen)


@pytest.mark.fault("second daemon on one directory")
def test_a_second_daemon_on_the_directory_does_not_start(
    settings: MakeSettings, place: str, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """Its ledger and its state directory are its own; it would delete what the first one keeps."""
    first = settings(KEEP_LOCAL=True)
    second = settings(DATABASE_URL=f"sqlite://{place}/other/ledger.sqlite3", INSTANCE_ID="second")
    os.mkdir(f"{place}/other")
    with going_well(first) as daemon:
        target = files_at_stake.put(first, PATH, video)
        daemon.expect("upload_published", path=PATH)
        with running_daemon(second, environment={"STATE_DIRECTORY": f"{place}/other"}) as other:
            files_at_stake.inject()
            assert other.wait(30) == 1
        files_at_stake.bystander(daemon, first, video)
        assert os.path.exists(target)
    files_at_stake.judge(first)


@pytest.mark.fault("edit that keeps size and modification time")
def test_an_edit_that_only_ctime_shows_is_uploaded_before_its_copy_goes(
    settings: MakeSettings, server: S3Server, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """As `exiftool -P` and `rsync --inplace -t` make it."""
    chosen = settings(RESCAN_SECONDS=86400, RELEASE_AFTER_SECONDS=RETENTION_SECONDS)
    before = padded(video, len(video) + 100)
    after = before[:-1] + b"\1"
    with going_well(chosen) as daemon:
        target = files_at_stake.put(chosen, PATH, before)
        daemon.expect("upload_published", path=PATH)
        found = os.stat(target)
        with open(target, "r+b") as file:
            file.write(after)
        os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
        files_at_stake.add(PATH, after)
        files_at_stake.inject()
        files_at_stake.bystander(daemon, chosen, video)
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
    files_at_stake.judge(chosen)


@pytest.fixture
def beside(settings: MakeSettings, rows: CatalogRows) -> Settings:
    """A daemon beside the compressor."""
    add_video(rows.url, BYSTANDERS)
    return settings(DATABASE_URL=rows.url, CATALOG="compressor", DELETE_ORPHANS=True)


@pytest.mark.fault("stray file with the key of another one")
def test_a_stray_file_that_waits_holds_no_key(
    beside: Settings, rows: CatalogRows, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """`clip_original.mp4` has no row; `clip.mp4` is the original of that key."""
    stray, good = f"{VIDEO_ID}/clip_original.mp4", f"{VIDEO_ID}/clip.mp4"
    with going_well(beside) as daemon:
        path = os.path.join(beside.completed_dir, stray)
        os.makedirs(os.path.dirname(path))
        with open(path, "wb") as file:
            file.write(padded(video, len(video) + 8))
        daemon.expect("file_finished", path=stray)
        files_at_stake.inject()
        rows.insert("clip.mp4", "original")
        # Its object is at the key that the stray file would have.
        files_at_stake.put(beside, good, video, at_stake=stray)
        files_at_stake.bystander(daemon, beside, video, rows)
        daemon.expect("upload_released", path=good)
        files_at_stake.recovered()
    files_at_stake.judge(beside)


@pytest.mark.fault("catalog emptied under `DELETE_ORPHANS`")
def test_no_object_is_deleted_on_one_look_at_an_empty_table(
    beside: Settings, rows: CatalogRows, server: S3Server, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """The daemon looks at its start, when the local copies are long gone."""
    paths = [f"{VIDEO_ID}/{number}_720p.mp4" for number in range(3)]
    with going_well(beside) as daemon:
        for number, path in enumerate(paths):
            rows.insert(os.path.basename(path), "720p")
            files_at_stake.put(beside, path, padded(video, len(video) + 100 + number))
        for path in paths:
            daemon.expect("upload_released", path=path)
    rows.connection.execute("TRUNCATE video_qualities")
    files_at_stake.inject()
    with going_well(beside) as daemon:
        path = files_at_stake.bystander(daemon, beside, video, rows)
        daemon.expect("upload_released", path=path)
        assert keys(server) >= {f"videos/{path}" for path in paths}
    files_at_stake.judge(beside)


@pytest.mark.fault("older ledger restored")
def test_what_an_older_ledger_does_not_know_is_asked_of_s3(
    chosen: Settings, proxy: FaultProxy, place: str, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """It has the upload as pending; the copy is gone, and the object is there."""
    state, backup = f"{place}/state", f"{place}/backup"
    proxy.fault = lambda request, forward: s3_error(503, "SlowDown") if request.method == "PUT" else forward()
    with going_well(chosen) as daemon:
        files_at_stake.put(chosen, PATH, video)
        daemon.expect("attempt_failed", path=PATH)
    shutil.copytree(state, backup)
    proxy.fault = no_fault
    with going_well(chosen) as daemon:
        daemon.expect("upload_released", path=PATH)
    shutil.rmtree(state)
    shutil.copytree(backup, state)
    files_at_stake.inject()
    with going_well(chosen) as daemon:
        files_at_stake.bystander(daemon, chosen, video)
        daemon.expect("upload_published", path=PATH)
        files_at_stake.recovered()
    files_at_stake.judge(chosen)
