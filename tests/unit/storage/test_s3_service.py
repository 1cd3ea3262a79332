"""The documented service: its methods on a real server, none of which raises."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import hypothesis
import pytest
import structlog
from hypothesis import strategies as st
from structlog.testing import capture_logs

from storage import ErrorKind, RenditionStore, S3Service, StorageError, object_store
from tests.support.fault_proxy import Answer, FaultProxy, Forward, Request, s3_error
from tests.support.s3_server import S3Server, config_for
from watcher.renditions import Naming, rendition_of

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
        assert (placed.key, placed.url) == (KEY, renditions.url(KEY))
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
    renditions: RenditionStore,
    proxy: FaultProxy,
    path: Path,
    verdict: Answer,
    code: str,
    kind: ErrorKind,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(object_store, "LAG_SECONDS", 0.0)

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
        renditions.exists(KEY)
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
    assert line["reason"]


@pytest.mark.parametrize("video_id", [VIDEO_ID, VIDEO_ID.upper(), UUID(VIDEO_ID)])
@pytest.mark.parametrize(
    ("source", "quality", "local", "stored"),
    [
        ("movie.mov", "144p", "movie_144p.mp4", "movie_144p.mp4"),
        ("movie.MP4", "144p", "movie_144p.mp4", "movie_144p.mp4"),
        ("movie", "144p", "movie_144p.mp4", "movie_144p.mp4"),
        ("my.cut.webm", "144p", "upload", "my.cut_144p.mp4"),
        ("clip.webm", "144p", "clip_144p.webm", "clip_144p.webm"),
        ("movie.mov", "original", "movie.mov", "movie_original.mov"),
        ("movie.mov", "original", "upload", "movie_original.mov"),
    ],
)
def test_an_object_has_the_daemons_key_whatever_the_source(
    service: S3Service,
    proxy: FaultProxy,
    tmp_path: Path,
    video_id: UUID | str,
    source: str,
    quality: str,
    local: str,
    stored: str,
) -> None:
    (tmp_path / local).write_bytes(b"video")
    url = service.upload_file(str(tmp_path / local), video_id, source, quality)
    assert url is not None
    assert url.endswith(f"/videos/{VIDEO_ID}/{stored}")
    path = f"{VIDEO_ID}/{local if '.' in local else source}"
    if "." in local:
        naming = Naming(prefix="videos", public_base="https://b.example", local_base="file:///c")
        assert naming.key(rendition_of(VIDEO_ID, path, quality)) == f"videos/{VIDEO_ID}/{stored}"
    assert service.file_exists(video_id, source, quality)
    assert service.delete_file(video_id, source, quality)
    assert not service.file_exists(video_id, source, quality)


def test_an_object_that_was_stored_with_the_extension_of_its_source_is_found_and_deleted(
    service: S3Service, s3: S3Server, bucket: str
) -> None:
    """The compressor names the MP4 files that it uploads itself like that."""
    key = f"videos/{VIDEO_ID}/movie_144p.mov"
    s3.client().put_object(Bucket=bucket, Key=key, Body=b"video")
    assert not service.file_exists(VIDEO_ID, "movie.mp4", "144p")
    assert not service.file_exists(VIDEO_ID, "movie.mov", "240p")
    assert service.file_exists(UUID(VIDEO_ID), "movie.mov", "144p")
    assert service.delete_file(UUID(VIDEO_ID), "movie.mov", "144p")
    assert not service.file_exists(VIDEO_ID, "movie.mov", "144p")


class Evil:
    """An object that can be neither shown, compared nor used as a path."""

    def __repr__(self) -> str:
        raise RuntimeError

    __str__ = __repr__
    __hash__ = None  # type: ignore[assignment]  # as that of a list

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    def __fspath__(self) -> str:
        raise RuntimeError


ANYTHING = st.one_of(
    st.none(),
    st.integers(),
    st.text(),
    st.binary(),
    st.uuids(),
    st.lists(st.text()),
    st.sampled_from(["..", "../../other", "a/b", "720p", "original", VIDEO_ID, "\0", "\udcff", Path("/")]),
)


@hypothesis.given(ANYTHING, ANYTHING, ANYTHING, ANYTHING)
@hypothesis.example("/proc/self/mem", UUID(VIDEO_ID), "a.mp4", "720p")
@hypothesis.example(7, VIDEO_ID, "a.mp4", "720p")
@hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_it_never_raises_whatever_it_is_given(
    service: S3Service, path: Any, video_id: Any, filename: Any, quality: Any
) -> None:
    with capture_logs() as logs:
        assert service.upload_file(path, video_id, filename, quality) is None
        assert service.delete_file(video_id, filename, quality) in {True, False}
        assert service.file_exists(video_id, filename, quality) is False
    assert all(isinstance(value, str) for line in logs for value in line.values())
    assert all(line["reason"] or line["code"] for line in logs)


@pytest.mark.parametrize("place", range(4))
def test_it_does_not_raise_what_an_argument_raises(service: S3Service, place: int) -> None:
    arguments: list[Any] = ["/nowhere", *NAME]
    arguments[place] = Evil()
    with capture_logs() as logs:
        assert service.upload_file(arguments[0], *arguments[1:]) is None
        assert service.delete_file(*arguments[1:]) == (place == 0)
        assert not service.file_exists(*arguments[1:])
    assert len(logs) == (1 if place == 0 else 3)


def test_a_log_that_raises_does_not_raise_here_either(service: S3Service) -> None:
    def broken(*_: object) -> dict[str, object]:
        raise BrokenPipeError

    before = structlog.get_config()["processors"]
    structlog.configure(processors=[broken])
    try:
        assert service.upload_file("/nowhere", *NAME) is None
    finally:
        structlog.configure(processors=before)


@pytest.mark.parametrize(
    "name",
    [
        ("../../other", "a.mp4", "720p"),
        ("", "a.mp4", "720p"),
        (None, "a.mp4", "720p"),
        (VIDEO_ID, "a.mp4", "../720p"),
        (VIDEO_ID, "a.mp4", "720p/x"),
        (VIDEO_ID, "a.mp4", "999p"),
        (VIDEO_ID, "..", "720p"),
    ],
)
def test_what_names_no_rendition_reaches_no_server(
    service: S3Service, proxy: FaultProxy, path: Path, name: tuple[Any, Any, Any]
) -> None:
    path.write_bytes(b"video")
    with capture_logs() as logs:
        assert service.upload_file(str(path), *name) is None
        assert not service.delete_file(*name)
        assert not service.file_exists(*name)
    assert {line["code"].partition("-")[0] for line in logs} == {"invalid"}
    assert proxy.requests == []


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
