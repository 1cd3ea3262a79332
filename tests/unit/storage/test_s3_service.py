"""The documented service: its methods on a real server, none of which raises."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from storage import ErrorKind, RenditionStore, S3Service, StorageError
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, s3_error
from tests.support.s3_server import S3Server, config_for

VIDEO_ID = "0b8e3f60-9d5c-4c1a-8f8e-3b1f0a7d2c11"
NAME = (VIDEO_ID, "my video.mp4", "720p")
KEY = f"videos/{VIDEO_ID}/my video_720p.mp4"
LARGE = 17 * 1024 * 1024


@pytest.fixture
def service(proxy: FaultProxy, bucket: str) -> Iterator[S3Service]:
    with S3Service(config_for(proxy.url, bucket, acl="public-read")) as service:
        yield service


@pytest.fixture
def renditions(proxy: FaultProxy, bucket: str) -> Iterator[RenditionStore]:
    with RenditionStore(config_for(proxy.url, bucket)) as renditions:
        yield renditions


@pytest.mark.parametrize("size", [1, 1000, LARGE])
def test_a_file_is_uploaded_found_and_deleted(
    service: S3Service, s3: S3Server, bucket: str, proxy: FaultProxy, path: Path, size: int
) -> None:
    content = os.urandom(size)
    path.write_bytes(content)
    assert not service.file_exists(*NAME)
    assert (
        service.upload_file(str(path), *NAME) == f"{proxy.url}/{bucket}/videos/{VIDEO_ID}/my%20video_720p.mp4"
    )
    assert service.file_exists(*NAME)
    stored = s3.client().get_object(Bucket=bucket, Key=KEY)
    assert (stored["Body"].read(), stored["ContentType"]) == (content, "video/mp4")
    assert stored["Metadata"] == {
        "video-id": VIDEO_ID,
        "quality": "720p",
        "source-mtime": str(path.stat().st_mtime_ns),
    }
    grants = s3.client().get_object_acl(Bucket=bucket, Key=KEY)["Grants"]
    assert any(grant["Grantee"].get("URI", "").endswith("AllUsers") for grant in grants)
    assert service.delete_file(*NAME)
    assert not service.file_exists(*NAME)


def test_deleting_what_is_not_there_is_no_failure(service: S3Service) -> None:
    assert service.delete_file(*NAME)


def test_it_has_the_three_methods_and_no_others() -> None:
    assert {name for name in vars(S3Service) if not name.startswith("_")} == {
        "upload_file",
        "delete_file",
        "file_exists",
    }


def test_the_same_content_is_sent_once(service: S3Service, proxy: FaultProxy, path: Path) -> None:
    path.write_bytes(b"video")
    first = service.upload_file(str(path), *NAME)
    assert service.upload_file(str(path), *NAME) == first
    assert proxy.actions.count("PutObject") == 1


def test_whether_other_content_was_replaced_is_returned(renditions: RenditionStore, path: Path) -> None:
    replaced = []
    for content in (b"first", b"first", b"other"):
        path.write_bytes(content)
        with path.open("rb") as file:
            placed = renditions.upload(file.fileno(), *NAME)
        replaced.append(placed.replaced)
        assert (placed.key, placed.url) == (KEY, renditions.url(*NAME))
    assert replaced == [False, False, True]


@pytest.mark.parametrize(
    ("verdict", "code", "kind"),
    [
        (Answer(404), "object-missing", ErrorKind.TRANSIENT),
        (Answer(403), "object-unknown", ErrorKind.ENVIRONMENT),
        (Answer(200, {"content-length": "3"}), "object-differs", ErrorKind.TRANSIENT),
    ],
)
def test_what_was_sent_and_is_not_confirmed_was_not_uploaded(
    renditions: RenditionStore, proxy: FaultProxy, path: Path, verdict: Answer, code: str, kind: ErrorKind
) -> None:
    def doubt(request: Request, forward: Forward) -> Answer:
        return verdict if request.action == "HeadObject" and "PutObject" in proxy.actions else forward()

    proxy.fault = doubt
    path.write_bytes(b"video")
    with path.open("rb") as file, pytest.raises(StorageError) as caught:
        renditions.upload(file.fileno(), *NAME)
    assert (caught.value.code, caught.value.kind, caught.value.key) == (code, kind, KEY)


def test_an_object_that_must_not_be_looked_at_is_not_called_missing(
    renditions: RenditionStore, proxy: FaultProxy
) -> None:
    proxy.fault = lambda _request, _forward: Answer(403)
    with pytest.raises(StorageError) as caught:
        renditions.exists(*NAME)
    assert (caught.value.code, caught.value.kind) == ("object-unknown", ErrorKind.ENVIRONMENT)


def all_three(service: S3Service, path: str) -> tuple[object, object, object]:
    return service.upload_file(path, *NAME), service.delete_file(*NAME), service.file_exists(*NAME)


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (404, "NoSuchBucket"), (503, "SlowDown")]
)
def test_a_refusal_is_logged_and_not_raised(
    service: S3Service, proxy: FaultProxy, path: Path, status: int, code: str
) -> None:
    path.write_bytes(b"video")
    proxy.fault = lambda request, _forward: (
        Answer(status) if request.method == "HEAD" else s3_error(status, code)
    )
    with capture_logs() as logs:
        answers = all_three(service, str(path))
    assert answers == (None, False, False)
    by_event = {line["event"]: line for line in logs}
    assert by_event["service_delete_failed"]["code"] == code
    assert "service_upload_failed" in by_event
    for line in (line for line in logs if line["event"] != "concurrency_lowered"):
        assert line["log_level"] == "error"
        assert line["reason"]
        assert (line["video_id"], line["filename"], line["quality"]) == NAME


def test_missing_credentials_are_logged_and_not_raised(proxy: FaultProxy, bucket: str, path: Path) -> None:
    path.write_bytes(b"video")
    config = config_for(proxy.url, bucket, access_key_id=None, secret_access_key=None)
    with S3Service(config) as service, capture_logs() as logs:
        assert all_three(service, str(path)) == (None, False, False)
    assert [(line["event"], line["code"]) for line in logs] == [
        ("service_upload_failed", "no-credentials"),
        ("service_delete_failed", "no-credentials"),
        ("service_lookup_failed", "no-credentials"),
    ]
    assert proxy.requests == []


def test_settings_that_make_no_client_are_logged_and_not_raised(path: Path) -> None:
    path.write_bytes(b"video")
    with S3Service(config_for("not a url", "b")) as service, capture_logs() as logs:
        assert all_three(service, str(path)) == (None, False, False)
    assert {line["code"] for line in logs} == {"bad-settings"}


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "nul"])
def test_what_is_no_file_is_logged_and_not_raised(service: S3Service, tmp_path: Path, kind: str) -> None:
    path = str(tmp_path / "x")
    match kind:
        case "directory":
            path = str(tmp_path)
        case "fifo":
            os.mkfifo(path)
        case "nul":
            path += "\0"
    with capture_logs() as logs:
        assert service.upload_file(path, *NAME) is None
    (line,) = logs
    assert (line["event"], line["path"]) == ("service_upload_failed", path)


@pytest.mark.parametrize("filename", ["", "a/b.mp4", "x" * 1100 + ".mp4", "\udcff.mp4"])
def test_a_name_that_can_be_none_is_logged_and_not_raised(
    service: S3Service, proxy: FaultProxy, path: Path, filename: str
) -> None:
    path.write_bytes(b"video")
    with capture_logs() as logs:
        assert service.upload_file(str(path), VIDEO_ID, filename, "720p") is None
        assert not service.delete_file(VIDEO_ID, filename, "720p")
        assert not service.file_exists(VIDEO_ID, filename, "720p")
    assert len(logs) == 3
    assert proxy.requests == []


def test_the_file_is_closed_whatever_becomes_of_it(service: S3Service, proxy: FaultProxy, path: Path) -> None:
    path.write_bytes(b"video")
    service.upload_file(str(path), *NAME)
    assert str(path) not in open_files()
    proxy.fault = lambda _request, _forward: s3_error(403, "AccessDenied")
    with capture_logs():
        service.upload_file(str(path), *NAME)
    assert str(path) not in open_files()


def open_files() -> set[str]:
    """What this process has open at the moment; connections come and go with the library's pool."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    return found
