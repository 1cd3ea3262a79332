"""The service beside a compressor of another program: its user, its PostgreSQL, its files, an S3 server."""

from __future__ import annotations

from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.harness import BUCKET, VIDEO_ID
from tests.support.s3_server import S3Server
from tests.systemd.compressor import COMPLETED, Compressor, Row
from tests.systemd.conftest import Service

pytestmark = pytest.mark.timeout(1200)

OTHER_ID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


def files(service: Service, video_id: str) -> dict[str, str]:
    """Owner, group and mode of the files of a video, by name."""
    listed = service.machine.must(
        "find", f"{COMPLETED}/{video_id}", "-type", "f", "-printf", "%f %u:%g %m\\n"
    )
    return {name: rest for name, _, rest in (line.partition(" ") for line in listed.splitlines())}


def test_rows_get_public_urls_and_files_stay_or_go_as_the_settings_say(
    service: Service, compressor: Compressor, server: S3Server
) -> None:
    """The role has the documented grants. A failed encode keeps its local URL and its file."""
    service.start()
    service.machine.must(*service.command("doctor"))
    compressor.compress(VIDEO_ID, "my_video.mp4", "--fail", f"{VIDEO_ID}:240p=SIGKILL")
    public = f"{server.url}/{BUCKET}/videos/{VIDEO_ID}/my_video"
    wanted = {
        "144p": Row("ready", f"{public}_144p.mp4"),
        "240p": Row("failed", f"https://example.com/videos/{VIDEO_ID}/my_video_240p.mp4"),
        "360p": Row("ready", f"{public}_360p.mp4"),
        "original": Row("ready", f"{public}_original.mp4"),
    }
    service.machine.wait_for(lambda: compressor.rows(VIDEO_ID) == wanted, f"the rows {wanted}")
    with urlopen(f"{public}_original.mp4", timeout=10) as answer:
        assert answer.read() == Path(service.machine.shared, "my_video.mp4").read_bytes()
    names = {"my_video_144p.mp4", "my_video_240p.mp4", "my_video_360p.mp4", "my_video.mp4"}
    assert files(service, VIDEO_ID) == dict.fromkeys(names, "compressor:compressor 644")

    service.reload(RELEASE_AFTER_SECONDS="0")
    compressor.compress(OTHER_ID, "other.mp4")
    service.machine.wait_for(lambda: not files(service, OTHER_ID), "the release of all of the other video")
    rows = compressor.rows(OTHER_ID)
    assert len(rows) == 4
    assert all(row.status == "ready" and row.url.startswith(server.url) for row in rows.values()), rows
    service.machine.wait_for(
        lambda: files(service, VIDEO_ID).keys() == {"my_video_240p.mp4"}, "the release of what is published"
    )
