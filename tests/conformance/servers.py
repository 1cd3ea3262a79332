"""The servers that the suite starts itself, on the host and without a network: LocalStack, rclone, Ceph."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Final

from tests.conformance.server_process import ServerEndedError, answers, free_port, server_process
from tests.conformance.tool_venv import LOCALSTACK, RCLONE, ServerUnavailableError
from tests.support.s3_server import ACCESS_KEY_ID, SECRET_ACCESS_KEY

ATTEMPTS: Final = 3
CEPH_COMMANDS: Final = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw")


def start_localstack(stack: ExitStack, directory: str) -> str:
    """Start LocalStack, which keeps objects on disk; returns its endpoint."""
    address = f"127.0.0.1:{free_port()}"
    temporary = os.path.join(directory, "tmp")
    os.makedirs(temporary)
    environment = {
        "SERVICES": "s3",
        "EAGER_SERVICE_LOADING": "1",
        "STRICT_SERVICE_LOADING": "1",
        "GATEWAY_LISTEN": address,
        "LOCALSTACK_HOST": address,
        "DISABLE_EVENTS": "1",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "DNS_ADDRESS": "0",
        "FILESYSTEM_ROOT": directory,
        "TMPDIR": temporary,
    }
    process = server_process(
        *(LOCALSTACK.command("python"), "-m", "localstack.runtime.main"),
        directory=directory,
        is_up=lambda: answers(f"http://{address}/_localstack/health"),
        seconds=90,
        environment=environment,
    )
    stack.enter_context(process)
    return f"http://{address}"


def start_rclone(stack: ExitStack, directory: str) -> str:
    """Start `rclone serve s3` for a directory (https://rclone.org/commands/rclone_serve_s3/)."""
    address = f"127.0.0.1:{free_port()}"
    root = os.path.join(directory, "root")
    os.makedirs(root)
    process = server_process(
        *(RCLONE.command("rclone"), "serve", "s3", root, "--addr", address),
        *("--auth-key", f"{ACCESS_KEY_ID},{SECRET_ACCESS_KEY}"),
        directory=directory,
        is_up=lambda: answers(f"http://{address}/"),
        seconds=30,
    )
    stack.enter_context(process)
    return f"http://{address}"


_CEPH: Final = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}/0]
public addr = 127.0.0.1
keyring = {directory}/keyring
run dir = {directory}
admin socket = {directory}/$name.$pid.asok
log file = {directory}/$name.log
mon data = {directory}/mon
mon data avail crit = 1
mon allow pool size one = true
auth allow insecure global id reclaim = false
paxos propose interval = 0.05
osd data = {directory}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
rgw data = {directory}/rgw
rgw override bucket index max shards = 1
rgw gc obj min wait = 1
rgw gc processor period = 2
rgw frontends = beast endpoint=127.0.0.1:{port}
"""
"""A cluster of one monitor and one daemon that keeps everything in memory."""


def start_ceph(stack: ExitStack, directory: str) -> str:
    """Start a cluster of Ceph and its RADOS Gateway, of Debian's packages; returns the gateway's endpoint.

    See https://docs.ceph.com/en/pacific/install/manual-deployment/.
    """
    if missing := [name for name in CEPH_COMMANDS if shutil.which(name) is None]:
        packages = "ceph-mon, ceph-osd and radosgw"
        raise ServerUnavailableError(f"there is no {', '.join(missing)}: install Debian's {packages}")
    port, mon_port = free_port(), free_port()
    fsid, osd_id = str(uuid.uuid4()), str(uuid.uuid4())
    keyring, monmap = os.path.join(directory, "keyring"), os.path.join(directory, "monmap")
    conf = os.path.join(directory, "ceph.conf")
    with open(conf, "w", encoding="utf-8") as file:
        file.write(_CEPH.format(fsid=fsid, port=port, mon_port=mon_port, directory=directory))
    for name in ("mon", "osd"):
        os.makedirs(os.path.join(directory, name))
    everything = ("--cap", "mon", "allow *", "--cap", "osd", "allow *")
    _run("ceph-authtool", "--create-keyring", keyring, "-n", "mon.", "--gen-key", "--cap", "mon", "allow *")
    for name in ("client.admin", "osd.0"):
        _run("ceph-authtool", keyring, "-n", name, "--gen-key", *everything)
    _run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{mon_port}]", monmap)
    of_cluster = ("-c", conf)
    _run("ceph-mon", *of_cluster, "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)

    def start(*command: str, is_up: Callable[[], bool]) -> None:
        process = server_process(*command, "--foreground", directory=directory, is_up=is_up, seconds=60)
        stack.enter_context(process)

    start("ceph-mon", *of_cluster, "-i", "a", is_up=lambda: True)
    _run("ceph", *of_cluster, "osd", "new", osd_id, "0")
    _run("ceph-osd", *of_cluster, "-i", "0", "--mkfs", "--osd-uuid", osd_id)
    start("ceph-osd", *of_cluster, "-i", "0", is_up=lambda: True)
    user = ("--uid", "test", "--display-name", "test", "--access-key", ACCESS_KEY_ID)
    _run("radosgw-admin", *of_cluster, "user", "create", *user, "--secret-key", SECRET_ACCESS_KEY)
    url = f"http://127.0.0.1:{port}"
    start("radosgw", *of_cluster, "-n", "client.admin", is_up=lambda: answers(url))
    return url


STARTS: Final[Mapping[str, Callable[[ExitStack, str], str]]] = MappingProxyType(
    {"localstack": start_localstack, "rclone": start_rclone, "ceph": start_ceph}
)


@contextmanager
def running_server(name: str) -> Iterator[str]:
    """The endpoint of a server that runs while the block lasts.

    Raises `ServerUnavailableError` before the block where there can be none.
    """
    with ExitStack() as stack:
        for attempt in range(1, ATTEMPTS + 1):
            # Short, because the path of a Unix socket has at most 107 bytes.
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="s3-"))
            started = stack.enter_context(ExitStack())
            try:
                url = STARTS[name](started, directory)
                break
            except ServerEndedError:
                # Another process may have taken the port that was free.
                if attempt == ATTEMPTS:
                    raise
        yield url


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ServerUnavailableError(f"{' '.join(command)}: {exc}") from exc
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:].strip()
        raise ServerUnavailableError(f"{' '.join(command[:6])}: {said}")
