"""`run --once` beside a compressor: nobody minds the catalog there but the run itself."""

from __future__ import annotations

import pytest

from db import State
from tests.integration.conftest import MakeHarness
from tests.support.catalog_harness import Compressor, compressor, publish  # noqa: F401  # the fixture
from tests.support.cli_process import Command
from tests.support.harness import BUCKET, VIDEO_ID
from tests.support.s3_server import S3Server

pytestmark = pytest.mark.long

GOOD = f"{VIDEO_ID}/good_720p.mp4"
FAILED = f"{VIDEO_ID}/failed_480p.mp4"
WAITING = f"{VIDEO_ID}/waiting_360p.mp4"
UNKNOWN = f"{VIDEO_ID}/unknown_144p.mp4"


@pytest.fixture
def command(place: str, server: S3Server, compressor: Compressor) -> Command:  # noqa: F811
    return Command(place, server.url, {**compressor.settings, "INSTANCE_ID": "test"})


def test_what_is_ready_is_published_and_what_still_waits_for_its_row_is_undone(
    command: Command,
    compressor: Compressor,  # noqa: F811
    make_harness: MakeHarness,
    server: S3Server,
    video: bytes,
) -> None:
    """One row is ready, one failed, one processing, and one file has none at all."""
    opened = make_harness(**compressor.settings)
    for path in (GOOD, FAILED, WAITING, UNKNOWN):
        opened.write(path, video)
    compressor.encode(GOOD)
    compressor.fail(compressor.begin(FAILED, "480p"))
    row = compressor.begin(WAITING, "360p")
    ran = command("run", "--once")
    assert ran.code == 1
    told = sorted(line for line in ran.err.splitlines() if line.startswith("video-uploader: "))
    assert told == [
        f"video-uploader: {FAILED}: rejected: The compressor reports that the encode failed.",
        f"video-uploader: {UNKNOWN}: waits for its catalog row",
        f"video-uploader: {WAITING}: waits for its catalog row",
    ]
    assert opened.row(GOOD).state is State.PUBLISHED
    assert opened.row(GOOD).url in compressor.urls()
    listed = server.client().list_objects_v2(Bucket=BUCKET)["Contents"]
    assert [entry["Key"] for entry in listed] == [f"videos/{GOOD}"]

    compressor.end(row, WAITING)
    ran = command("run", "--once")
    assert f"{WAITING}: waits" not in ran.err
    assert opened.row(WAITING).state is State.PUBLISHED


def test_a_row_that_appeared_for_a_file_that_did_not_change_is_published_onto_at_the_start(
    command: Command,
    compressor: Compressor,  # noqa: F811
    make_harness: MakeHarness,
    video: bytes,
) -> None:
    """Also what was rejected is taken up again when its encode turns out to be good."""
    opened = make_harness(**compressor.settings)
    upload, _ = publish(opened, compressor, GOOD, video)
    compressor.fail(row := compressor.begin(FAILED, "480p"))
    opened.put(FAILED, video)
    catalog_thread = opened.app.catalog_thread
    assert catalog_thread is not None
    catalog_thread.gate.admit_waiting()
    assert opened.row(FAILED).state is State.REJECTED
    compressor.encode(GOOD)
    compressor.end(row, FAILED)
    ran = command("run", "--once")
    assert ran.code == 0, ran
    assert compressor.urls().count(str(upload.url)) == 2
    assert opened.row(FAILED).state is State.PUBLISHED
