"""The audit finds each kind of difference, repairs what it can, and leaves claimed rows to the daemon."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta

import psycopg
import pytest
from structlog.testing import capture_logs

from db import State, Upload
from storage import StorageError
from tests.support.catalog_harness import LOCAL, Compressor, compressor, publish  # noqa: F401  # the fixture
from tests.support.cli_process import Command
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, s3_error
from tests.support.harness import BUCKET, LEASE, VIDEO_ID, Harness, MakeHarness
from tests.support.ports import free_address
from tests.support.s3_server import S3Server
from watcher.operations.audit import Audit, Finding, Issue

PATH = f"{VIDEO_ID}/good_720p.mp4"
OTHER_VIDEO = VIDEO_ID.replace("0b8e", "1b8e")
KEY = f"videos/{VIDEO_ID}/good_720p.mp4"
LOCAL_URL = f"{LOCAL}/{PATH}"

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("server")]


@pytest.fixture
def make_compressor_harness(make_harness: MakeHarness, compressor: Compressor) -> Callable[..., Harness]:  # noqa: F811
    """Opens the application beside a compressor."""
    return lambda **changes: make_harness(**compressor.settings, **changes)


def audited(harness: Harness, *, fix: bool = False) -> list[Finding]:
    return list(Audit(harness.app, fix=fix).findings())


def issues(harness: Harness, *, fix: bool = False) -> list[tuple[Issue, bool]]:
    return [(finding.issue, finding.is_fixed) for finding in audited(harness, fix=fix)]


def remove_object(server: S3Server) -> None:
    server.client().delete_object(Bucket=BUCKET, Key=KEY)


def replace_object(server: S3Server) -> None:
    server.client().put_object(Bucket=BUCKET, Key=KEY, Body=b"something else")


def test_where_everything_is_as_it_should_be_nothing_is_found(
    make_compressor_harness: Callable[..., Harness],
    compressor: Compressor,  # noqa: F811
    video: bytes,
) -> None:
    """Published with its local copy, and released without it."""
    harness = make_compressor_harness()
    publish(harness, compressor, PATH, video)
    assert audited(harness) == []
    harness.step(State.PUBLISHED)
    assert harness.row(PATH).state is State.RELEASED
    assert audited(harness, fix=True) == []


@pytest.mark.parametrize("harm", [remove_object, replace_object])
def test_an_object_that_is_gone_is_uploaded_again_and_the_row_goes_back_until_then(
    make_compressor_harness: Callable[..., Harness],
    compressor: Compressor,  # noqa: F811
    server: S3Server,
    video: bytes,
    harm: Callable[[S3Server], None],
) -> None:
    """Without --fix it is only reported. With it row and ledger change together, and the stages do the rest.

    What another program has put in its place the upload stage replaces only if that is older than the row.
    """
    harness = make_compressor_harness()
    upload, _ = publish(harness, compressor, PATH, video)
    harm(server)
    assert issues(harness) == [(Issue.OBJECT_GONE, False)]
    assert (harness.row(PATH), compressor.urls()) == (upload, [upload.url])
    assert issues(harness, fix=True) == [(Issue.OBJECT_GONE, True)]
    assert (harness.row(PATH).state, compressor.urls()) == (State.PENDING, [LOCAL_URL])
    if harm is replace_object:
        return
    harness.step(State.PENDING)
    harness.step(State.VERIFIED)
    assert (audited(harness), compressor.urls()) == ([], [upload.url])
    assert harness.object(harness.row(PATH)) == video


@pytest.mark.parametrize("state", [State.PUBLISHED, State.RELEASED])
def test_an_object_without_a_local_copy_is_reported_as_lost_and_nothing_is_changed(
    make_compressor_harness: Callable[..., Harness],
    compressor: Compressor,  # noqa: F811
    server: S3Server,
    video: bytes,
    state: State,
) -> None:
    harness = make_compressor_harness()
    publish(harness, compressor, PATH, video)
    if state is State.RELEASED:
        harness.step(State.PUBLISHED)
    else:
        os.unlink(harness.absolute(PATH))
    remove_object(server)
    before = harness.row(PATH)
    assert before.state is state
    assert issues(harness, fix=True) == [(Issue.LOST, False)]
    assert harness.row(PATH) == before


def test_without_its_file_system_no_copy_is_taken_for_gone(
    make_compressor_harness: Callable[..., Harness],
    compressor: Compressor,  # noqa: F811
    server: S3Server,
    video: bytes,
) -> None:
    """An empty directory may be one that is not mounted: what is in it is unknown."""
    harness = make_compressor_harness()
    publish(harness, compressor, PATH, video)
    os.rename(harness.absolute(VIDEO_ID), f"{harness.app.tree.root}.elsewhere")
    remove_object(server)
    assert issues(harness, fix=True) == [(Issue.UNKNOWN, False)]


@pytest.mark.parametrize("state", [State.PUBLISHED, State.RELEASED])
def test_a_row_that_went_back_to_its_local_url_is_published_again(
    make_compressor_harness: Callable[..., Harness],
    compressor: Compressor,  # noqa: F811
    video: bytes,
    state: State,
) -> None:
    harness = make_compressor_harness()
    upload, row = publish(harness, compressor, PATH, video)
    if state is State.RELEASED:
        harness.step(State.PUBLISHED)
    compressor.set_url(row, LOCAL_URL)
    assert issues(harness) == [(Issue.STALE_ROW, False)]
    assert compressor.urls() == [LOCAL_URL]
    assert issues(harness, fix=True) == [(Issue.STALE_ROW, True)]
    assert compressor.urls() == [upload.url]
    assert audited(harness) == []


def test_a_ready_row_without_a_published_url_is_given_the_url_of_the_verified_object(
    make_compressor_harness: Callable[..., Harness],
    compressor: Compressor,  # noqa: F811
    video: bytes,
) -> None:
    """An upload that was verified when the daemon ended, and a second row of a file that did not change."""
    harness = make_compressor_harness()
    publish(harness, compressor, PATH, video)
    other = f"{VIDEO_ID}/other_720p.mp4"
    compressor.encode(other)
    harness.put(other, video)
    catalog_thread = harness.app.catalog_thread
    assert catalog_thread is not None
    catalog_thread.gate.admit_waiting()
    harness.step(State.PENDING)
    compressor.encode(PATH)
    assert issues(harness) == [(Issue.STALE_ROW, False), (Issue.STALE_ROW, False)]
    assert issues(harness, fix=True) == [(Issue.STALE_ROW, True), (Issue.STALE_ROW, True)]
    assert harness.row(other).state is State.PUBLISHED
    assert set(compressor.urls()) == {harness.row(PATH).url, harness.row(other).url}


@pytest.mark.parametrize("deletes", [False, True])
def test_an_object_whose_rows_were_deleted_is_deleted_only_if_that_is_wished(
    make_compressor_harness: Callable[..., Harness],
    compressor: Compressor,  # noqa: F811
    video: bytes,
    deletes: bool,
) -> None:
    """And never without --fix, or at the first look. Of an object that is missing as well nothing is said."""
    harness = make_compressor_harness(DELETE_ORPHANS=deletes)
    publish(harness, compressor, PATH, video)
    harness.step(State.PUBLISHED)
    released = harness.row(PATH)
    compressor.delete()
    compressor.encode(f"{OTHER_VIDEO}/other_720p.mp4")
    assert issues(harness) == [(Issue.ORPHAN, False)]
    assert issues(harness, fix=True) == [(Issue.ORPHAN, False)]
    assert harness.object(released) == video
    with psycopg.connect(compressor.url) as connection:
        connection.execute(
            "UPDATE video_uploader.orphans SET missing_since = missing_since - interval '1 hour'"
        )
    assert issues(harness, fix=True) == [(Issue.ORPHAN, deletes)]
    assert harness.object(released) == (None if deletes else video)
    assert issues(harness) == [] if deletes else [(Issue.ORPHAN, False)]


def test_objects_that_the_ledger_does_not_know_are_counted_and_left_alone(
    make_compressor_harness: Callable[..., Harness],
    compressor: Compressor,  # noqa: F811
    server: S3Server,
    video: bytes,
) -> None:
    """Only below the prefix; one that a catalog row shows is told apart. They are no fault."""
    harness = make_compressor_harness()
    upload, _ = publish(harness, compressor, PATH, video)
    shown = KEY.replace("good", "earlier")
    for key in (shown, "videos/x.bin", "elsewhere/y.mp4"):
        server.client().put_object(Bucket=BUCKET, Key=key, Body=b"x")
    assert upload.url is not None
    second = compressor.begin(f"{VIDEO_ID}/earlier_480p.mp4", "480p")
    compressor.set_url(second, upload.url.replace("good", "earlier"))
    auditing = Audit(harness.app, fix=True)
    found = {finding.key: finding for finding in auditing.findings()}
    assert set(found) == {shown, "videos/x.bin"}
    assert not any(finding.is_open for finding in found.values())
    assert (found[shown].issue, found["videos/x.bin"].issue) == (Issue.UNRECORDED, Issue.NOT_OURS)
    assert found[shown].detail.startswith(f"Catalog row {second} shows an object")
    assert "catalog row" not in found["videos/x.bin"].detail
    assert (auditing.confirmed, auditing.listed) == (1, 3)
    assert server.client().head_object(Bucket=BUCKET, Key="videos/x.bin")


def test_what_may_not_be_seen_is_unknown_and_never_missing(
    make_compressor_harness: Callable[..., Harness],
    compressor: Compressor,  # noqa: F811
    proxy: FaultProxy,
    video: bytes,
) -> None:
    """A 403 for the object and for the listing; the upload stays as it is."""
    harness = make_compressor_harness()
    upload, _ = publish(harness, compressor, PATH, video)
    proxy.fault = lambda _request, _forward: s3_error(403, "AccessDenied")
    assert issues(harness, fix=True) == [(Issue.UNKNOWN, False), (Issue.UNKNOWN, False)]
    assert (harness.row(PATH), compressor.urls()) == (upload, [upload.url])


def test_an_upload_that_somebody_works_on_is_his(
    make_compressor_harness: Callable[..., Harness],
    compressor: Compressor,  # noqa: F811
    server: S3Server,
    video: bytes,
) -> None:
    """Neither found nor touched while it is claimed; its worker finds out himself."""
    harness = make_compressor_harness()
    _, row = publish(harness, compressor, PATH, video)
    (claimed,) = harness.app.ledger.claim(State.PUBLISHED, 1, lease=LEASE, horizon=timedelta(days=9))
    remove_object(server)
    compressor.set_url(row, LOCAL_URL)
    assert audited(harness, fix=True) == []
    assert harness.row(PATH) == claimed


def test_an_upload_that_moves_on_while_its_object_is_asked_for_is_left_alone(
    make_compressor_harness: Callable[..., Harness],
    compressor: Compressor,  # noqa: F811
    proxy: FaultProxy,
    server: S3Server,
    video: bytes,
) -> None:
    """A daemon takes the row in the very moment of the audit's HEAD, and gives it back."""
    harness = make_compressor_harness()
    upload, _ = publish(harness, compressor, PATH, video)
    remove_object(server)
    held: list[Upload] = []

    def take(request: Request, forward: Forward) -> Answer:
        if request.method == "HEAD" and not held:
            held.extend(harness.app.ledger.claim(State.PUBLISHED, 1, lease=LEASE, horizon=timedelta(days=9)))
            harness.app.ledger.return_claim(held[0])
        return forward()

    proxy.fault = take
    assert audited(harness, fix=True) == []
    assert (harness.row(PATH).state, held[0].id) == (State.PUBLISHED, upload.id)


def test_earlier_content_of_a_key_is_not_missed(
    make_compressor_harness: Callable[..., Harness],
    compressor: Compressor,  # noqa: F811
    video: bytes,
) -> None:
    """Compressed again after its release: the older upload's object is rightly another one now."""
    harness = make_compressor_harness()
    publish(harness, compressor, PATH, video)
    harness.step(State.PUBLISHED)
    publish(harness, compressor, PATH, video + b"\0\0\0\x08free")
    assert audited(harness, fix=True) == []


def test_a_server_that_fails_again_and_again_ends_the_audit(
    make_compressor_harness: Callable[..., Harness],
    compressor: Compressor,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    proxy: FaultProxy,
    video: bytes,
) -> None:
    """One bad moment makes one object unknown; a server that is away would make all of them so."""
    harness = make_compressor_harness()
    publish(harness, compressor, PATH, video)
    proxy.fault = lambda request, forward: Answer(503) if request.method == "HEAD" else forward()
    assert issues(harness, fix=True) == [(Issue.UNKNOWN, False)]
    monkeypatch.setattr("watcher.operations.requests_to_s3.MAX_FAILURES", 1)
    with pytest.raises(StorageError) as caught:
        audited(harness)
    assert caught.value.status == 503


@pytest.mark.parametrize("catalog", ["own", "none"])
def test_with_a_catalog_of_our_own_or_none_what_can_be_compared_is(
    make_harness: MakeHarness, server: S3Server, video: bytes, catalog: str
) -> None:
    """An object that is gone, and with our own rows a stale one."""
    opened = make_harness(CATALOG=catalog)
    opened.put(PATH, video)
    opened.step(State.PENDING)
    opened.step(State.VERIFIED)
    assert audited(opened) == []
    upload = opened.row(PATH)
    naming = opened.app.context.naming
    if catalog == "own":
        urls = {"public_url": naming.public_url(upload), "local_url": naming.local_url(upload)}
        opened.app.context.catalog.revert_to_local_url(upload, **urls)
        assert issues(opened) == [(Issue.STALE_ROW, False)]
        assert issues(opened, fix=True) == [(Issue.STALE_ROW, True)]
        assert opened.catalog_urls() == [f"/{BUCKET}/{KEY}"]
    remove_object(server)
    assert issues(opened) == [(Issue.OBJECT_GONE, False)]
    assert issues(opened, fix=True) == [(Issue.OBJECT_GONE, True)]
    assert opened.row(PATH).state is State.PENDING


@pytest.mark.parametrize("state", [State.PUBLISHED, State.RELEASED])
def test_after_a_change_of_bucket_what_is_in_the_old_one_is_confirmed_there(
    make_compressor_harness: Callable[..., Harness],
    compressor: Compressor,  # noqa: F811
    place: str,
    server: S3Server,
    video: bytes,
    state: State,
) -> None:
    """Players get it at the URL in the ledger and in the rows. Without the old object it is lost."""
    publish(make_compressor_harness(), compressor, PATH, video)
    server.create_bucket("new-bucket")
    harness = make_compressor_harness()
    if state is State.RELEASED:
        harness.step(State.PUBLISHED)
    moved = make_compressor_harness(AWS_S3_BUCKET="new-bucket")
    before = (moved.row(PATH), compressor.urls())
    assert before[0].state is state
    assert issues(moved, fix=True) == [(Issue.ELSEWHERE, False)]
    assert (moved.row(PATH), compressor.urls()) == before
    changed = {**compressor.settings, "INSTANCE_ID": "test", "AWS_S3_BUCKET": "new-bucket"}
    ran = Command(place, server.url, changed).here("audit")
    assert (ran.code, ran.err) == (0, "")
    assert "0 uploads were confirmed, 1 were confirmed elsewhere" in ran.out
    remove_object(server)
    lost = Issue.LOST if state is State.RELEASED else Issue.OBJECT_GONE
    assert issues(moved) == [(lost, False)]


def test_a_place_that_does_not_answer_is_neither_confirmed_nor_lost(
    make_compressor_harness: Callable[..., Harness],
    compressor: Compressor,  # noqa: F811
    server: S3Server,
    video: bytes,
) -> None:
    publish(make_compressor_harness(AWS_S3_ACL="none"), compressor, PATH, video)
    server.create_bucket("new-bucket")
    moved = make_compressor_harness(AWS_S3_BUCKET="new-bucket")
    uploads = moved.app.context.database.tables.uploads
    with moved.app.context.database.transaction():
        uploads.update(url=f"http://{free_address()}/{KEY}").execute()
    (finding,) = audited(moved)
    assert (finding.issue, finding.is_open) == (Issue.UNKNOWN, True)


def test_an_upload_that_is_gone_although_its_object_is_there_is_told_and_taken_up(
    make_harness: MakeHarness, server: S3Server, video: bytes
) -> None:
    """The rest is done by the stages: the URL is published and the receipt is there again."""
    harness = make_harness()
    harness.put(PATH, video)
    os.unlink(harness.absolute(PATH))
    harness.write("another.txt", b"the directory is not empty")
    (gone,) = harness.step(State.PENDING)
    assert gone.state is State.GONE
    assert audited(harness) == []
    metadata = {"video-id": VIDEO_ID, "quality": "720p", "source-mtime": str(gone.mtime_ns)}
    server.client().put_object(
        Bucket=BUCKET,
        Key=KEY,
        Body=video,
        Metadata=metadata,
        ChecksumAlgorithm="CRC64NVME",
        ACL="public-read",
    )
    (finding,) = audited(harness)
    assert (finding.issue, finding.is_open) == (Issue.RECOVERABLE, True)
    assert f"retry {gone.id}" in finding.detail
    assert issues(harness, fix=True) == [(Issue.RECOVERABLE, True)]
    harness.step(State.PENDING)
    harness.step(State.VERIFIED)
    assert harness.catalog_urls() == [f"/{BUCKET}/{KEY}"]
    assert audited(harness) == []


def test_an_object_that_nothing_proves_is_told_and_not_taken_up(
    make_harness: MakeHarness, server: S3Server, video: bytes
) -> None:
    harness = make_harness()
    harness.put(PATH, video)
    os.unlink(harness.absolute(PATH))
    harness.write("another.txt", b"the directory is not empty")
    harness.step(State.PENDING)
    server.client().put_object(Bucket=BUCKET, Key=KEY, Body=video)
    assert issues(harness, fix=True) == [(Issue.RECOVERABLE, False)]
    assert harness.row(PATH).state is State.GONE


def test_what_rows_show_and_the_ledger_does_not_know_is_told(
    make_compressor_harness: Callable[..., Harness],
    compressor: Compressor,  # noqa: F811
    server: S3Server,
    video: bytes,
) -> None:
    """An older ledger was restored, without the receipts of later videos. Without an object it is lost."""
    harness = make_compressor_harness()
    publish(harness, compressor, PATH, video)
    harness.step(State.PUBLISHED)
    tables = harness.app.context.database.tables
    with harness.app.context.database.transaction():
        tables.publications.delete().execute()
        tables.uploads.delete().execute()
    (finding,) = audited(harness)
    assert (finding.issue, finding.key, finding.is_open) == (Issue.UNRECORDED, KEY, False)
    assert "older ledger" in finding.detail
    assert harness.app.catalog_thread is not None
    with capture_logs() as logged:
        harness.app.catalog_thread.republisher.warn_of_unrecorded()
    assert [(line["event"], line["rows"]) for line in logged] == [("publications_unrecorded", 1)]
    remove_object(server)
    assert issues(harness) == [(Issue.LOST, False)]


def test_with_our_own_catalog_the_metadata_tells_what_the_ledger_has_forgotten(
    make_harness: MakeHarness, server: S3Server, video: bytes
) -> None:
    harness = make_harness()
    harness.put(PATH, video)
    assert harness.finish(PATH).state is State.RELEASED
    tables = harness.app.context.database.tables
    with harness.app.context.database.transaction():
        tables.uploads.delete().execute()
        tables.qualities.delete().execute()
    server.client().put_object(Bucket=BUCKET, Key="videos/x.bin", Body=b"x")
    assert sorted(issues(harness)) == [(Issue.NOT_OURS, False), (Issue.UNRECORDED, False)]


def test_the_command_tells_what_it_found_and_ends_with_1_until_it_is_fixed(
    make_compressor_harness: Callable[..., Harness],
    compressor: Compressor,  # noqa: F811
    place: str,
    server: S3Server,
    video: bytes,
) -> None:
    """For people and for programs; an object that is not ours is no reason to end with 1."""
    harness = make_compressor_harness()
    upload, row = publish(harness, compressor, PATH, video)
    compressor.set_url(row, LOCAL_URL)
    server.client().put_object(Bucket=BUCKET, Key="videos/x.bin", Body=b"x")
    command = Command(place, server.url, {**compressor.settings, "INSTANCE_ID": "test"})
    ran = command.here("audit")
    assert (ran.code, ran.err) == (1, "")
    assert f"row-astray: {PATH} ({KEY}): " in ran.out
    assert "not-ours: videos/x.bin: " in ran.out
    fixed = command.here("audit", "--fix", "--json")
    assert fixed.code == 0
    result = fixed.json()
    assert (result["confirmed"], result["listed"]) == (1, 2)
    assert result["counts"]["row-astray"] == {"found": 1, "fixed": 1}
    assert result["findings"][0].keys() == {"issue", "key", "upload", "path", "detail", "fixed"}
    assert (result["findings"][0]["upload"], compressor.urls()) == (upload.id, [upload.url])
    again = command.here("audit")
    assert (again.code, again.err) == (0, "")
    assert again.out.endswith("Nothing is left to do.\n")


def test_what_is_lost_is_said_loudly(
    make_compressor_harness: Callable[..., Harness],
    compressor: Compressor,  # noqa: F811
    place: str,
    server: S3Server,
    video: bytes,
) -> None:
    harness = make_compressor_harness()
    publish(harness, compressor, PATH, video)
    harness.step(State.PUBLISHED)
    remove_object(server)
    command = Command(place, server.url, {**compressor.settings, "INSTANCE_ID": "test"})
    for form in ((), ("--json",), ("--fix",)):
        ran = command.here("audit", *form)
        assert ran.code == 1
        assert ran.err.startswith("video-uploader: 1 objects are LOST")


def test_many_findings_are_counted_and_only_the_first_of_a_kind_are_told(
    make_compressor_harness: Callable[..., Harness],
    place: str,
    compressor: Compressor,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    server: S3Server,
) -> None:
    make_compressor_harness()
    for number in range(5):
        server.client().put_object(Bucket=BUCKET, Key=f"videos/{number}.bin", Body=b"x")
    monkeypatch.setattr("watcher.cli.audit.MAX_SHOWN", 2)
    monkeypatch.setattr("watcher.operations.requests_to_s3.PAGE", 2)
    command = Command(place, server.url, {**compressor.settings, "INSTANCE_ID": "test"})
    ran = command.here("audit")
    assert ran.code == 0
    assert ran.out.count("videos/") == 2
    assert "not-ours: 3 more are not shown.\n" in ran.out
    result = command.here("audit", "--json").json()
    assert (len(result["findings"]), result["counts"]["not-ours"]["found"]) == (2, 5)
