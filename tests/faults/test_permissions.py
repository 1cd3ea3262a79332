"""What the real daemon may not read or remove is reported with its remedy, and resumed once that is done."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from db import State
from tests.faults.files_at_stake import FilesAtStake
from tests.faults.going_well import going_well, states
from tests.faults.mounts import run
from tests.support.daemon_process import command
from tests.support.harness import VIDEO_ID, MakeSettings
from tests.support.s3_server import S3Server
from watcher.settings.model import Settings

pytestmark = pytest.mark.timeout(240)

PATH = f"{VIDEO_ID}/my_video_720p.mp4"
NEVER = 86400

WITHOUT_PRIVILEGES = (
    *("setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner"),
    *("--inh-caps", "-dac_override,-dac_read_search,-fowner"),
)
"""Root without the capabilities that override permissions."""


def closed_file(settings: Settings) -> Callable[[], None]:
    path = os.path.join(settings.completed_dir, PATH)
    os.chmod(path, 0)
    return lambda: os.chmod(path, 0o644)


def foreign_file(settings: Settings) -> Callable[[], None]:
    path = os.path.join(settings.completed_dir, PATH)
    os.chmod(path, 0o600)
    os.chown(path, 65534, 65534)
    return lambda: os.chown(path, 0, 0)


@pytest.mark.fault("file that may not be read")
@pytest.mark.parametrize("close", [closed_file, foreign_file])
def test_a_file_that_may_not_be_read_is_told_with_its_mend_and_picked_up_when_mended(
    settings: MakeSettings,
    server: S3Server,
    video: bytes,
    close: Callable[[Settings], Callable[[], None]],
    files_at_stake: FilesAtStake,
) -> None:
    """An event reports that permissions were restored: no scan is needed."""
    require_setpriv()
    chosen = settings(RESCAN_SECONDS=NEVER)
    files_at_stake.put(chosen, PATH, video)
    mend = close(chosen)
    files_at_stake.inject()
    with going_well(chosen, through=WITHOUT_PRIVILEGES) as daemon:
        told = daemon.expect("upload_failed", path=PATH, code="unreadable")
        assert "Let the service run as the user who writes the files" in told["reason"]
        for words in (("explain", PATH), ("status",)):
            assert "Let the service run as" in command(chosen, *words).stdout
        files_at_stake.bystander(daemon, chosen, video)
        mend()
        files_at_stake.over()
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
    assert states(chosen)[PATH] == State.RELEASED
    files_at_stake.judge(chosen)


@pytest.mark.fault("directory that may not be read")
def test_a_directory_that_may_not_be_read_is_told_with_its_mend_and_picked_up_when_mended(
    settings: MakeSettings, server: S3Server, video: bytes, files_at_stake: FilesAtStake
) -> None:
    require_setpriv()
    chosen = settings(RESCAN_SECONDS=1)
    directory = os.path.dirname(files_at_stake.put(chosen, PATH, video))
    os.chmod(directory, 0)
    files_at_stake.inject()
    with going_well(chosen, through=WITHOUT_PRIVILEGES) as daemon:
        told = daemon.expect("directory_unreadable", path=VIDEO_ID)
        assert "Let the service run as the user who writes the files" in told["reason"]
        daemon.expect("scan_completed", unreadable_directories=1)
        files_at_stake.bystander(daemon, chosen, video)
        os.chmod(directory, 0o755)
        files_at_stake.over()
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
    assert states(chosen)[PATH] == State.RELEASED
    files_at_stake.judge(chosen)


@pytest.mark.fault("directory that now belongs to somebody else")
def test_a_directory_whose_owner_changed_keeps_its_files_until_that_is_mended(
    settings: MakeSettings, server: S3Server, video: bytes, files_at_stake: FilesAtStake
) -> None:
    """The readable file is uploaded; that its copy cannot be deleted is reported and retried."""
    require_setpriv()
    chosen = settings(RESCAN_SECONDS=1)
    directory = os.path.dirname(files_at_stake.put(chosen, PATH, video))
    os.chown(directory, 65534, 65534)
    files_at_stake.inject()
    with going_well(chosen, through=WITHOUT_PRIVILEGES) as daemon:
        told = daemon.expect("attempt_failed", path=PATH, code="not-removable")
        assert "run the service as the user who writes the files" in told["reason"]
        assert "Permission denied" in command(chosen, "explain", PATH).stdout
        files_at_stake.bystander(daemon, chosen, video)
        os.chown(directory, 0, 0)
        files_at_stake.over()
        daemon.expect("upload_released", path=PATH)
        files_at_stake.recovered()
    assert os.listdir(directory) == []
    files_at_stake.judge(chosen)


def require_setpriv() -> None:
    """Skip where this process has no privileges to give up, or cannot give other files away."""
    if os.geteuid() != 0:
        pytest.skip("only root can make files that this user may not read and mend them again")
    run(*WITHOUT_PRIVILEGES, "true")
