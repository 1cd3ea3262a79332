"""Servers that refuse, make or answer one thing or two differently: every file arrives, and is sent once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from storage import (
    Confirmation,
    ObjectStore,
    SourceFile,
    Target,
    UploadSteps,
    WriteCondition,
    object_store,
    proof_by_reading,
)
from storage.transfer import preconditions
from tests.faults.outcomes import Outcome
from tests.faults.plugin import ReportOutcome
from tests.support.fault_proxy import s3_error
from tests.support.harness import BUCKET, VIDEO_ID, settings_for
from tests.support.played_daemon import TROUBLE, played_daemon
from tests.support.quirk_server import QuirkServer
from tests.support.quirks import (
    AWS,
    IN_VAIN,
    NO_ENCRYPTION,
    OF_A_SETTING,
    SINGLE,
    Oddity,
    Passing,
    Quirks,
)
from tests.support.s3_server import config_for
from tests.support.video_files import padded

ONE, TWO = "S3: server that differs in one thing", "S3: server that differs in two things"
ODD, VALUE = "S3: answer that is none of S3's", "S3: value refused as not that of the content"
UNENCRYPTED = "S3: encryption refused"
SMALL = f"{VIDEO_ID}/clip_144p.mp4"
LARGE = f"{VIDEO_ID}/film_720p.mp4"
SMALL_BYTES = 100_000
LARGE_BYTES = 17 * 1024 * 1024

pytestmark = pytest.mark.timeout(180)


@pytest.mark.fault(ONE)
@pytest.mark.parametrize("name", SINGLE)
def test_one_difference_costs_one_refused_request_for_each_header(
    report_outcome: ReportOutcome, place: str, video: bytes, name: str
) -> None:
    with QuirkServer(SINGLE[name]) as server:
        with played_daemon(server, settings_for(place, server.url)) as played:
            played.release(SMALL, padded(video, SMALL_BYTES))
            played.release(LARGE, padded(video, LARGE_BYTES))
        played.ensure_sent_once()
        played.ensure_each_refusal_taught(in_vain=IN_VAIN.get(name, 0))
    report_outcome(Outcome(ONE, 1, 2))


@pytest.mark.fault(ONE)
@pytest.mark.parametrize("name", OF_A_SETTING)
def test_what_a_setting_asks_for_and_the_server_refuses_is_done_without(
    report_outcome: ReportOutcome, place: str, video: bytes, name: str
) -> None:
    quirks, environment = OF_A_SETTING[name]
    with QuirkServer(quirks) as server:
        settings = settings_for(place, server.url)
        with played_daemon(server, settings, environment=environment) as played:
            played.release(SMALL, padded(video, SMALL_BYTES))
            played.release(LARGE, padded(video, LARGE_BYTES))
        played.ensure_sent_once()
        played.ensure_each_refusal_taught(in_vain=IN_VAIN.get(name, 0))
        assert played.learned
    report_outcome(Outcome(ONE, 1, 2))


class FirstUpload(UploadSteps):
    """Writes where nothing is."""

    def condition(self, found: Confirmation) -> WriteCondition:
        return WriteCondition.if_absent()


@pytest.fixture
def sources(tmp_path: Path) -> Iterator[list[SourceFile]]:
    """A small file, and one that goes in parts."""
    opened = []
    for size in (SMALL_BYTES, LARGE_BYTES):
        path = tmp_path / str(size)
        path.write_bytes(os.urandom(1000).ljust(size, b"."))
        opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    yield [SourceFile(fd) for fd in opened]
    for fd in opened:
        os.close(fd)


def combined() -> Iterator[tuple[str, str]]:
    """The pairs of quirks that are both played when they are put together, whichever comes first."""
    for first, second in combinations([name for name in SINGLE if "," not in name], 2):
        both, swapped = SINGLE[first].plus(SINGLE[second]), SINGLE[second].plus(SINGLE[first])
        if replace(both, refusals=()) == replace(swapped, refusals=()):
            yield first, second


@pytest.mark.fault(TWO)
@pytest.mark.parametrize(("first", "second"), list(combined()))
def test_two_differences_are_found_out_as_well_as_one(
    report_outcome: ReportOutcome,
    sources: list[SourceFile],
    monkeypatch: pytest.MonkeyPatch,
    first: str,
    second: str,
) -> None:
    monkeypatch.setattr(object_store, "FIRST_LAG_SECONDS", 0.01)
    monkeypatch.setattr(preconditions, "CONFLICT_SECONDS", 0.01)
    monkeypatch.setattr(proof_by_reading, "FIRST_LOOK_SECONDS", 0.01)
    quirks = SINGLE[first].plus(SINGLE[second])
    with QuirkServer(quirks) as server:
        config = config_for(server.url, BUCKET, acl="public-read")
        with closing(ObjectStore(config)) as store:
            for source in sources:
                target = Target(f"videos/{source.size}", "video/mp4")
                store.ensure(source, target, checksum=source.checksum(), steps=FirstUpload())
        kept = {key: len(found.body) for key, found in server.s3.objects.items()}
        assert kept == {f"videos/{source.size}": source.size for source in sources}
        parts = [one.part_number for one in server.accepted("UploadPart") if one.key in kept]
        assert sorted(part or 0 for part in parts) == [1, 2, 3]
        assert [one.key for one in server.accepted("PutObject") if one.key in kept] == list(kept)[:1]
    report_outcome(Outcome(TWO, 2, 2))


@pytest.mark.fault(ODD)
@pytest.mark.parametrize("oddity", Oddity)
@pytest.mark.parametrize(
    "operation", ["PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"]
)
def test_an_odd_answer_is_a_transient_error_of_one_file(
    report_outcome: ReportOutcome, place: str, video: bytes, operation: str, oddity: Oddity
) -> None:
    """Nothing is learned from it, and the file is released at the next attempt."""
    if oddity is Oddity.TRUNCATED and operation in {"PutObject", "UploadPart"}:
        pytest.skip("the body of such an answer is not read")
    with QuirkServer(Quirks(passing=(Passing(operation, oddity, times=1),))) as server:
        with played_daemon(server, settings_for(place, server.url)) as played:
            size = SMALL_BYTES if operation == "PutObject" else LARGE_BYTES
            played.release(SMALL, padded(video, size))
        assert played.learned == []
        assert {len(found.body) for found in server.s3.objects.values()} == {size}
    report_outcome(Outcome(ODD, 1, 1))


@pytest.mark.fault(VALUE)
@pytest.mark.parametrize("code", ["BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch"])
@pytest.mark.parametrize("operation", ["PutObject", "UploadPart"])
def test_nothing_is_learned_from_a_value_that_is_refused(
    report_outcome: ReportOutcome, place: str, video: bytes, operation: str, code: str
) -> None:
    with QuirkServer(Quirks(passing=(Passing(operation, s3_error(400, code), times=1),))) as server:
        with played_daemon(server, settings_for(place, server.url)) as played:
            played.release(SMALL, padded(video, SMALL_BYTES if operation == "PutObject" else LARGE_BYTES))
        played.ensure_sent_once()
        assert played.learned == []
    report_outcome(Outcome(VALUE, 1, 1))


@pytest.mark.fault(UNENCRYPTED)
def test_nothing_is_stored_without_the_encryption_that_is_asked_for(
    report_outcome: ReportOutcome, place: str, video: bytes
) -> None:
    """The stage pauses with the server's words, and goes on when the server takes the header."""
    with QuirkServer(NO_ENCRYPTION) as server:
        settings = settings_for(place, server.url, AWS_S3_SSE="AES256")
        with played_daemon(server, settings, trouble=TROUBLE - {"stage_paused"}) as played:
            played.give(SMALL, padded(video, SMALL_BYTES))
            paused = played.daemon.expect("stage_paused", stage="upload")
            assert paused["code"] == "NotImplemented"
            assert NO_ENCRYPTION.refusals[0].message in paused["reason"]
            assert server.s3.objects == {}
            server.quirks = AWS
            played.daemon.expect("upload_released", path=SMALL)
        played.ensure_sent_once()
        (stored,) = server.s3.objects.values()
        assert stored.headers["x-amz-server-side-encryption"] == "AES256"
    report_outcome(Outcome(UNENCRYPTED, 1, 1))
