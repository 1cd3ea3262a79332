"""A settings file that other users can write is refused, and one that all can read is reported."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.support.unprivileged import NOBODY
from watcher.settings.file_permissions import permission_problems
from watcher.settings.loading import SettingsError, load_settings
from watcher.settings.report import exposed_secrets

SECRET = "a-very-secret-key"
KEYS = f"AWS_ACCESS_KEY_ID=AKIA0\nAWS_SECRET_ACCESS_KEY={SECRET}\n"


@pytest.fixture
def env_file(place: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file of settings with secrets that its owner alone may read and write."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    path = os.path.join(place, "settings.env")
    write(path, f"COMPLETED_DIR={place}\n{KEYS}")
    os.chmod(path, 0o600)
    return path


def write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def refusal(path: str) -> str:
    with pytest.raises(SettingsError) as refused:
        load_settings(path)
    assert SECRET not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(("mode", "who"), [(0o602, "every user"), (0o622, "every user"), (0o620, "group ")])
def test_a_file_that_others_may_write_is_refused_with_what_to_do(env_file: str, mode: int, who: str) -> None:
    os.chmod(env_file, mode)
    assert f"{env_file} can be changed by {who}" in refusal(env_file)
    assert f"chmod go-w {env_file}" in refusal(env_file)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o644, 0o755])
def test_a_file_that_its_owner_alone_may_write_is_read(env_file: str, mode: int) -> None:
    os.chmod(env_file, mode)
    assert load_settings(env_file).aws_secret_access_key is not None


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o775])
def test_a_file_that_others_may_replace_is_refused(env_file: str, place: str, mode: int) -> None:
    os.chmod(place, mode)
    assert f"can be replaced by {'every user' if mode & stat.S_IWOTH else 'group '}" in refusal(env_file)
    assert f"chmod go-w {place}" in refusal(env_file)


def test_a_file_in_a_sticky_directory_is_its_owners_alone(env_file: str, place: str) -> None:
    os.chmod(place, 0o1777)
    assert load_settings(env_file)


def test_behind_a_link_both_directories_count(env_file: str, place: str) -> None:
    for name in ("link", "target"):
        os.mkdir(os.path.join(place, name))
    target, link = os.path.join(place, "target", "e"), os.path.join(place, "link", "e")
    os.rename(env_file, target)
    os.symlink(target, link)
    assert permission_problems(link) == []
    for directory in (os.path.dirname(target), os.path.dirname(link)):
        os.chmod(directory, 0o777)
        assert f"its directory {directory}" in refusal(link)
        os.chmod(directory, 0o755)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("what", ["file", "directory"])
def test_what_belongs_to_another_user_is_refused(env_file: str, place: str, what: str) -> None:
    os.chown(env_file if what == "file" else place, NOBODY, -1)
    assert f"its owner, user {NOBODY}" in refusal(env_file) or what == "directory"
    assert "chown 0" in refusal(env_file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_belongs_to_root_is_trusted_by_every_user(
    env_file: str, unprivileged: Callable[[], AbstractContextManager[None]]
) -> None:
    with unprivileged():
        assert permission_problems(env_file) == []


def test_a_file_that_does_not_exist_is_no_problem(place: str) -> None:
    os.chmod(place, 0o777)
    assert permission_problems(os.path.join(place, "nothing")) == []
    assert permission_problems(os.path.join(place, "no directory", "nothing")) == []


def test_secrets_that_every_user_can_read_are_named_and_others_are_not(env_file: str) -> None:
    assert exposed_secrets(load_settings(env_file), env_file) == []
    os.chmod(env_file, 0o640)
    assert exposed_secrets(load_settings(env_file), env_file) == []
    os.chmod(env_file, 0o644)
    exposed = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    assert exposed_secrets(load_settings(env_file), env_file) == exposed


@pytest.mark.parametrize(
    ("url", "exposed"),
    [
        ("postgresql://me:secret@db/x", ["DATABASE_URL"]),
        ("postgresql://db/x?password=secret", ["DATABASE_URL"]),
        ("postgresql://me@db/x", []),
        ("sqlite:////srv/ledger.sqlite3", []),
    ],
)
def test_a_database_url_is_a_secret_if_it_has_a_password(
    env_file: str, place: str, url: str, exposed: list[str]
) -> None:
    write(env_file, f"COMPLETED_DIR={place}\nDATABASE_URL={url}\n")
    os.chmod(env_file, 0o644)
    assert exposed_secrets(load_settings(env_file), env_file) == exposed
