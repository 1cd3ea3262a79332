"""One daemon per instance; the kernel releases the lock however a process ends."""

import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.support.peer_process import peer
from watcher.filesystem.instance_lock import (
    InstanceRunningError,
    LockUnavailableError,
    held,
    is_held,
    lock_path,
)

_HOLD = """
import sys
from watcher.filesystem.instance_lock import held
with held(sys.argv[1]):
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
