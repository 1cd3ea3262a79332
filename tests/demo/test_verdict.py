"""The demo's verdict calls nothing good that is not."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from db import Database, Identity, Ledger, OwnCatalog, Upload, migrate, open_database, sqlite_url
from tests.demo.setup import INSTANCE, Rendition
from tests.demo.verdict import fetch_and_compare, judge, table_of

VIDEO_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
RENDITION = Rendition(VIDEO_ID, "144p", f"{VIDEO_ID}/a_144p.mp4")
CONTENT = bytes(range(256)) * 5000


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name for it
        """A test's output is no access log."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory and the URL under which a real server gives its files to anybody."""
    directory = tmp_path / "served"
    directory.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=directory)) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield directory, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The copy that the compressor kept aside."""
    path = tmp_path / "aside" / RENDITION.path
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(sqlite_url(str(tmp_path / "ledger.sqlite3")))) as database:
        migrate(database)
        yield database


@pytest.fixture
def upload(database: Database) -> Upload:
    """A rendition that the daemon has only just found."""
    found = Ledger(database, INSTANCE).enqueue(
        RENDITION.path,
        video_id=VIDEO_ID,
        filename="a.mp4",
        quality="144p",
        object_key=f"videos/{RENDITION.path}",
        identity=Identity(device=1, inode=2, size=len(CONTENT), mtime_ns=3),
    )
    assert found is not None
    return found


def test_one_byte_is_a_difference(served: tuple[Path, str], kept: Path) -> None:
    directory, url = served
    (directory / "object").write_bytes(CONTENT)
    assert fetch_and_compare(f"{url}/object", kept) is None
    for content in (CONTENT[:-1], CONTENT + b"!", b"!" + CONTENT[1:], CONTENT[:-1] + b"!", b""):
        (directory / "object").write_bytes(content)
        assert "differs" in (fetch_and_compare(f"{url}/object", kept) or "")


def test_what_cannot_be_fetched_or_compared_is_not_called_the_same(
    served: tuple[Path, str], kept: Path, tmp_path: Path
) -> None:
    directory, url = served
    (directory / "empty").write_bytes(b"")
    assert fetch_and_compare(f"{url}/empty", tmp_path / "nothing") == "no copy was kept aside"
    assert "404" in (fetch_and_compare(f"{url}/object", kept) or "")
    assert fetch_and_compare(kept.as_uri(), kept) == f"{kept.as_uri()} is not a public URL"


def test_an_upload_on_its_way_is_not_called_good_whatever_its_url_gives(
    database: Database, upload: Upload, served: tuple[Path, str], kept: Path, tmp_path: Path
) -> None:
    directory, url = served
    (directory / "object").write_bytes(CONTENT)
    catalog = OwnCatalog(database)
    catalog.announce(upload, local_url=f"{url}/object", public_url=f"{url}/elsewhere")
    places = {"completed": tmp_path / "completed", "aside": tmp_path / "aside"}
    [verdict] = judge([RENDITION], {upload.path: upload}, catalog, **places)
    assert verdict.problems[0] == "it is pending: no error is recorded"
    assert "released_at is not recorded" in verdict.problems
    [cells] = zip(*(column.cells for column in table_of([verdict]).columns), strict=True)
    assert "NOT AS IT SHOULD BE" in map(str, cells)


def test_what_nobody_knows_is_not_called_good(database: Database, kept: Path, tmp_path: Path) -> None:
    places = {"completed": tmp_path / "completed", "aside": tmp_path / "aside"}
    [verdict] = judge([RENDITION], {}, OwnCatalog(database), **places)
    assert verdict.problems == ("the ledger does not know it", "the catalog has 0 rows for it")
