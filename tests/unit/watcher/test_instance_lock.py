"""One daemon per instance; the kernel releases the lock however a process ends."""

import errno
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from structlog.testing import capture_logs

from tests.support.peer_process import peer
from watcher.filesystem import instance_lock
from watcher.filesystem.instance_lock import (
    InstanceRunningError,
    LockUnavailableError,
    directory_held,
    held,
    is_held,
    lock_path,
)
from watcher.filesystem.openat import RootUnavailableError
from watcher.filesystem.tree import Tree

_HOLD = """
import sys
from watcher.filesystem.instance_lock import held
with held(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
print("given back", flush=True)
"""


_HOLD_DIRECTORY = """
import sys
from watcher.filesystem.instance_lock import directory_held
with directory_held(sys.argv[1], is_shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    sys.stdin.readline()
print("given back", flush=True)
"""


@pytest.fixture
def path(place: str) -> str:
    return lock_path(os.path.join(place, "state"), "one", place)


def test_a_second_process_is_refused_and_told_which_one_runs(path: str) -> None:
    with peer(_HOLD, path) as other:
        other.expect("held")
        assert is_held(path)
        with pytest.raises(InstanceRunningError) as refused, held(path):
            pytest.fail("both have it")
        assert f"(process {other.process.pid})" in str(refused.value)
        assert "INSTANCE_ID" in str(refused.value)
        other.go_on()
        other.expect("given back")
        assert not is_held(path)
        with held(path):
            assert is_held(path)


def test_a_killed_process_releases_the_lock(path: str) -> None:
    with peer(_HOLD, path) as other:
        other.expect("held")
        other.process.kill()
        other.process.wait(timeout=10)
        assert not is_held(path)
        with held(path):
            pass


def test_a_query_does_not_release_the_lock(path: str) -> None:
    with held(path):
        assert [is_held(path) for _ in range(3)] == [True] * 3
        with pytest.raises(InstanceRunningError), held(path):
            pytest.fail("both have it")
        assert is_held(path)


def test_without_a_lock_file_the_lock_is_free_and_no_file_is_created(place: str, path: str) -> None:
    assert not is_held(path)
    assert os.listdir(place) == []


def test_the_lock_file_is_private_and_names_the_process(path: str) -> None:
    with held(path):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
        with open(path, encoding="ascii") as file:
            assert file.read() == f"{os.getpid()}\n"


def test_an_instance_is_a_name_and_a_directory_under_any_path(place: str) -> None:
    os.symlink(place, f"{place}/again")
    paths = {lock_path("/s", name, directory) for name in ("a", "b/../ü") for directory in (place, "/var")}
    assert len(paths) == 4
    assert {os.path.dirname(path) for path in paths} == {"/s"}
    assert lock_path("/s", "a", f"{place}/again") == lock_path("/s", "a", place)


def test_an_unwritable_state_directory_is_explained(
    path: str, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    os.makedirs(os.path.dirname(path), mode=0o700)
    with unprivileged():
        if os.access(os.path.dirname(path), os.X_OK, effective_ids=True):
            os.chmod(os.path.dirname(path), 0)
        with pytest.raises(LockUnavailableError, match="STATE_DIRECTORY"), held(path):
            pytest.fail("it was acquired")
        with pytest.raises(LockUnavailableError, match="as the user of the daemon"):
            is_held(path)


def take_directory(directory: str, *, is_shared: bool = False) -> str | None:
    """Hold the directory for a moment; returns why not, if it is refused."""
    try:
        with directory_held(directory, is_shared=is_shared):
            return None
    except InstanceRunningError as refused:
        return str(refused)


def test_a_second_process_in_a_directory_is_refused_by_whatever_path_until_the_first_has_ended(
    place: str,
) -> None:
    """The first one is killed: nothing is left of its lock, in the directory or elsewhere."""
    os.mkdir(f"{place}/a")
    os.mkdir(f"{place}/other")
    os.symlink("a", f"{place}/link")
    with peer(_HOLD_DIRECTORY, f"{place}/a", "alone") as first:
        first.expect("held")
        for directory in ("a", "link", "a/../a"):
            refused = take_directory(f"{place}/{directory}")
            assert refused is not None
            assert f"in the directory {place}/{directory} (process {first.process.pid} of user " in refused
            assert "SHARED_DIRECTORY" in refused
        assert take_directory(f"{place}/other") is None
        first.process.kill()
        first.process.wait(timeout=10)
        assert take_directory(f"{place}/a") is None
    assert os.listdir(f"{place}/a") == []


@pytest.mark.parametrize(
    ("first", "second", "word"), [("a", "a/b/c", "above"), ("a/b/c", "a", "below"), ("a/b", "a/x", None)]
)
def test_directories_of_two_processes_are_not_nested(
    place: str, first: str, second: str, word: str | None
) -> None:
    os.makedirs(f"{place}/a/b/c")
    os.makedirs(f"{place}/a/x")
    with peer(_HOLD_DIRECTORY, f"{place}/{first}", "shared") as other:
        other.expect("held")
        for is_shared in (False, True):
            refused = take_directory(f"{place}/{second}", is_shared=is_shared)
            assert (refused is None) == (word is None)
            assert word is None or f"a directory {word} {place}/{second}" in (refused or "")


def test_processes_share_a_directory_only_if_all_of_them_do(place: str) -> None:
    with peer(_HOLD_DIRECTORY, place, "shared") as first, peer(_HOLD_DIRECTORY, place, "shared") as second:
        first.expect("held")
        second.expect("held")
        assert take_directory(place, is_shared=True) is None
        assert take_directory(place) is not None
        for other in (first, second):
            other.go_on()
            other.expect("given back")
        with directory_held(place, is_shared=False):
            assert take_directory(place, is_shared=True) is not None


_CLAIM = """
import os, socket, sys
if sys.argv[2] != "root":
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
status = os.stat(sys.argv[1])
name = f"video-uploader-directory/{status.st_dev:x}:{status.st_ino:x}/exclusive/1/0"
stream = sys.argv[3] != "datagram"
claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
claim.bind("\\0" + name)
if stream:
    claim.listen(1)
print("claimed", flush=True)
sys.stdin.readline()
"""
"""Binds a directory's name, with the number of another process in it."""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_holder_is_named_with_the_process_and_user_that_the_kernel_knows(place: str) -> None:
    """The name lies about its process. A stranger is told apart from the owner of the directory and root."""
    os.chmod(place, 0o755)
    for uid, owner, is_stranger in (("65534", 0, True), ("65534", 65534, False), ("root", 65534, False)):
        os.chown(place, owner, owner)
        with peer(_CLAIM, place, uid, "stream") as other:
            other.expect("claimed")
            # More often than the holder can keep those who ask.
            refusals = {take_directory(place) for _ in range(2)}
            (refused,) = refusals
            assert refused is not None
            user = pwd.getpwuid(0 if uid == "root" else int(uid)).pw_name
            assert f"{place} (process {other.process.pid} of user {user})" in refused
            assert ("nor the owner of the directory" in refused) is is_stranger
        assert take_directory(place) is None


@pytest.mark.parametrize("kind", ["datagram", "stream"])
def test_one_of_whom_the_kernel_tells_nothing_is_in_the_way_all_the_same(place: str, kind: str) -> None:
    """An earlier version, which does not listen, and one that too many have asked: none is waited for."""
    with peer(_CLAIM, place, "root", kind) as other:
        other.expect("claimed")
        refusals = [take_directory(place) for _ in range(5)]
        assert "Another daemon works" in (refusals[0] or "")
        assert f"{place} (process 1)" in (refusals[-1] or "")


def test_a_bind_mount_of_a_directory_is_the_same_directory(place: str) -> None:
    for name in ("a", "mounted"):
        os.mkdir(f"{place}/{name}")
    script = (
        f"mount --bind {place}/a {place}/mounted && exec {sys.executable} -c '{_HOLD_DIRECTORY}' $0 alone"
    )
    command = ["unshare", "--mount", "sh", "-c", script, f"{place}/mounted"]
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("mounting needs privileges")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert take_directory(f"{place}/a") is not None
        process.communicate(b"\n", timeout=10)
    assert take_directory(f"{place}/a") is None


def test_where_names_of_others_cannot_be_listed_that_is_logged(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(instance_lock, "_bound_names", fail)
    with capture_logs() as logged, directory_held(place, is_shared=False):
        pass
    assert [(line["event"], line["log_level"]) for line in logged] == [("directory_unlocked", "warning")]


def test_a_directory_that_takes_the_place_of_the_locked_one_is_adopted_only_when_its_lock_is_free(
    place: str,
) -> None:
    """Another file system was mounted, in whose directory another daemon works already."""
    path, other_path = f"{place}/a", f"{place}/b"
    for directory in (path, other_path):
        os.makedirs(f"{directory}/entry")
    with directory_held(path, is_shared=False) as lock:
        tree = Tree(path)
        tree.lock_root = lock.acquire
        with peer(_HOLD_DIRECTORY, other_path, "alone") as other:
            other.expect("held")
            os.rename(path, f"{place}/before")
            os.rename(other_path, path)
            for message in ("checked again", *["Another daemon works in the directory"] * 2):
                with pytest.raises(RootUnavailableError, match=message):
                    tree.adopt_root()
            other.go_on()
            other.expect("given back")
        assert tree.adopt_root()
        assert take_directory(path) is not None
        assert take_directory(f"{place}/before") is None
    assert take_directory(path) is None
