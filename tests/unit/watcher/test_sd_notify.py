"""The notify protocol, spoken over real datagram sockets to a listener in systemd's place."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from watcher.supervision.sd_notify import SystemdNotifier

DATAGRAM_LIMIT = 4096
"""systemd's NOTIFY_BUFFER_MAX."""


class ServiceManager:
    """The listening end of a notify socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(5)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def received(self) -> list[str]:
        """The lines of the next message."""
        return self._socket.recv(1 << 16).decode().split("\n")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    manager = ServiceManager(str(tmp_path / "notify"))
    yield manager
    manager.close()


@pytest.fixture
def notifier(manager: ServiceManager) -> SystemdNotifier:
    return SystemdNotifier.from_environment({"NOTIFY_SOCKET": manager.address})


def test_ready_carries_its_status(manager: ServiceManager, notifier: SystemdNotifier) -> None:
    notifier.ready("watching 12 directories")
    assert manager.received() == ["READY=1", "STATUS=watching 12 directories"]


def test_ready_without_a_status_keeps_the_old_one(manager: ServiceManager, notifier: SystemdNotifier) -> None:
    notifier.ready()
    assert manager.received() == ["READY=1"]


def test_the_simple_messages_are_the_manuals(manager: ServiceManager, notifier: SystemdNotifier) -> None:
    notifier.status("uploading 3 files")
    notifier.watchdog()
    notifier.stopping("2 uploads will go on at the next start")
    assert manager.received() == ["STATUS=uploading 3 files"]
    assert manager.received() == ["WATCHDOG=1"]
    assert manager.received() == ["STOPPING=1", "STATUS=2 uploads will go on at the next start"]


def test_reloading_carries_the_monotonic_time_in_microseconds(
    manager: ServiceManager, notifier: SystemdNotifier
) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    word, timestamp = manager.received()
    name, _, microseconds = timestamp.partition("=")
    assert (word, name) == ("RELOADING=1", "MONOTONIC_USEC")
    assert before <= int(microseconds) <= after


def test_an_abstract_socket_is_reached() -> None:
    manager = ServiceManager(f"@video-uploader-test-{os.getpid()}")
    try:
        SystemdNotifier.from_environment({"NOTIFY_SOCKET": manager.address}).watchdog()
        assert manager.received() == ["WATCHDOG=1"]
    finally:
        manager.close()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}])
def test_outside_systemd_nothing_is_sent_and_nothing_is_logged(environ: dict[str, str]) -> None:
    with capture_logs() as logs:
        notifier = SystemdNotifier.from_environment(environ)
        notifier.ready("watching")
        notifier.watchdog()
    assert logs == []
    assert notifier.watchdog_interval is None


def test_a_status_cannot_contain_another_message(manager: ServiceManager, notifier: SystemdNotifier) -> None:
    """A file name may hold a newline; what follows it must not become an assignment."""
    notifier.status("uploading a\nSTOPPING=1\r\x1b[2J\u2028\udcff.mp4")
    assert manager.received() == ["STATUS=uploading a�STOPPING=1��[2J��.mp4"]


def test_the_longest_status_fits_into_a_message(manager: ServiceManager, notifier: SystemdNotifier) -> None:
    notifier.ready("\N{CLAPPER BOARD}" * 5000)
    lines = manager.received()
    assert len("\n".join(lines).encode()) <= DATAGRAM_LIMIT
    assert lines[1].endswith("\N{CLAPPER BOARD}…")


def test_a_dead_socket_is_logged_once_and_never_raised(tmp_path: Path) -> None:
    notifier = SystemdNotifier.from_environment({"NOTIFY_SOCKET": str(tmp_path / "missing")})
    with capture_logs() as logs:
        notifier.ready()
        notifier.watchdog()
        notifier.stopping()
    assert [(log["event"], log["log_level"]) for log in logs] == [("notify_unreachable", "warning")]


def test_a_socket_that_comes_back_is_used_and_its_next_loss_logged_again(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    notifier = SystemdNotifier.from_environment({"NOTIFY_SOCKET": str(path)})
    with capture_logs() as logs:
        notifier.watchdog()
        manager = ServiceManager(str(path))
        notifier.watchdog()
        assert manager.received() == ["WATCHDOG=1"]
        manager.close()
        notifier.watchdog()
    assert [log["event"] for log in logs] == ["notify_unreachable"] * 2


@pytest.mark.parametrize("address", ["/" + "x" * 200, "vsock:2:1234"])
def test_an_address_that_is_no_unix_socket_is_a_dead_socket(address: str) -> None:
    with capture_logs() as logs:
        SystemdNotifier.from_environment({"NOTIFY_SOCKET": address}).ready()
    assert [log["event"] for log in logs] == ["notify_unreachable"]


def test_the_watchdog_is_fed_twice_within_its_time() -> None:
    assert SystemdNotifier.from_environment({"WATCHDOG_USEC": "120000000"}).watchdog_interval == 60.0


def test_the_watchdog_of_this_very_process_is_ours() -> None:
    environ = {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    assert SystemdNotifier.from_environment(environ).watchdog_interval == 1.5


def test_the_watchdog_of_another_process_is_not_ours() -> None:
    environ = {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getppid())}
    assert SystemdNotifier.from_environment(environ).watchdog_interval is None


@pytest.mark.parametrize("microseconds", ["0", "-5", "soon", "1.5", "²"])
def test_an_invalid_watchdog_time_is_logged_and_ignored(microseconds: str) -> None:
    with capture_logs() as logs:
        notifier = SystemdNotifier.from_environment({"WATCHDOG_USEC": microseconds})
    assert notifier.watchdog_interval is None
    assert [log["event"] for log in logs] == ["notify_watchdog_ignored"]
