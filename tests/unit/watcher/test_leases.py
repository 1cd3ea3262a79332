"""A read lease detects writers, and harms neither a writer nor this process."""

import mmap
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import pytest

from tests.support.media import Media, encoding
from tests.support.peer_process import writer
from watcher.filesystem import leases, mounts
from watcher.filesystem.leases import LeaseAttempt, Writers
from watcher.filesystem.openat import Owned


@pytest.fixture
def path(place: str) -> str:
    name = f"{place}/a.mp4"
    with open(name, "wb") as file:
        file.write(b"video")
    return name


@pytest.fixture
def descriptor(path: str) -> Iterator[int]:
    with Owned(os.open(path, os.O_RDONLY)) as fd:
        yield fd


def test_a_file_that_is_not_open_has_no_writer(descriptor: int) -> None:
    assert leases.check_writers(descriptor) is Writers.NONE


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND | os.O_TRUNC])
def test_a_writer_is_detected_until_it_closes_the_file(path: str, descriptor: int, flags: int) -> None:
    with writer(path, flags) as process:
        process.expect("opened")
        assert leases.check_writers(descriptor) is Writers.SOME
        process.go_on()
        process.expect("closed")
        assert leases.check_writers(descriptor) is Writers.NONE


def test_a_writer_with_only_a_mapping_left_is_detected(path: str, descriptor: int) -> None:
    with Owned(os.open(path, os.O_RDWR)) as writing:
        mapping = mmap.mmap(writing, 5)
    with mapping:
        assert leases.check_writers(descriptor) is Writers.SOME
    assert leases.check_writers(descriptor) is Writers.NONE


def test_a_reader_is_no_writer(path: str, descriptor: int) -> None:
    with open(path, "rb"):
        assert leases.check_writers(descriptor) is Writers.NONE


def test_ffmpeg_is_detected_from_its_first_byte_to_its_end(place: str) -> None:
    path = f"{place}/encoding.mp4"
    with (
        encoding(path, "-movflags", "+faststart") as process,
        Owned(os.open(path, os.O_RDONLY)) as descriptor,
    ):
        assert leases.check_writers(descriptor) is Writers.SOME
        process.terminate()
        process.wait()
        assert leases.check_writers(descriptor) is Writers.NONE


def test_a_check_releases_its_lease_at_once_so_that_no_writer_blocks(path: str, descriptor: int) -> None:
    assert leases.check_writers(descriptor) is Writers.NONE
    assert not leases.still_held(descriptor)
    # A writer in this very process would wait for itself.
    with Owned(os.open(path, os.O_WRONLY | os.O_NONBLOCK)):
        pass


def test_a_writer_blocks_while_the_lease_is_held_and_is_noticed(path: str, descriptor: int) -> None:
    with ExitStack() as holding:
        hold = holding.enter_context(leases.hold(descriptor))
        assert hold == LeaseAttempt(descriptor, Writers.NONE, is_granted=True)
        assert not hold.is_broken()
        with writer(path, os.O_WRONLY) as process:
            while not hold.is_broken():
                os.sched_yield()
            assert process.says_nothing()
            holding.close()
            process.expect("opened")


def test_the_lease_ends_with_its_block(descriptor: int) -> None:
    with leases.hold(descriptor) as hold:
        assert hold.is_granted
    assert not leases.still_held(descriptor)


def test_no_lease_is_granted_against_a_present_writer(path: str, descriptor: int) -> None:
    with open(path, "ab"), leases.hold(descriptor) as hold:
        assert hold == LeaseAttempt(descriptor, Writers.SOME, is_granted=False)
        assert not hold.is_broken()


def test_without_permission_for_a_lease_the_answer_is_unknown(
    descriptor: int, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a file of somebody else")
    with unprivileged():
        assert leases.check_writers(descriptor) is Writers.UNKNOWN
        with leases.hold(descriptor) as hold:
            assert hold == LeaseAttempt(descriptor, Writers.UNKNOWN, is_granted=False)
            assert not hold.is_broken()


def test_without_leases_the_answer_is_unknown() -> None:
    with Owned(os.open("/", os.O_RDONLY)) as directory:
        assert leases.check_writers(directory) is Writers.UNKNOWN


def test_on_an_untrusted_file_system_only_a_refused_lease_is_proof(
    path: str, descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "TRUSTED_FILE_SYSTEMS", frozenset())
    assert leases.check_writers(descriptor) is Writers.UNKNOWN
    with leases.hold(descriptor) as hold:
        assert hold == LeaseAttempt(descriptor, Writers.UNKNOWN, is_granted=True)
    with open(path, "ab"):
        assert leases.check_writers(descriptor) is Writers.SOME


def test_a_file_on_no_mounted_file_system_is_not_trusted() -> None:
    with Owned(os.memfd_create("nowhere")) as anonymous:
        # Leases are for descriptors that cannot write, and this file can be opened by no other name.
        reading = os.open(f"/proc/self/fd/{anonymous}", os.O_RDONLY)
    with Owned(reading):
        assert leases.check_writers(reading) is Writers.UNKNOWN


@pytest.mark.parametrize(
    "kind", ["overlay", "nfs", "nfs4", "cifs", "smb3", "fuse", "fuse.sshfs", "9p", "ceph", "virtiofs"]
)
def test_file_systems_with_undetectable_writers_are_not_trusted(kind: str) -> None:
    assert kind not in leases.TRUSTED_FILE_SYSTEMS


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "ceph"])
def test_on_a_network_file_system_a_granted_lease_is_no_proof(
    descriptor: int, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A writer on another machine uses another kernel."""
    assert leases.check_writers(descriptor) is Writers.NONE
    monkeypatch.setattr(leases, "file_system_type", lambda _descriptor: kind)
    assert leases.check_writers(descriptor) is Writers.UNKNOWN


@pytest.mark.parametrize(
    ("kind", "is_network"),
    [
        *((kind, True) for kind in ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "lustre", "glusterfs")),
        *((kind, True) for kind in ("fuse", "fuse.glusterfs", "fuse.sshfs", "fuse.bindfs", "virtiofs")),
        *((kind, False) for kind in ("ext4", "xfs", "overlay", "tmpfs", "fuseblk", None)),
    ],
)
def test_network_file_systems_are_recognized_by_type(kind: str | None, is_network: bool) -> None:
    """`fuseblk` is a local disk, and every change of an overlay goes through this kernel."""
    assert mounts.is_network(kind) is is_network
    assert not is_network or kind not in leases.TRUSTED_FILE_SYSTEMS


def test_the_file_system_type_is_that_of_the_files_own_mount() -> None:
    if not os.path.ismount("/dev/shm"):
        pytest.skip("no /dev/shm is mounted here")
    with Owned(os.open("/dev/shm", os.O_RDONLY)) as directory:
        assert mounts.file_system_type(directory) == "tmpfs"
    with Owned(os.open("/proc", os.O_RDONLY)) as directory:
        assert mounts.file_system_type(directory) == "proc"


_HOLD_WHILE_A_WRITER_COMES = """
import os, subprocess, sys
from watcher.filesystem import leases
if sys.argv[2] == "ignoring":
    leases.ignore_sigio()
descriptor = os.open(sys.argv[1], os.O_RDONLY)
with subprocess.Popen(["sh", "-c", 'read _; : >> "$1"', "sh", sys.argv[1]], stdin=subprocess.PIPE) as writer:
    with leases.hold(descriptor):
        writer.stdin.write(b"\\n")
        writer.stdin.flush()
        while leases.still_held(descriptor):
            os.sched_yield()
"""


@pytest.mark.parametrize(("how", "end"), [("ignoring", 0), ("careless", -signal.SIGIO)])
def test_only_a_process_that_ignores_sigio_survives_a_writer(path: str, how: str, end: int) -> None:
    before = signal.signal(signal.SIGIO, signal.SIG_DFL)
    try:
        finished = subprocess.run([sys.executable, "-c", _HOLD_WHILE_A_WRITER_COMES, path, how], check=False)
    finally:
        signal.signal(signal.SIGIO, before)
    assert finished.returncode == end


def test_a_copy_as_the_compressor_makes_it_is_detected(place: str, media: Media) -> None:
    path = f"{place}/copy.mp4"
    with open(path, "wb") as target, Owned(os.open(path, os.O_RDONLY)) as descriptor:
        with open(media.plain, "rb") as source:
            shutil.copyfileobj(source, target)
        assert leases.check_writers(descriptor) is Writers.SOME
